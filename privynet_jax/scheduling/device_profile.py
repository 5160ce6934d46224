"""What each cut takes of a device: time, energy and bytes of one picture; and what it is worth.

`options` says what a characterisation lets one expect of a cut, a meter how long the device takes
(measured there, see `results.latencies`), `energy` what that costs.

    cuts = [profile_of(option, latency_ms, model, image_size=32) for option in kept]
    cuts[0].name  # "4:16": layers that run on the device, and released channels
"""

import dataclasses

import numpy as np

from privynet_jax.backbone.topology import local_cost
from privynet_jax.planning.options import Option
from privynet_jax.scheduling.energy import EnergyModel


@dataclasses.dataclass(frozen=True)
class CutProfile:
    """One cut, on one device, for one picture.

    Attributes:
        num_layers: that run on the device.
        depth: released channels.
        local_s: seconds on the device when nothing else runs there.
        local_mj: energy of that, modelled; the same however long others make it take.
        mbit: of the release.
        accuracy: expected, balanced, of the cloud NN.
        loss_db: expected privacy loss as PSNR, by the limit's statistic.
    """

    num_layers: int
    depth: int
    local_s: float
    local_mj: float
    mbit: float
    accuracy: float
    loss_db: float

    @property
    def name(self) -> str:
        """Layers and channels, for tables."""
        return f"{self.num_layers}:{self.depth}"


def profile_of(
    option: Option,
    latency_ms: float,
    model: EnergyModel,
    image_size: int,
    *,
    dtype: str = "float32",
) -> CutProfile:
    """Returns the profile of an option on a device that takes so long for one picture.

    Images are `image_size` pixels high and wide; `dtype` is how a release stores values.
    """
    topology = option.topology(range(option.depth))
    cost = local_cost(topology, image_size)
    values = np.prod(topology.representation_shape(image_size))
    return CutProfile(
        num_layers=option.num_layers,
        depth=option.depth,
        local_s=latency_ms / 1e3,
        local_mj=model.local_mj(cost.macs, cost.param_bytes),
        mbit=float(values) * np.dtype(dtype).itemsize * 8 / 1e6,
        accuracy=option.expected.balanced_accuracy.value,
        loss_db=option.expected.psnr_db.value,
    )
