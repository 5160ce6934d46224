"""What is known of any subset of a layer's channels in closed form: no network is trained here.

Sums over a layer's images, taken once, give for every subset how to impute the components of all
channels (`imputation`), the linear attack (`linear_attack`) and the linear probe (`linear_probe`).

    sums = layer_sums(layer, parts, most_channels=32)
    subset = prepare(sums, positions=(0, 3, 5), width=32)
    estimates = linear_estimates(subset, x)  # x: all channels of the layer
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.estimates.imputation import Components, Imputation, fit_components, impute
from privynet_jax.estimates.linear_probe import RIDGES as PROBE_RIDGES
from privynet_jax.estimates.linear_probe import Probe, ProbeSums, fit_probe, gather_probe_sums
from privynet_jax.images.depth_and_space import depth_to_space
from privynet_jax.images.partition import hold_out
from privynet_jax.images.parts import Parts, as_float
from privynet_jax.platform.rows.row_views import ChosenChannels
from privynet_jax.training.models import linear_attack
from privynet_jax.training.models.grid_sizes import WORKING_STRIDE

# Ridges of subsets that are only trained on, fixed to save time; others choose theirs.
_ATTACK_RIDGE, _PROBE_RIDGE = 1e-4, 1e-2
# Components at a stride that is not folded, and at most so many inputs of the first layer.
_COMPONENTS, _STEM_INPUTS = 128, 512
# Auxiliary images whose covariance is taken, and the fewest for the linear attack's sums.
_IMAGES = 512
# Positions per unknown of the linear attack; `dedicated`'s dedicated attacks can afford more.
_POSITIONS_PER_UNKNOWN = 128
# Positions of representations that enter a Gram matrix: over 100 per unknown at 512 channels.
POSITIONS = 2**19
# Positions whose neighbourhoods are formed at once: 64 images of 32 x 32, and 1 of 224 x 224.
_BATCH, _BATCH_POSITIONS = 64, 2**16
# The latest sums, with what they were taken over: attackers of a layer ask for the same ones.
_latest: dict[tuple[Any, ...], tuple[Any, ...]] = {}
_KEPT = 2
_HIGHEST = jax.lax.Precision.HIGHEST


class Subset(NamedTuple):
    """What the networks are told about a subset; arrays of one layer and width have one shape.

    Attributes:
        imputation: from its channels to all components.
        kernel: float32 [width, 9 * B], the linear attack, neighbours beside one another.
        bias: float32 [B].
        probe: the linear probe.
    """

    imputation: Imputation
    kernel: jax.Array
    bias: jax.Array
    probe: Probe


class LayerSums(NamedTuple):
    """Sums over a layer's images: components of all channels, and for linear attack and probe."""

    components: Components
    fitted_on: linear_attack.LinearStatistics
    chosen_on: linear_attack.LinearStatistics
    probe: ProbeSums


