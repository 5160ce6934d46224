"""What a drawn subset gives away, measured on the sample before a plan is written.

Expectations are of other pictures, other draws and attackers with pairs. So the very channels that
a plan would release are attacked by class `public`, which needs nothing secret. It is scored on
some pictures of the sample, and owns all others: pictures of the same kind, as in an audit. Beside
many public pictures of another kind it would be misled by their statistics. The release that it
sees has both: one of few pictures would tell it less of channels than what devices hand over.
Under a mechanism, through which nobody guesses channels, the attacker knows them (`informed`): no
weaker than one who would find them.

    meter = DrawMeter(weights, sample, attack, attacked_images=64, seed=0)
    meter.measure(topology, "mean")  # {"psnr_db": 27.3, "ssim": 0.81}
"""

import dataclasses
import functools
import math

import jax
import numpy as np

from privynet_jax.attacks.base import (
    EVERYTHING,
    Attack,
    Knowledge,
    Pairs,
    Representing,
    compiled,
    scaled,
)
from privynet_jax.attacks.scenario import answered, public_knowledge
from privynet_jax.backbone.features.extraction import normalisation
from privynet_jax.backbone.split import local_nn
from privynet_jax.backbone.topology import Topology
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.errors import UserError
from privynet_jax.images.partition import detail, evenly_spread
from privynet_jax.images.parts import as_float
from privynet_jax.images.sample import Sample
from privynet_jax.mechanisms.mechanism import Mechanism, Plain
from privynet_jax.mechanisms.release_functions import expected_release, release_by_content
from privynet_jax.platform.devices import on_cpu
from privynet_jax.results.statistics import CONFIDENCE, quantile_bound, summarise
from privynet_jax.training.session import current_session, session

# Statistic -> the share of pictures that it bounds.
SHARES = {"p95": 0.95, "p99": 0.99}
_METRICS = ("psnr_db", "ssim")
_AT_ONCE = 32
# Images that a release holds, as far as there are so many.
_SEEN = 256
# Images whose mean is what releases are divided by.
_OF_UNIT = 256
# Of the time that a measurement takes.
_FITTING = 0.7


