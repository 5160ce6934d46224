"""Membership inference: was an image in the training set of the cloud NN?

Whoever may ask the cloud NN for its logits, and holds candidates' representations and labels, tells
members from others by how sure the network is of the label. All networks are trained as the cloud
trains on a release (`ReleaseTraining`): some rows of each class are held out, and choose the moment
that is kept. Those are neither members nor others. Attacks are a score per candidate, larger for
likelier members:

* loss: the log-probability of the label (Yeom et al. 2018, arXiv:1709.01604);
* offline LiRA (Carlini et al. 2022, arXiv:2112.03570): the same as a logit, against its
  distribution under shadow networks that never saw the candidate. A lower bound: the shadows learn
  from halves of the attacker's images, for proportionally fewer steps;
* online LiRA: the likelihood ratio of shadow networks that saw the candidate and of those that did
  not; stronger, but it takes shadows trained on the candidates themselves;
* offline and online RMIA (Zarifzadeh et al. 2024, arXiv:2312.03262), on the same shadows: the
  label's probability against its mean, which needs fewer of them.

    result = attack(candidates, groups, own, network, ReleaseTraining(), key)
    result["online LiRA"].tpr.value  # at a false positive rate of 1 %
"""

import functools
from collections.abc import Sequence

import jax
import numpy as np
import scipy

from privynet_jax.attacks.inference.classifiers import Labelled, checked, logits_of
from privynet_jax.attacks.inference.rates import Rates, rates
from privynet_jax.errors import UserError
from privynet_jax.platform.rows.row_views import JoinedRows
from privynet_jax.training.batches import stream_of
from privynet_jax.training.courses.release_training import ReleaseTraining
from privynet_jax.training.models.networks import CloudNN
from privynet_jax.training.tasks import cloud_task
from privynet_jax.training.trainer import train

LOSS, OFFLINE, ONLINE = ("loss", "offline LiRA", "online LiRA")
OFFLINE_RMIA, ONLINE_RMIA = ("offline RMIA", "online RMIA")
CONTROL = "control, no member in training: "
FALSE_POSITIVES = 0.01
# Of offline RMIA: how steeply a probability rises with that of networks that saw no candidate. Its
# authors choose it per data set; this is our choice for all.
_RMIA_SLOPE = 0.3


def attack(
    candidates: Labelled,
    groups: np.ndarray,
    own: Labelled,
    network: CloudNN,
    training: ReleaseTraining,
    key: jax.Array,
    *,
    shadows: int = 8,
) -> dict[str, Rates]:
    """Trains a cloud NN on half of the candidates, and attacks it; see `networks` for how many.

    A coin decides who is a member, by whole groups, int [N], whose images overlap: members and
    others then differ in membership alone. The attacker's own are disjoint from both; offline
    shadows learn from halves of them, online ones from halves of the candidates. There are so many
    of each, an even number; those with fewer examples than the cloud NN take proportionally fewer
    steps of its schedule. Which rows are held out is dealt once for all networks: candidates that
    some network learns from, none is judged by.

    Returns attack -> what it reaches, the TPR at an FPR of `FALSE_POSITIVES`; and `CONTROL` +
    attack -> the same attack on a network trained as long on the attacker's own data, which is
    chance but for who the coin chose.

    Raises:
        UserError: the number of shadows is odd, groups or images are too few, or training diverged.
    """
    if shadows < 2 or shadows % 2:
        raise UserError(f"{shadows} shadow networks; allowed are even numbers from 2; give one")
    everybody = joined(candidates, own)
    known, theirs = np.split(np.arange(len(everybody.labels)), [len(candidates.labels)])
    dealing, key = jax.random.split(key)
    coin, stream, online_half, online_key, offline_half, offline_key = jax.random.split(key, 6)
    is_member = half_of_groups(candidates.labels, groups, coin)
    halves = _halves_of_groups(shadows, groups, online_half)
    is_learnt = _learnt([candidates.labels, own.labels], training, dealing)
    scored = known[is_learnt[known]]
    asking = functools.partial(_confidences, network, everybody, is_learnt, scored)

    def of_shadows(own_halves: np.ndarray, rows: np.ndarray, stream: jax.Array) -> np.ndarray:
        lasting = training.longer(len(rows) / 2 / is_member.sum())
        return asking(lasting, [rows[half] for half in own_halves], stream)

    attacked = asking(training, [known[is_member], theirs], stream)
    online = of_shadows(halves, known, online_key)
    offline = of_shadows(balanced_halves(shadows, len(theirs), offline_half), theirs, offline_key)
    sides, clusters, inside = is_member[scored], groups[scored], halves[:, scored]
    return {
        title + name: rates(
            score[sides], score[~sides], FALSE_POSITIVES, (clusters[sides], clusters[~sides])
        )
        for title, asked in zip(("", CONTROL), attacked, strict=True)
        for name, score in _scores(asked, offline, online, inside).items()
    }


