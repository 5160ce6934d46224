"""Accuracy and privacy loss of any subset of a layer's channels, in closed form, in milliseconds.

For choosing channels, not for quoting: a cloud NN and an attacker that are trained do far better,
but rank subsets of one depth alike (experiments/RESULTS.md has the figures). Both estimates are
linear and come from one Gram matrix per layer each:

* a linear classifier of means and deviations over a grid of fields of each channel, fitted on
  target images; its log-likelihood on auxiliary images;
* the linear attack (`linear_attack`), fitted on most auxiliary images; its PSNR on the rest.

    scorer = SubsetScorer(layer, parts, most_channels=16)
    scorer([np.array([0, 3, 5])]).psnr_db

Where the linear attack finds nothing left to rebuild, a trained attacker still does:
`AmortisedPsnr` is one that needs no training per subset.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # finds its own parts when they are used

from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.estimates.amortised import LayerData
from privynet_jax.estimates.linear_probe import unit_scale
from privynet_jax.estimates.subsets import Subset, linear_statistics, prepare, stacked
from privynet_jax.images.partition import hold_out, spread_over_classes
from privynet_jax.images.parts import Parts
from privynet_jax.platform.devices import data_parallel
from privynet_jax.training.models import linear_attack
from privynet_jax.training.steps import as_targets, outputs_of
from privynet_jax.training.tasks import Task

# Fields per side at most: finer ones tell no more of a class.
_SIDE = 4
# Numbers of all channels in the classifier's Gram matrix, at most; else there are fewer fields.
_MOST_NUMBERS = 8192
# Ridges, relative to the mean diagonal of the Gram matrix.
_CLASSIFIER_RIDGE, _ATTACK_RIDGE = 1e-2, 1e-4
# Scores are about probabilities; as logits they are worth about so much.
_WORTH = 10.0
# Auxiliary images on which the classifier is judged, spread over classes.
_JUDGED = 1024
# Positions per unknown of a subset that enter the attack's Gram matrix.
_POSITIONS_PER_UNKNOWN = 512
_BATCH = 128
# Target images that are attacked, spread over classes: the attacker learnt from auxiliary ones.
_ATTACKED = 48
# Subsets scored at once by each device.
_AT_ONCE = 8


class Estimates(NamedTuple):
    """What subsets are estimated to be worth.

    The PSNR is that of the linear attack, by its mean squared error; and of another attacker if
    there is one, mean over images.
    """

    log_likelihood: np.ndarray  # float64 [N], of the right class, mean over images, in nats
    psnr_db: np.ndarray  # float64 [N, attackers]


class SubsetScorer:
    """Scores subsets of a layer's channels."""

    def __init__(
        self,
        layer: LayerFeatures,
        parts: Parts,
        most_channels: int,
        attacker: Callable[[Sequence[np.ndarray]], np.ndarray] | None = None,
    ) -> None:
        """Takes the sums that all subsets share, of a layer's features with all channels.

        `most_channels` of a subset decide how many positions the attack is fitted on; `attacker`
        takes subsets to PSNR float64 [N] by another attacker, such as `AmortisedPsnr`.
        """
        self._attacker = attacker
        unknowns = linear_attack.NEIGHBOURHOOD**2 * most_channels + 1
        stored = layer.parts["auxiliary"]
        self._fitted_on, self._chosen_on = linear_statistics(
            stored,
            parts.auxiliary.images,
            *hold_out(len(stored)),
            positions=_POSITIONS_PER_UNKNOWN * unknowns,
        )
        self._pixels = self._chosen_on.count * self._chosen_on.cross.shape[1]
        chosen = np.sort(spread_over_classes(parts.auxiliary.labels, _JUDGED))
        target = _field_numbers(layer, "target", np.arange(len(parts.target)))
        judged = _field_numbers(layer, "auxiliary", chosen)
        mean, scale = target.mean(axis=0), unit_scale(target)
        target, self._judged = (target - mean) * scale, (judged - mean) * scale
        answers = np.eye(parts.num_classes, dtype=np.float32)[parts.target.labels]
        self._prior = answers.mean(axis=0)
        self._labels = parts.auxiliary.labels[chosen]
        channels, numbers = target.shape[1:]
        flat = target.reshape(len(target), -1)
        # A channel's numbers lie together: a subset is cut out in blocks.
        self._gram = (flat.T @ flat).reshape(channels, numbers, channels, numbers)
        self._cross = (flat.T @ (answers - self._prior)).reshape(channels, numbers, -1)

    def __call__(self, subsets: Sequence[np.ndarray]) -> Estimates:
        """Returns the estimates of subsets, each int [depth] of positions among the channels."""
        likelihoods = np.array([self._log_likelihood(subset) for subset in subsets])
        attacks = [np.array([self._psnr_db(subset) for subset in subsets])]
        if self._attacker is not None:
            attacks.append(self._attacker(subsets))
        return Estimates(likelihoods, np.stack(attacks, axis=1))

    def _log_likelihood(self, positions: np.ndarray) -> float:
        unknowns = len(positions) * self._judged.shape[2]
        gram = self._gram[positions][:, :, positions].reshape(unknowns, unknowns)
        # A ridge even where nothing responds.
        gram[np.diag_indices_from(gram)] += _CLASSIFIER_RIDGE * np.trace(gram) / unknowns + 1e-6
        factor = scipy.linalg.cho_factor(gram, overwrite_a=True, check_finite=False)
        cross = self._cross[positions].reshape(unknowns, -1)
        weights = scipy.linalg.cho_solve(factor, cross, check_finite=False)
        chosen = self._judged[:, positions].reshape(-1, unknowns)
        logits = _WORTH * (chosen @ weights + self._prior)
        likelihoods = scipy.special.log_softmax(logits, axis=1)
        return float(likelihoods[np.arange(len(logits)), self._labels].mean())

    def _psnr_db(self, positions: np.ndarray) -> float:
        rows = linear_attack.subset_rows(positions, self._fitted_on.num_channels)
        solution = linear_attack.solve(self._fitted_on.restricted(rows), _ATTACK_RIDGE)
        error = linear_attack.squared_error(self._chosen_on.restricted(rows), solution)
        return -10 * float(np.log10(max(error / self._pixels, 1e-10)))


