"""Who chooses the cut of each picture: on line from the past alone, and two references.

    chosen = choose_online(found, cuts, demand, model)  # int [P]
    score(chosen, found, cuts)["energy_mj"]

A picture is released at one cut only, whatever becomes of it. After Tang et al. 2020 ("To cloud or
not to cloud", doi:10.1007/s42514-020-00052-7): deadline and privacy are constraints, energy is the
aim. Cuts that break the privacy limit never come here.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.scheduling.device_profile import CutProfile
from privynet_jax.scheduling.energy import EnergyModel
from privynet_jax.scheduling.simulation import Demand, Outcomes

ONLINE, FIXED, CLAIRVOYANT = "on line", "best fixed cut", "clairvoyant"
# In place of a cut: nothing is computed, and nothing sent.
SKIPPED = -1


@dataclasses.dataclass(frozen=True)
class Caution:
    """What the on-line policy expects: of its last observations a quantile on the bad side.

    By default that is the worst of the last two: over longer pasts it notices changes later, and
    one good moment in a bad stretch misleads whoever looks at the last alone. Without a past it
    counts on a device that is idle, and on no bandwidth.
    """

    remembered: int = 2
    quantile: float = 0.0

    def __post_init__(self) -> None:
        if self.remembered < 1:
            raise UserError(f"--remembered is {self.remembered}; allowed are 1 and more")
        if not 0 <= self.quantile <= 0.5:
            raise UserError(f"--quantile is {self.quantile}; allowed are 0 to 0.5")


def choose_fixed(found: Outcomes) -> np.ndarray:
    """Returns the best fixed cut in hindsight, int [P]: fewest misses, then least energy."""
    misses, energy = (~found.in_time).sum(axis=0), found.energy_mj.sum(axis=0)
    return np.full(len(found.arrivals), np.lexsort((energy, misses))[0])


def choose_clairvoyant(found: Outcomes) -> np.ndarray:
    """Returns the cut of least energy of those that keep the deadline, int [P], or `SKIPPED`.

    Nobody meets more deadlines, nor as many with less energy, as pictures never wait for others.
    """
    cheapest = np.where(found.in_time, found.energy_mj, np.inf).argmin(axis=1)
    return np.where(found.meetable, cheapest, SKIPPED)


def choose_online(
    found: Outcomes,
    cuts: Sequence[CutProfile],
    demand: Demand,
    model: EnergyModel,
    caution: Caution = Caution(),
) -> np.ndarray:
    """Returns the cut of each picture, int [P], each from what earlier ones observed alone.

    Of the cuts that are expected to keep the deadline it takes the one of least expected energy,
    and where there is none, the quickest: expectations are careful, and may be wrong.
    """
    local_s, local_mj, mbit = (
        np.array([getattr(cut, name) for cut in cuts]) for name in ("local_s", "local_mj", "mbit")
    )
    slowdowns = collections.deque([1.0], caution.remembered)
    speeds: collections.deque[float] = collections.deque(maxlen=caution.remembered)
    chosen = np.empty(len(found.arrivals), int)
    for picture in range(len(chosen)):
        local = local_s * np.quantile(slowdowns, 1 - caution.quantile)
        speed = np.quantile(speeds, caution.quantile) if speeds else 0.0
        if speed > 0:
            seconds = local + mbit / speed
            energy = local_mj + model.radio_mj(mbit, mbit / speed)
        else:  # that leaves the most time for the least to send
            seconds = np.where(local < demand.budget_s, demand.budget_s, local)
            energy = mbit
        fits = seconds <= demand.budget_s
        cut = np.where(fits, energy, np.inf).argmin() if fits.any() else seconds.argmin()
        chosen[picture] = cut
        slowdowns.append(found.slowdown[picture, cut])
        if not np.isnan(found.mbit_per_s[picture, cut]):
            speeds.append(found.mbit_per_s[picture, cut])
    return chosen


def score(
    chosen: np.ndarray, found: Outcomes, cuts: Sequence[CutProfile]
) -> dict[str, float | Mapping[str, float]]:
    """Returns what a choice of cuts, int [P], came to.

    Shares are of all pictures: "in_time"; "missed", which another cut would have answered in time;
    "unmeetable", which none would have; and "cuts", by name, of each that was chosen.
    "energy_mj" is per picture. "regret_mj" is the energy per picture beyond what the clairvoyant
    would have spent on those pictures that were in time: what misses cost is in it. "accuracy" is
    what is expected of those in time, NaN where there are none.
    """
    every, released = np.arange(len(chosen)), chosen != SKIPPED
    energy = np.where(released, found.energy_mj[every, chosen], 0.0)
    in_time = released & found.in_time[every, chosen]
    least = np.where(found.in_time, found.energy_mj, np.inf).min(axis=1)
    more = energy - np.where(in_time, least, 0.0)
    accuracies = np.array([cut.accuracy for cut in cuts])[chosen[in_time]]
    return {
        "energy_mj": float(energy.mean()),
        "in_time": float(in_time.mean()),
        "missed": float((found.meetable & ~in_time).mean()),
        "unmeetable": float((~found.meetable).mean()),
        "accuracy": float(accuracies.mean()) if in_time.any() else float("nan"),
        "regret_mj": float(more.mean()),
        "cuts": {
            name: float((chosen == index).mean())
            for index, name in [*enumerate(cut.name for cut in cuts), (SKIPPED, "skipped")]
            if (chosen == index).any()
        },
    }