def _confidences(
    network: CloudNN,
    data: Labelled,
    is_learnt: np.ndarray,
    scored: np.ndarray,
    training: ReleaseTraining,
    releases: Sequence[np.ndarray],
    key: jax.Array,
) -> np.ndarray:
    """Trains a network on each release, int [n] rows of the data, of which some are held out.

    Returns how sure each is of the labels of rows, float64 [releases, scored].
    """
    labels = np.asarray(data.labels, np.int32)
    members = []
    for index, rows in enumerate(releases):
        own_key, held_out = jax.random.fold_in(key, index), ~is_learnt[rows]
        if held_out.all():
            raise UserError("a network would learn from no image; give more images")
        given = data.representations, labels, rows[~held_out], rows[held_out]
        members.append(training.member(own_key, *given))
    trained = checked(train(cloud_task(network), members, training.course))
    logits = logits_of(trained, network, data.representations, scored)
    return np.stack([confidence(z, labels[scored]) for z in logits])


def _scores(
    asked: np.ndarray, offline: np.ndarray, online: np.ndarray, inside: np.ndarray
) -> dict[str, np.ndarray]:
    """Every attack's score per candidate, of confidences [N] and shadows' [shadows, N]."""
    return {
        LOSS: asked,  # ranks as the probability does
        OFFLINE: offline_lira(asked, offline),
        ONLINE: online_lira(asked, online, inside),
        OFFLINE_RMIA: offline_rmia(asked, offline),
        ONLINE_RMIA: online_rmia(asked, online),
    }


def _learnt(several: Sequence[np.ndarray], training: ReleaseTraining, key: jax.Array) -> np.ndarray:
    """Bool [N] of labels one after the other: who is learnt from, and not held out."""
    seed = int(stream_of(key).integers(2**32))
    is_learnt = [np.zeros(len(labels), bool) for labels in several]
    for each, labels in zip(is_learnt, several, strict=True):
        each[training.dealt(labels, seed)[0]] = True
    return np.concatenate(is_learnt)


def half_of_groups(labels: np.ndarray, groups: np.ndarray, key: jax.Array) -> np.ndarray:
    """Returns bool [N]: who belongs to a random half of the groups, in each class as in all.

    Which half that is, a coin decides: no side is larger, or has more of a class, on average.
    """
    names, firsts, group = np.unique(groups, return_index=True, return_inverse=True)
    stream = stream_of(key)
    order = stream.permutation(len(names))
    order = order[np.argsort(labels[firsts[order]], kind="stable")]
    is_chosen = np.empty(len(names), bool)
    is_chosen[order] = (np.arange(len(names)) + stream.integers(2)) % 2 == 0
    return is_chosen[group]


def joined(first: Labelled, second: Labelled) -> Labelled:
    """Returns the one after the other, without a copy of their representations."""
    representations = JoinedRows(first.representations, second.representations)
    return Labelled(representations, np.concatenate([first.labels, second.labels]))


