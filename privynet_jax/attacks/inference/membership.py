"""Membership inference: was an image in the training set of the cloud NN?

Whoever may ask the cloud NN for its logits, and holds candidates' representations and labels, tells
members from others by how sure the network is of the label. Three attacks, each a score per
candidate, larger for likelier members:

* loss: the log-probability of the label (Yeom et al. 2018, arXiv:1709.01604);
* offline LiRA (Carlini et al. 2022, arXiv:2112.03570): the same as a logit, against its
  distribution under shadow networks that never saw the candidate. Here it is a lower bound: the
  shadows learn from halves of the attacker's images, for proportionally fewer steps than the
  network under attack, so they are less trained than what they stand for;
* online LiRA: the likelihood ratio of shadow networks that saw the candidate and of those that did
  not; stronger, but it takes shadows trained on the candidates themselves.

    result = attack(members, others, own, num_classes, image_size, schedule, key)
    result["online LiRA"].tpr.value  # at a false positive rate of 1 %
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from privynet_jax.attacks.inference import classifiers, roc
from privynet_jax.errors import UserError
from privynet_jax.platform.row_views import JoinedRows
from privynet_jax.results.statistics import Interval
from privynet_jax.training.tasks import Schedule

LOSS, OFFLINE, ONLINE = METHODS = ("loss", "offline LiRA", "online LiRA")
CONTROL = "control, no member in training: "
FALSE_POSITIVES = 0.01


class Labelled(NamedTuple):
    """Representations float [N, h, w, D], or what reads their rows, with labels int [N]."""

    representations: Any
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Membership:
    """How well an attack tells members from others.

    Attributes:
        tpr: true positive rate at a false positive rate of `FALSE_POSITIVES`; by chance as much.
        auc: area under the ROC curve; 0.5 by chance.
    """

    tpr: Interval
    auc: Interval

    @classmethod
    def of_scores(cls, members: np.ndarray, others: np.ndarray) -> "Membership":
        """Summarises scores, [M] and [N]."""
        return cls(**roc.rates(members, others, FALSE_POSITIVES))


def attack(
    members: Labelled,
    others: Labelled,
    own: Labelled,
    num_classes: int,
    image_size: int,
    schedule: Schedule,
    key: jax.Array,
    *,
    shadows: int = 8,
    width: int = 64,
    progress: Callable[[float], Any] = lambda count: None,
) -> dict[str, Membership]:
    """Trains a cloud NN on the members, and attacks it.

    Args:
        members: what the cloud NN is trained on.
        others: of the same kind, which it is not trained on.
        own: the attacker's, disjoint from both; offline shadows learn from halves of it.
        num_classes: how many values a label may have.
        image_size: side of the images, in pixels.
        schedule: of the cloud NN; shadows see their examples as many times, so those that have
            fewer take fewer steps.
        key: of all that is random.
        shadows: networks per kind of LiRA; even.
        width: channels of the networks.
        progress: told about finished networks; there are `networks(shadows)`.

    Returns:
        Attack -> what it reaches; and `CONTROL` + attack -> the same attack on a network trained
        as long on the attacker's own data, which saw no candidate at all. What a control exceeds
        0.5 (or falls short of it) by comes from members and others being different pictures, not
        from membership: only what an attack reaches beyond its control is leakage.

    Raises:
        UserError: the number of shadows is odd, or training diverged.
    """
    if shadows < 2 or shadows % 2:
        raise UserError(f"{shadows} shadow networks; allowed are even numbers from 2; give one")
    pool = joined(members, others)
    count = len(members.labels)
    keys = jax.random.split(key, 6)

    def confidences(
        data: Labelled, subsets: list[np.ndarray], stream: jax.Array, share: float | None = None
    ) -> np.ndarray:
        size = sum(map(len, subsets)) / len(subsets)
        steps = max(1, round(schedule.steps * (share or size / count)))
        trained = classifiers.train(
            *data,
            subsets,
            num_classes,
            image_size,
            dataclasses.replace(schedule, steps=steps),
            stream,
            width=width,
            progress=progress,
        )
        return np.stack([confidence(z, pool.labels) for z in trained.logits(pool.representations)])

    [target] = confidences(members, [np.arange(count)], keys[0])
    everything = [np.arange(len(own.labels))]
    [innocent] = confidences(own, everything, keys[5], share=1.0)
    inside = balanced_halves(shadows, len(pool.labels), keys[1])
    online = confidences(pool, [np.flatnonzero(row) for row in inside], keys[2])
    halves = balanced_halves(shadows, len(own.labels), keys[3])
    offline = confidences(own, [np.flatnonzero(row) for row in halves], keys[4])
    found = {}
    for title, asked in (("", target), (CONTROL, innocent)):
        scores = {
            LOSS: asked,  # ranks as the probability does
            OFFLINE: offline_lira(asked, offline),
            ONLINE: online_lira(asked, online, inside),
        }
        for name in METHODS:
            of_members, of_others = np.split(scores[name], [count])
            found[title + name] = Membership.of_scores(of_members, of_others)
    return found


def joined(first: Labelled, second: Labelled) -> Labelled:
    """Returns the one after the other, without a copy of their representations."""
    representations = JoinedRows(first.representations, second.representations)
    return Labelled(representations, np.concatenate([first.labels, second.labels]))


def networks(shadows: int) -> int:
    """Returns how many networks `attack` trains."""
    return 2 + 2 * shadows


def confidence(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns float64 [N], the logit log(p / (1 - p)) of each label's probability p.

    Args:
        logits: float [N, classes].
        labels: int [N].
    """
    z = np.array(logits, np.float64)  # always a copy: it is written to
    rows = np.arange(len(z))
    own = z[rows, labels]
    z[rows, labels] = -np.inf
    # Of logits, not of probabilities: those of a sure network round to 1.
    return own - np.logaddexp.reduce(z, axis=1)


def offline_lira(target: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Returns float64 [N]: standard deviations by which a network is surer than shadows are.

    Args:
        target: confidences [N] of the network under attack.
        outside: [shadows, N], of networks that saw none of the candidates.
    """
    means = outside.mean(axis=0)
    return (target - means) / _spread(outside - means, len(outside))


def online_lira(target: np.ndarray, shadows: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Returns float64 [N], the log of the likelihood ratio of member to other.

    Both distributions are normal, with a mean per candidate and a variance in common to all: the
    choice of Carlini et al. for few shadows, where a candidate's own variance is mostly noise.

    Args:
        target: confidences [N] of the network under attack.
        shadows: [shadows, N].
        inside: bool [shadows, N], whether a shadow was trained on a candidate; at least one was,
            and one was not.
    """
    log_likelihoods = []
    for chosen in (inside, ~inside):
        counts = chosen.sum(axis=0)
        means = np.where(chosen, shadows, 0).sum(axis=0) / counts
        spread = _spread((shadows - means)[chosen], counts.mean())
        log_likelihoods.append(-0.5 * ((target - means) / spread) ** 2 - np.log(spread))
    return log_likelihoods[0] - log_likelihoods[1]


def balanced_halves(count: int, size: int, key: jax.Array) -> np.ndarray:
    """Returns bool [count, size]: each column is true in a random half of the rows."""
    stream = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    order = stream.permuted(np.tile(np.arange(count)[:, None], (1, size)), axis=0)
    return order < count // 2


def _spread(deviations: np.ndarray, each: float) -> float:
    """Standard deviation from deviations of means that `each` values determined."""
    freedom = deviations.size * max(1 - 1 / each, 1e-3)
    return float(np.sqrt(np.sum(np.square(deviations)) / freedom)) or 1.0