def layer_sums(layer: LayerFeatures, parts: Parts, most_channels: int) -> LayerSums:
    """Returns the sums of a layer's features, all channels.

    The largest depth that is asked for decides how many images are used.
    """
    stored = layer.parts["auxiliary"]
    per_image = int(np.prod(stored.shape[1:3]))
    folding = max(1, WORKING_STRIDE * stored.shape[1] // parts.image_size)
    used = range(0, min(len(stored), _IMAGES), _BATCH)
    batches = (stored[start : min(start + _BATCH, _IMAGES)] for start in used)
    components = fit_components(batches, min(_COMPONENTS, _STEM_INPUTS // folding**2))
    unknowns = linear_attack.NEIGHBOURHOOD**2 * most_channels + 1
    positions = max(_IMAGES * per_image, _POSITIONS_PER_UNKNOWN * unknowns)
    return LayerSums(
        components,
        *linear_statistics(
            stored, parts.auxiliary.images, *hold_out(len(stored)), positions=positions
        ),
        gather_probe_sums(layer.parts["target"], parts.target.answers, parts.num_answers),
    )


def linear_statistics(
    stored: Any,
    images: np.ndarray,
    fitted_rows: np.ndarray,
    chosen_rows: np.ndarray,
    *,
    channels: np.ndarray | None = None,
    positions: int = POSITIONS,
) -> tuple[linear_attack.LinearStatistics, linear_attack.LinearStatistics]:
    """Returns the sums over images to fit on, and over others on which a ridge is chosen.

    They are taken once for all who ask for the same, whichever topologies of a layer they attack.
    Of representations [N, h, w, C], an array or what reads rows, with their images uint8
    [N, H, W, 3]; only some channels count, int [c], where these are given; and of the rows, int [n]
    and [m], the first ones, until they have so many positions.
    """
    if channels is None:
        channels = np.arange(stored.shape[-1])
    arrays = (fitted_rows, chosen_rows, channels)
    key = (id(stored), id(images), *(array.tobytes() for array in arrays), positions)
    if key not in _latest:
        view = stored
        if len(channels) < stored.shape[-1]:
            view = ChosenChannels(stored, channels)
        sums = tuple(_sums(view, images, rows, positions) for rows in (fitted_rows, chosen_rows))
        _latest[key] = (stored, images, sums)  # the first two keep their ids theirs
        while len(_latest) > _KEPT:
            del _latest[next(iter(_latest))]
    return _latest[key][2]


def _sums(
    stored: Any, images: np.ndarray, rows: np.ndarray, positions: int
) -> linear_attack.LinearStatistics:
    per_image = math.prod(stored.shape[1:3])
    rows = rows[: -(-positions // per_image)]
    size = max(1, min(_BATCH, _BATCH_POSITIONS // per_image))
    batches = (rows[start : start + size] for start in range(0, len(rows), size))
    return linear_attack.gather_statistics(
        (np.float32(stored[b]), as_float(images[b])) for b in batches
    )


def prepare(
    sums: LayerSums, positions: Sequence[int], width: int, *, quickly: bool = False
) -> Subset:
    """Returns what the networks are told about a subset, padded to a width.

    Positions are those of its channels among the layer's. `quickly` uses one ridge each instead of
    choosing it.
    """
    attack = linear_attack.fit(
        sums.fitted_on, sums.chosen_on, positions, (_ATTACK_RIDGE,) if quickly else None
    )
    probe = fit_probe(sums.probe, positions, width, (_PROBE_RIDGE,) if quickly else PROBE_RIDGES)
    depth, outputs = attack.kernel.shape[2:]
    beside = attack.kernel.reshape(-1, depth, outputs).transpose(1, 0, 2).reshape(depth, -1)
    kernel = np.pad(beside, ((0, width - depth), (0, 0)))
    return Subset(impute(sums.components, positions, width), kernel, attack.bias, probe)


def stacked(subsets: Sequence[Subset]) -> Subset:
    """Returns subsets of one layer and width as one, with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *subsets)


def draw_subsets(
    rng: np.random.Generator, count: int, least: int, most: int, channels: int
) -> list[np.ndarray]:
    """Returns `count` random subsets of `channels`, their depths log-uniform in least..most."""
    depths = np.exp(rng.uniform(np.log(least), np.log(most), count)).round().astype(int)
    return [np.sort(rng.permutation(channels)[:depth]) for depth in depths]


def linear_estimates(subset: Subset, x: jax.Array) -> jax.Array:
    """Returns `linear_attack.reconstruct`'s estimates float32 [N, H, W, 3] from all channels.

    One matrix product, then sums of shifted results: subsets side by side stay matrix products,
    where XLA would make a grouped convolution of them.
    """
    height, width = x.shape[1:3]
    released = jnp.take(x, subset.imputation.positions, axis=-1)
    products = jnp.matmul(released, subset.kernel, precision=_HIGHEST)
    side = linear_attack.NEIGHBOURHOOD
    margin = side // 2
    padded = jnp.pad(products, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    shifted = [
        padded[:, i : i + height, j : j + width, k * len(subset.bias) : (k + 1) * len(subset.bias)]
        for k, (i, j) in enumerate(np.ndindex(side, side))
    ]
    return depth_to_space(sum(shifted) + subset.bias, channels=3)