@dataclasses.dataclass(frozen=True, eq=False)
class DrawMeter:
    """Attacks topologies on one sample.

    Attributes:
        weights: of the network that is split.
        sample: the user's own pictures.
        attack: of knowledge `NETWORK`, or `EVERYTHING`.
        attacked_images: that are scored, at most half of each class, and of each group of copies
            one; 1 or more.
        seed: of the attack's key, and of the release's.
        mechanism: what devices do besides.
    """

    weights: PretrainedWeights
    sample: Sample
    attack: Attack
    attacked_images: int
    seed: int
    mechanism: Mechanism = Plain()  # noqa: RUF009 - frozen

    @property
    def images(self) -> int:
        """How many pictures are scored."""
        return len(self._scored)

    def check(self, statistic: str) -> None:
        """Raises UserError where too few pictures are scored for a statistic, or owned."""
        needed, own = getattr(self.attack, "least_pairs", 1), len(self._owned)
        if own < needed:
            raise UserError(
                f"the attack {self.attack.name} has what is not attacked of the sample's "
                f"{len(self.sample)} pictures, {own}; it takes {needed}; give more pictures "
                f"({2 * needed} in the sample), or --attacked_images=0"
            )
        if self.images < (least := least_images(statistic)):
            raise UserError(
                f"{self.images} pictures of the sample are attacked, half of its "
                f"{len(self.sample)} at most, and the statistic {statistic} needs {least}; give "
                f"more pictures ({2 * least} in the sample, --attacked_images={least}), or the "
                "statistic mean"
            )

    def measure(self, topology: Topology, statistic: str) -> dict[str, float]:
        """Returns the privacy loss of each metric, by a statistic of `plan.STATISTICS`.

        Percentiles are `statistics.quantile_bound`. Errors are those of `check` and of the attack;
        DivergedError where it has no answer.
        """
        self.check(statistic)
        scored, own = (self.sample.images[rows] for rows in (self._scored, self._owned))
        key, progress = jax.random.key(self.seed), current_session().progress
        released = np.concatenate([scored, own])[: max(_SEEN, len(scored))]
        release, known = self._released(released, topology, jax.random.fold_in(key, 1))
        pairs = Pairs(release[:0], own)
        with session(progress=lambda share: progress(_FITTING * share)):
            [fitted] = self.attack.fit([pairs], [known], [key])
        found: dict[str, list[np.ndarray]] = {metric: [] for metric in _METRICS}
        for start in range(0, len(scored), _AT_ONCE):
            rows = slice(start, min(start + _AT_ONCE, len(scored)))
            _, values = answered(fitted, release[rows], scored[rows])
            for metric in _METRICS:
                found[metric].append(values[metric])
            progress((1 - _FITTING) * len(scored[rows]) / len(scored))
        return {m: _statistic(np.concatenate(values), statistic) for m, values in found.items()}

    @functools.cached_property
    def _groups(self) -> np.ndarray:
        """Which pictures of the sample are copies of each other, int [N]."""
        groups = self.sample.groups
        return np.arange(len(self.sample)) if groups is None else groups

    @functools.cached_property
    def _scored(self) -> np.ndarray:
        """Rows of the sample that are scored, ascending.

        Of each class half at most; and copies of a picture would pass for more evidence.
        """
        firsts = np.unique(self._groups, return_index=True)[1]
        labels, images = self.sample.labels[firsts], self.sample.images[firsts]
        few = max(0, self.attacked_images)
        return np.sort(firsts[evenly_spread(labels, detail(images), few, share=0.5)])

    @functools.cached_property
    def _owned(self) -> np.ndarray:
        """Rows that the attacker owns, ascending: all but the scored ones and their copies."""
        return np.flatnonzero(~np.isin(self._groups, self._groups[self._scored]))

    def _released(
        self, images: np.ndarray, topology: Topology, key: jax.Array
    ) -> tuple[np.ndarray, Knowledge]:
        """What is released of images, and what the attacker knows besides."""
        scales, _ = normalisation(self.weights, self.sample.images, topology)
        # White boxes differentiate it.
        whole = local_nn(self.weights.params, topology, tiled=on_cpu())
        local, mechanism = scaled(whole, scales), self.mechanism
        if mechanism == Plain():
            release = _in_batches(local, images)
            return release, public_knowledge(self.weights, topology, release)
        own, theirs = jax.random.split(key)
        release = _in_batches(release_by_content(local, mechanism, own), images)
        unit = rms_of(release)
        made = release_by_content(local, mechanism, theirs, unit)
        expected = expected_release(local, mechanism, unit)
        return release / unit, Knowledge(EVERYTHING, local=expected, made=made)


def least_images(statistic: str) -> int:
    """Returns how many pictures must be attacked for a statistic of `plan.STATISTICS`."""
    share = SHARES.get(statistic, 0.0)
    # Of fewer, even the largest bounds no such share with that confidence.
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(share)) if share else 1


def released_unit(
    weights: PretrainedWeights, images: np.ndarray, topology: Topology, mechanism: Mechanism
) -> float:
    """Returns what is released of images uint8 [N, H, W, 3] is divided by, to be about 1."""
    if mechanism == Plain():
        return 1.0
    scales, _ = normalisation(weights, images, topology)
    whole = local_nn(weights.params, topology)
    key = jax.random.key(0)  # of a mean over so many numbers, which one makes no difference
    release = release_by_content(scaled(whole, scales), mechanism, key)
    return rms_of(_in_batches(release, images[:_OF_UNIT]))


def rms_of(x: np.ndarray) -> float:
    """Returns the root mean square; 1 where all is zero."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) or 1.0


def _in_batches(represent: Representing, images: np.ndarray) -> np.ndarray:
    run = compiled(represent)
    batches = (images[i : i + _AT_ONCE] for i in range(0, len(images), _AT_ONCE))
    return np.concatenate([run(as_float(batch)) for batch in batches])


def _statistic(values: np.ndarray, statistic: str) -> float:
    if statistic in SHARES:
        return quantile_bound(values, SHARES[statistic])
    return getattr(summarise(values), statistic)