def networks(shadows: int) -> int:
    """Returns how many networks `attack` trains."""
    return 2 + 2 * shadows


def confidence(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns float64 [N], the logit log(p / (1 - p)) of each label's probability p.

    From logits float [N, classes] and labels int [N].
    """
    z = np.array(logits, np.float64)  # always a copy: it is written to
    rows = np.arange(len(z))
    own = z[rows, labels]
    z[rows, labels] = -np.inf
    # Of logits, not of probabilities: those of a sure network round to 1.
    return own - np.logaddexp.reduce(z, axis=1)


def offline_lira(target: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Returns float64 [N]: standard deviations by which a network is surer than shadows are.

    Of the network's confidences [N], and those [shadows, N] of networks that saw no candidate.
    """
    means = outside.mean(axis=0)
    return (target - means) / _spread(outside - means, len(outside))


def online_lira(target: np.ndarray, shadows: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Returns float64 [N], the log of the likelihood ratio of member to other.

    Both distributions are normal, with a mean per candidate and a variance in common to all: the
    choice of Carlini et al. for few shadows, where a candidate's own variance is mostly noise.
    `inside`, bool [shadows, N], says whether a shadow was trained on a candidate; some were.
    """
    log_likelihoods = []
    for chosen in (inside, ~inside):
        counts = chosen.sum(axis=0)
        means = np.where(chosen, shadows, 0).sum(axis=0) / counts
        spread = _spread((shadows - means)[chosen], counts.mean())
        log_likelihoods.append(-0.5 * ((target - means) / spread) ** 2 - np.log(spread))
    return log_likelihoods[0] - log_likelihoods[1]


def online_rmia(target: np.ndarray, shadows: np.ndarray) -> np.ndarray:
    """Returns float64 [N], log p(x | network) / p(x), by RMIA (Zarifzadeh et al. 2024).

    arXiv:2312.03262: p(x) is the mean over shadows, half of which saw x. Their
    score is the share of other pictures z whose ratio is below this one; of a single network it
    grows with the ratio alone, so both rank alike and no z are needed.

    Of confidences [N] and [shadows, N], as `confidence` gives them.
    """
    return _log_probability(target) - np.log(scipy.special.expit(shadows).mean(axis=0))


def offline_rmia(target: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Returns float64 [N], as `online_rmia`, of shadows that saw no candidate.

    What a network that saw x would answer is taken to be linear in what these answer.
    """
    out = scipy.special.expit(outside).mean(axis=0)
    mean = ((1 + _RMIA_SLOPE) * out + 1 - _RMIA_SLOPE) / 2
    return _log_probability(target) - np.log(mean)


def _log_probability(confidences: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0, -confidences)


def balanced_halves(count: int, size: int, key: jax.Array) -> np.ndarray:
    """Returns bool [count, size]: each column is true in a random half of the rows."""
    order = stream_of(key).permuted(np.tile(np.arange(count)[:, None], (1, size)), axis=0)
    return order < count // 2


def _halves_of_groups(count: int, groups: np.ndarray, key: jax.Array) -> np.ndarray:
    """Bool [count, N], balanced halves of whole groups, which leave no row without any."""
    names, group = np.unique(groups, return_inverse=True)
    halves = balanced_halves(count, len(names), key)
    if not halves.any(axis=1).all():
        raise UserError(
            f"{len(names)} groups of images that overlap leave some of {count} shadow networks "
            "nothing to learn from; give more images, or leave membership out"
        )
    return halves[:, group]


def _spread(deviations: np.ndarray, each: float) -> float:
    """Standard deviation from deviations of means that `each` values determined."""
    freedom = deviations.size * max(1 - 1 / each, 1e-3)
    return float(np.sqrt(np.sum(np.square(deviations)) / freedom)) or 1.0