def _field_numbers(layer: LayerFeatures, part: str, rows: np.ndarray) -> np.ndarray:
    """Returns float32 [N, C, numbers]: means, then deviations, over fields of log(1 + x)."""
    stored = layer.parts[part]
    side, channels = stored.shape[1], stored.shape[3]
    fields = min(_SIDE, side)
    while fields > 1 and 2 * fields**2 * channels > _MOST_NUMBERS:
        fields //= 2
    edges = np.linspace(0, side, fields + 1).astype(int)
    spans = tuple(itertools.pairwise(map(int, edges)))
    starts = range(0, len(rows), _BATCH)
    batches = [np.asarray(_over_fields(stored[rows[s : s + _BATCH]], spans)) for s in starts]
    return np.concatenate(batches)


@functools.partial(jax.jit, static_argnums=1)
def _over_fields(x: jax.Array, spans: tuple[tuple[int, int], ...]) -> jax.Array:
    values = jnp.log1p(x.astype(jnp.float32))
    fields = [values[:, a:b, c:d] for (a, b), (c, d) in itertools.product(spans, spans)]
    means = [field.mean(axis=(1, 2)) for field in fields]
    return jnp.stack([*means, *(field.std(axis=(1, 2)) for field in fields)], axis=-1)


class AmortisedPsnr:
    """Mean PSNR of a layer's amortised attacker over some target images."""

    def __init__(self, data: LayerData, task: Task, params: Any, width: int) -> None:
        """Puts on the devices what all subsets share; `width` is at least their depths."""
        self._sums, self._width = data.sums, width
        self._split, everywhere = data_parallel()
        target = data.parts.target
        rows = np.sort(spread_over_classes(target.labels, _ATTACKED))
        released = np.float32(data.layer.parts["target"][rows])
        shared = (params, released, target.images[rows])
        self._shared = jax.device_put(shared, everywhere)

        def score(subset: Subset, params: Any, released: jax.Array, images: jax.Array) -> jax.Array:
            outputs = outputs_of(task, params, subset, released)
            return task.measure(outputs, as_targets(images))["psnr_db"].mean()

        self._score = jax.jit(jax.vmap(score, in_axes=(0, None, None, None)))

    def __call__(self, subsets: Sequence[np.ndarray]) -> np.ndarray:
        """Returns float64 [N], in dB, for subsets int [depth] of positions among the channels."""
        size = _AT_ONCE * len(self._split.device_set)
        scores = []
        for start in range(0, len(subsets), size):
            group = [
                prepare(self._sums, subset, self._width, quickly=True)
                for subset in subsets[start : start + size]
            ]
            # One shape is compiled.
            filled = stacked([*group, *group[-1:] * (size - len(group))])
            values = self._score(jax.device_put(filled, self._split), *self._shared)
            scores.append(np.asarray(values, np.float64)[: len(group)])
        return np.concatenate(scores)
