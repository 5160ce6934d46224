"""Which channels may be released: the paper's scores, pruning and secret draw.

PrivyNet (arXiv:1709.06161) scores every channel of the chosen layer on a small labelled sample of
the user's own pictures, prunes those that tell classes apart least (`fisher`) and those that give
away most (`channel_privacy`), and draws the released ones at random from the rest (`secret_draw`).

    scores = channel_scores(weights, images, labels, layers=[4, 7])
    candidates = pruned_candidates("both", scores[4], depth=16)
    selection = select(candidates, "both", depth=16)
    topology = Topology(4, selection.channels(16))
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.backbone.features.extraction import BatchedPass, check_finite, scales_of
from privynet_jax.backbone.features.layer_features import extractor
from privynet_jax.backbone.topology import (
    PRUNING_METHODS,
    all_channels,
    check_depth,
    check_image_size,
)
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.errors import UserError
from privynet_jax.images.parts import as_float
from privynet_jax.selection.channel_privacy import ChannelSums, attack_psnr_db, sums_of_batch
from privynet_jax.selection.fisher import fisher_scores

# Fisher's score sees means over a grid of 4 x 4 fields or fewer: 16 numbers per image, whose
# covariances a few hundred images pin down, and which still say where in the image something is.
_FISHER_SIDE = 4
_NAME = "the sample"


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelScores:
    """What a sample says of each channel of a layer by itself.

    Attributes:
        fisher: float64 [C], how well it tells classes apart; see `fisher`.
        psnr_db: float64 [C], how well a linear attack rebuilds unseen images of the sample from it;
            see `channel_privacy`. For comparing channels, not for quoting.
    """

    fisher: np.ndarray
    psnr_db: np.ndarray


def channel_scores(
    weights: PretrainedWeights, images: np.ndarray, labels: np.ndarray, layers: Sequence[int]
) -> dict[int, ChannelScores]:
    """Returns layer -> scores of all its channels, from one pass over a sample.

    The sample is uint8 [N, H, W, 3] with labels int [N], or several for each, [N, L] of 0 and 1;
    the deepest layer decides what the pass costs.

    Raises:
        UserError: fewer than two classes have two images, the images are too small for a layer, a
            layer is out of range, or the network gives values that are not finite.
    """
    union = all_channels(layers, weights.backbone)
    check_image_size(weights.backbone.cut(max(union)), *images.shape[1:3])
    halves = _halves(labels)
    order = np.concatenate(halves)
    # One half after the other, so that all batches but one belong to either.
    sums, fields = _one_pass(weights, images[order], len(halves[0]), union)
    return {
        layer: ChannelScores(fisher_scores(fields[layer], labels[order]), _psnr_db(*sums[layer]))
        for layer in union
    }


def pruned_candidates(
    method: str, scores: ChannelScores, depth: int, prune: float = 0.25
) -> tuple[int, ...]:
    """Returns the channels that may be drawn, ascending.

    `fisher` leaves out the share `prune` with the lowest Fisher scores, `privacy` the share with
    the highest privacy loss, `both` either of the two, `random` nothing. Of equal channels the
    first is pruned first. Where fewer than `depth`, which will be drawn, would be left, less is
    pruned. `method` is one of `PRUNING_METHODS`; `prune` is at least 0 and less than 1.

    Raises:
        UserError: the method is unknown or does not prune, or depth or share is out of range.
    """
    if method not in PRUNING_METHODS:
        raise UserError(
            f"no channels are pruned by the method {method!r}; allowed are "
            f"{', '.join(PRUNING_METHODS)}; both is PrivyNet's"
        )
    channels = len(scores.fisher)
    check_depth(depth, channels)
    if not 0 <= prune < 1:
        raise UserError(
            f"the share of channels to prune is {prune}; allowed are 0 to less than 1; "
            "0.25 is the usual choice"
        )
    criteria = {"fisher": scores.fisher, "privacy": -scores.psnr_db}
    worst_first = [
        np.argsort(c, kind="stable") for n, c in criteria.items() if method in (n, "both")
    ]
    pruned: set[int] = set()
    for rank in range(int(prune * channels)):
        # Both criteria prune equally many; the worst go first.
        more = pruned.union(int(order[rank]) for order in worst_first)
        if channels - len(more) < depth:
            break
        pruned = more
    return tuple(channel for channel in range(channels) if channel not in pruned)


def _halves(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of two halves, each with every other image of every class."""
    by_class = np.lexsort(np.atleast_2d(labels.T))
    return np.sort(by_class[::2]), np.sort(by_class[1::2])


def _one_pass(
    weights: PretrainedWeights, images: np.ndarray, middle: int, union: Mapping[int, Sequence[int]]
) -> tuple[dict[int, list[ChannelSums]], dict[int, np.ndarray]]:
    """Returns layer -> sums before and after the middle, and layer -> fields for Fisher's score."""
    sums: dict[int, list[Any]] = {layer: [None, None] for layer in union}
    fields: dict[int, list[np.ndarray]] = {layer: [] for layer in union}
    extract = extractor(weights.backbone, union)

    def function(params: Any, images: jax.Array) -> dict[int, tuple[jax.Array, jax.Array]]:
        return {layer: (x, _fields(x)) for layer, x in extract(params, images).items()}

    for rows, features in BatchedPass(weights, union, images.shape[1], function)(images):
        batch = as_float(images[rows])
        is_first = np.arange(rows.start, rows.stop) < middle
        for layer, (representations, pooled) in features.items():
            fields[layer].append(np.asarray(pooled)[: len(batch)])
            check_finite(np.isfinite(fields[layer][-1]).all(), weights, _NAME)
            for half, counted in enumerate((is_first, ~is_first)):
                if counted.any():
                    sums_of_half = sums_of_batch(representations, batch, counted)
                    before = sums[layer][half]
                    sums[layer][half] = sums_of_half if before is None else before + sums_of_half
    return sums, {layer: np.concatenate(parts) for layer, parts in fields.items()}


def _fields(x: jax.Array) -> jax.Array:
    """[N, h, w, C] -> means over at most 4 x 4 fields, which overlap where sides do not divide."""
    rows, columns = (jnp.asarray(_averaging(size)) for size in x.shape[1:3])
    return jnp.einsum("ih,nhwc,jw->nijc", rows, x, columns, precision=jax.lax.Precision.HIGHEST)


def _averaging(size: int) -> np.ndarray:
    """float32 [fields, size], each row a mean."""
    fields = min(size, _FISHER_SIDE)
    starts = [i * size // fields for i in range(fields)]
    ends = [math.ceil((i + 1) * size / fields) for i in range(fields)]
    weights = np.zeros((fields, size), np.float32)
    for row, start, end in zip(weights, starts, ends, strict=True):
        row[start:end] = 1 / (end - start)
    return weights


def _psnr_db(first: ChannelSums, second: ChannelSums) -> np.ndarray:
    scales = scales_of((first + second).rms)
    return attack_psnr_db(first.scaled(scales), second.scaled(scales))
