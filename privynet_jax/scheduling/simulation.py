"""What becomes of every picture at every cut, under a trace's true conditions.

    found = simulate(trace, cuts, Demand(every_s=1.0, deadline_s=0.2), model)
    found.in_time[3, 0], found.energy_mj[3, 0]  # of picture 3 at the first cut

A picture first passes the layers on the device, slowed down by the load, then its release is
uploaded, as fast as the bandwidth is at that moment; both follow the trace while they go on. An
answer that comes late is of no use, so a picture is given up at its deadline, and what it cost
until then counts. Where there is no bandwidth there is no connection, and no radio that sends.
Pictures come no faster than their deadline, so none ever waits for another.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.scheduling.device_profile import CutProfile
from privynet_jax.scheduling.energy import EnergyModel
from privynet_jax.scheduling.traces import Amount, Trace

_MOST_PICTURES = 1_000_000
# Sums along a trace are rounded: an upload whose last bit fits is in time.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Demand:
    """When pictures come, and when their answers must be there.

    Attributes:
        every_s: seconds from one picture to the next.
        deadline_s: seconds from a picture to its answer.
        round_trip_s: of the network, without the time that bytes take.
        cloud_s: of the cloud NN.

    Raises:
        UserError: one is out of range, or nothing is left for the device.
    """

    every_s: float
    deadline_s: float
    round_trip_s: float = 0.0
    cloud_s: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= value < math.inf for value in dataclasses.astuple(self)):
            raise UserError(f"{self.told()}; allowed are 0 and more")
        if self.deadline_s > self.every_s:
            raise UserError(
                f"{self.told()}: pictures would wait for one another, which is not modelled; let "
                "--every_ms be at least --deadline_ms"
            )
        if self.budget_s <= 0:
            raise UserError(
                f"{self.told()}: nothing is left for the device; give a longer --deadline_ms"
            )

    @property
    def budget_s(self) -> float:
        """Seconds that device and upload have."""
        return self.deadline_s - self.round_trip_s - self.cloud_s

    def told(self) -> str:
        """Returns it in the words of its flags."""
        values = {
            "deadline_ms": self.deadline_s,
            "every_ms": self.every_s,
            "round_trip_ms": self.round_trip_s,
            "cloud_ms": self.cloud_s,
        }
        return ", ".join(f"--{name} is {1e3 * value:g}" for name, value in values.items())


@dataclasses.dataclass(frozen=True, eq=False)
class Outcomes:
    """Of P pictures at C cuts, each [P, C]; what is observed is all that a device learns.

    Attributes:
        arrivals: seconds, float64 [P].
        in_time: whether the answer is there by the deadline.
        energy_mj: until the upload's end or the deadline.
        slowdown: observed while the device computed.
        mbit_per_s: observed during the upload; NaN where there was no time for any.
    """

    arrivals: np.ndarray
    in_time: np.ndarray
    energy_mj: np.ndarray
    slowdown: np.ndarray
    mbit_per_s: np.ndarray

    @property
    def meetable(self) -> np.ndarray:
        """Which pictures some cut answers in time, bool [P]."""
        return self.in_time.any(axis=1)


def simulate(
    trace: Trace, cuts: Sequence[CutProfile], demand: Demand, model: EnergyModel
) -> Outcomes:
    """Returns what becomes of each picture of a trace at each cut.

    Raises:
        UserError: there are more pictures than fit into memory.
    """
    count = int(trace.seconds[-1] / demand.every_s) + 1
    if count * len(cuts) > _MOST_PICTURES:
        raise UserError(
            f"trace {trace.name} has {count} pictures at {len(cuts)} cuts; allowed are "
            f"{_MOST_PICTURES} in all; give a larger --every_ms, or a shorter trace"
        )
    arrivals = demand.every_s * np.arange(count)
    begun, given_up = arrivals[:, None], arrivals[:, None] + demand.budget_s
    local_s, local_mj, mbit = (
        np.array([getattr(cut, name) for cut in cuts]) for name in ("local_s", "local_mj", "mbit")
    )
    work = Amount(trace.seconds, 1 / trace.slowdown)
    computed = work.until(work.at(begun) + local_s)
    stopped = np.minimum(computed, given_up)
    progress = work.at(stopped) - work.at(begun)
    upload = Amount(trace.seconds, trace.mbit_per_s)
    sent = np.minimum(upload.at(given_up) - upload.at(stopped), mbit)
    in_time = (computed <= given_up) & (sent >= mbit * (1 - _ROUNDING))
    finished = np.where(in_time, upload.until(upload.at(stopped) + sent), given_up)
    upload_s = np.clip(finished - stopped, 0, None)
    connected = Amount(trace.seconds, (trace.mbit_per_s > 0).astype(float))
    sending_s = np.clip(connected.at(finished) - connected.at(stopped), 0, upload_s)
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = np.where(upload_s > 0, sent / upload_s, np.nan)
    return Outcomes(
        arrivals=arrivals,
        in_time=in_time,
        energy_mj=local_mj * np.minimum(1, progress / local_s) + model.radio_mj(sent, sending_s),
        slowdown=(stopped - begun) / progress,
        mbit_per_s=observed,
    )
