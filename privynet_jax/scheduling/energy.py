"""What a picture costs a device in energy: modelled from published figures, not measured.

    model = EnergyModel(RADIOS["lte"])
    model.local_mj(macs=10_000_000, weight_bytes=100_000)  # mJ, of the layers on the device
    model.radio_mj(mbit=0.5, seconds=0.1)  # mJ, of the upload

Multiply-accumulates and memory are of Horowitz, "Computing's energy problem (and what we can do
about it)", ISSCC 2014, doi:10.1109/ISSCC.2014.6757323, for 45 nm at 0.9 V: a float32 product
3.7 pJ, a sum 0.9 pJ, and 10 pJ for 64 bits from a cache of 8 KiB; DRAM at 640 pJ for 32 bits is as
Han et al. have it of him (EIE, arXiv:1602.01528). What a processor spends on instructions is left
out, so general ones take several times that; whoever has measured a device gives its own figure.

Radios are of Huang et al., "A close examination of performance and power characteristics of 4G LTE
networks", MobiSys 2012, doi:10.1145/2307636.2307658: while data is sent, a phone's radio draws
alpha * throughput + beta. The tail after a transfer, and waiting for the answer, are left out: they
are the same whatever the cut. So is the search for a network where there is none.
"""

import dataclasses
import math
from collections.abc import Mapping

from privynet_jax.errors import UserError

# A float32 product and sum, and both factors from a small cache.
PJ_PER_MAC = 3.7 + 0.9 + 2 * 5.0
# Weights do not stay in caches from picture to picture.
PJ_PER_WEIGHT_BYTE = 640 / 4
_MJ_PER_PJ = 1e-9


@dataclasses.dataclass(frozen=True)
class Radio:
    """What a radio draws while it sends: so much per Mbit/s, and so much at any speed."""

    mw_per_mbit_s: float
    base_mw: float


# Uplink, of Huang et al., table 4: phones of 2012.
RADIOS: Mapping[str, Radio] = {
    "lte": Radio(438.39, 1288.04),
    "3g": Radio(868.98, 817.88),
    "wifi": Radio(283.17, 132.86),
}


@dataclasses.dataclass(frozen=True)
class EnergyModel:
    """Energy of a device; UserError where a figure is negative or not finite."""

    radio: Radio
    pj_per_mac: float = PJ_PER_MAC
    pj_per_weight_byte: float = PJ_PER_WEIGHT_BYTE

    def __post_init__(self) -> None:
        figures = {**dataclasses.asdict(self), **dataclasses.asdict(self.radio)}
        del figures["radio"]
        for name, value in figures.items():
            if not 0 <= value < math.inf:
                raise UserError(f"--{name} is {value}; allowed are 0 and more")

    def local_mj(self, macs: float, weight_bytes: float) -> float:
        """Returns mJ of the layers on the device: each weight is read from DRAM once a picture."""
        return _MJ_PER_PJ * (self.pj_per_mac * macs + self.pj_per_weight_byte * weight_bytes)

    def radio_mj(self, mbit: float, seconds: float) -> float:
        """Returns mJ of sending so much in so long; arrays give arrays."""
        return self.radio.mw_per_mbit_s * mbit + self.radio.base_mw * seconds

    def told(self) -> str:
        """Returns in words what energies rest on."""
        return (
            f"Energy is modelled, not measured: {self.pj_per_mac:g} pJ per multiply-accumulate and "
            f"{self.pj_per_weight_byte:g} pJ per byte of weights (Horowitz 2014, without "
            f"instructions), {self.radio.mw_per_mbit_s:g} mW per Mbit/s and "
            f"{self.radio.base_mw:g} mW while sending (Huang et al. 2012), unless flags say others."
        )
