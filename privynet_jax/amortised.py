"""One cloud NN and one attacker per layer that work on any subset of its channels.

They are trained like those of a cell (`training`), but each example comes with a subset drawn anew
from a pool. Every subset is brought to the same inputs in closed form first: imputed components
(`imputation`) and how well each of them is known. And both networks only correct what a closed form
answers already: the linear probe's scores (`probe`), the linear attack's estimate (`linear`). After
that a subset costs an evaluation; `scoring` does that.

    sums = layer_sums(layer, parts, most_channels=32)
    pool = draw_pool(key, sums, least=5, most=48, channels=128)
    params = train(task, key, pool, layer, parts, shardings)

Networks here are no weights of a split: they only estimate what dedicated ones would reach.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax import linear, training
from privynet_jax.data import Parts
from privynet_jax.features import LayerFeatures
from privynet_jax.grid import linear_statistics
from privynet_jax.imputation import Components, Imputation, fit_components, impute, imputed
from privynet_jax.layout import depth_to_space, space_to_depth
from privynet_jax.models import WORKING_STRIDE, CloudNN, ResidualAttacker, ResidualBlock
from privynet_jax.probe import RIDGES as PROBE_RIDGES
from privynet_jax.probe import (
    Probe,
    ProbeSums,
    fit_probe,
    gather_probe_sums,
    pooled,
    probe_scores,
)
from privynet_jax.training import Task

# Subsets in a layer's pool.
POOL = 512
# The pool's ridges, fixed to save time; those of subsets that are scored are chosen.
_ATTACK_RIDGE, _PROBE_RIDGE = 1e-4, 1e-2
# Of a probe's score of 1, as a logit, at first.
_WORTH = 8.0
# Components at a stride that is not folded, and at most so many inputs of the first layer.
_COMPONENTS, _STEM_INPUTS = 128, 512
# Auxiliary images whose covariance is taken, and the fewest for the linear attack's sums.
_IMAGES = 512
# Positions per unknown of the linear attack; `grid` can afford more.
_POSITIONS_PER_UNKNOWN = 128
_BATCH = 64
# Steps that the host may be ahead of the devices.
_AHEAD = 2
_HIGHEST = jax.lax.Precision.HIGHEST

# Of examples and of what every device holds, as `execution.data_parallel` gives them.
Shardings = tuple[Any, Any]


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


@dataclasses.dataclass(frozen=True, eq=False)
class LayerSums:
    """Sums over a layer's images, from which everything closed-form follows.

    Attributes:
        components: of all channels.
        fitted_on: for the linear attack; see `linear.fit`.
        chosen_on: likewise.
        probe: for the linear probe, over target images.
    """

    components: Components
    fitted_on: linear.LinearStatistics
    chosen_on: linear.LinearStatistics
    probe: ProbeSums


class ComponentGrid(nn.Module):
    """Brings imputed components to the working grid, scaled by how well they are known."""

    width: int
    image_size: int

    @nn.compact
    def __call__(self, z: jax.Array, share: jax.Array) -> jax.Array:
        """[N, h, w, K] and [K] -> [N, image_size / 4, image_size / 4, width]."""
        stride = self.image_size // z.shape[1]
        folding = max(1, WORKING_STRIDE // stride)
        unfolding = max(1, stride // WORKING_STRIDE)
        stem = nn.Dense(unfolding**2 * self.width, precision=_HIGHEST, name="stem")
        x = depth_to_space(stem(space_to_depth(z, folding)), self.width)
        zeros = nn.initializers.zeros
        known = nn.Dense(2 * self.width, kernel_init=zeros, precision=_HIGHEST, name="known")
        scale, shift = jnp.split(known(share), 2, axis=-1)
        return x * (1 + scale) + shift


class AmortisedCloudNN(nn.Module):
    """`models.CloudNN` on imputed components and the probe's scores, which it corrects."""

    num_classes: int
    image_size: int
    width: int = 64

    @nn.compact
    def __call__(self, z: jax.Array, share: jax.Array, scores: jax.Array) -> jax.Array:
        """float32 [N, h, w, K], [K] and [N, num_classes] -> logits float32 [N, num_classes]."""
        # Scores are about probabilities; how much a logit they are worth is learnt.
        worth = self.param("worth", nn.initializers.constant(_WORTH), ())
        x = ComponentGrid(self.width, self.image_size)(z, share)
        x = ResidualBlock(self.width)(x)
        x = nn.Conv(2 * self.width, (2, 2), strides=(2, 2), precision=_HIGHEST)(nn.relu(x))
        x = ResidualBlock(2 * self.width)(x)
        x = nn.LayerNorm()(x.mean(axis=(1, 2)))
        correction = nn.Dense(
            self.num_classes, kernel_init=nn.initializers.zeros, precision=_HIGHEST
        )(x)
        return worth * scores + correction


class AmortisedAttacker(nn.Module):
    """`models.ResidualAttacker` on imputed components and the linear estimate it corrects."""

    image_size: int
    width: int = 96
    num_blocks: int = 3

    @nn.compact
    def __call__(self, z: jax.Array, share: jax.Array, estimates: jax.Array) -> jax.Array:
        """float32 [N, h, w, K], [K] and [N, H, W, 3] -> float32 [N, H, W, 3]."""
        x = ComponentGrid(self.width, self.image_size)(z, share)
        seen = space_to_depth(jnp.clip(estimates, 0, 1) - 0.5, WORKING_STRIDE)
        x = x + nn.Dense(self.width, precision=_HIGHEST, name="estimate")(seen)
        for _ in range(self.num_blocks):
            x = ResidualBlock(self.width)(x)
        pixels = WORKING_STRIDE**2 * 3
        zeros = nn.initializers.zeros
        head = nn.Conv(pixels, (3, 3), kernel_init=zeros, precision=_HIGHEST, name="head")
        return estimates + depth_to_space(head(nn.relu(x)), channels=3)


def layer_key(num_layers: int, seed: int) -> jax.Array:
    """Returns the key of a layer's networks: no number depends on which layers run beside it."""
    return jax.random.fold_in(jax.random.key(seed), num_layers)


def layer_sums(layer: LayerFeatures, parts: Parts, most_channels: int) -> LayerSums:
    """Returns the sums of a layer.

    Args:
        layer: the features, all channels.
        parts: the images and labels.
        most_channels: the largest depth that is asked for; it decides how many images are used.
    """
    stored = layer.parts["auxiliary"]
    per_image = int(np.prod(stored.shape[1:3]))
    folding = max(1, WORKING_STRIDE * stored.shape[1] // parts.image_size)
    used = range(0, min(len(stored), _IMAGES), _BATCH)
    batches = (stored[start : min(start + _BATCH, _IMAGES)] for start in used)
    components = fit_components(batches, min(_COMPONENTS, _STEM_INPUTS // folding**2))
    unknowns = linear.NEIGHBOURHOOD**2 * most_channels + 1
    positions = max(_IMAGES * per_image, _POSITIONS_PER_UNKNOWN * unknowns)
    return LayerSums(
        components,
        *linear_statistics(layer, parts.auxiliary, positions),
        gather_probe_sums(layer, parts.target.labels, parts.num_classes),
    )


def cloud_task(network: AmortisedCloudNN, schedule: training.Schedule) -> Task:
    """Returns the amortised cloud NN's task; its extras are one `Subset`."""

    def init(key: jax.Array, z: jax.Array) -> Any:
        return network.init(key, z, jnp.ones(z.shape[-1]), jnp.zeros((1, network.num_classes)))

    def predict(params: Any, subset: Subset, x: jax.Array) -> jax.Array:
        z, share = imputed(subset.imputation, x), subset.imputation.share
        released = jnp.take(x, subset.imputation.positions, axis=-1)
        return network.apply(params, z, share, probe_scores(subset.probe, pooled(released)))

    own = training.cloud_task(network, schedule)
    return dataclasses.replace(own, init=init, predict=predict)


def attacker_task(network: AmortisedAttacker, schedule: training.Schedule) -> Task:
    """Returns the amortised attacker's task; its extras are one `Subset`."""

    def init(key: jax.Array, z: jax.Array) -> Any:
        size = network.image_size
        return network.init(key, z, jnp.ones(z.shape[-1]), jnp.zeros((len(z), size, size, 3)))

    def predict(params: Any, subset: Subset, x: jax.Array) -> jax.Array:
        z = imputed(subset.imputation, x)
        return network.apply(params, z, subset.imputation.share, linear_estimates(subset, x))

    own = training.attacker_task(network, schedule)
    return dataclasses.replace(own, init=init, predict=predict)


def layer_tasks(
    cloud: CloudNN,
    attacker: ResidualAttacker,
    cloud_schedule: training.Schedule,
    attacker_schedule: training.Schedule,
) -> tuple[Task, Task]:
    """Returns the tasks of a layer's two networks, of the sizes that dedicated ones have."""
    cloud_network = AmortisedCloudNN(cloud.num_classes, cloud.image_size, cloud.width)
    attacker_network = AmortisedAttacker(attacker.image_size, attacker.width, attacker.num_blocks)
    return cloud_task(cloud_network, cloud_schedule), attacker_task(
        attacker_network, attacker_schedule
    )


def linear_estimates(subset: Subset, x: jax.Array) -> jax.Array:
    """Returns `linear.reconstruct`'s estimates float32 [N, H, W, 3] from all channels.

    One matrix product, then sums of shifted results: subsets side by side stay matrix products,
    where XLA would make a grouped convolution of them.
    """
    height, width = x.shape[1:3]
    released = jnp.take(x, subset.imputation.positions, axis=-1)
    products = jnp.matmul(released, subset.kernel, precision=_HIGHEST)
    side = linear.NEIGHBOURHOOD
    margin = side // 2
    padded = jnp.pad(products, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    shifted = [
        padded[:, i : i + height, j : j + width, k * len(subset.bias) : (k + 1) * len(subset.bias)]
        for k, (i, j) in enumerate(np.ndindex(side, side))
    ]
    return depth_to_space(sum(shifted) + subset.bias, channels=3)


def draw_subsets(
    rng: np.random.Generator, count: int, least: int, most: int, channels: int
) -> list[np.ndarray]:
    """Returns `count` random subsets of `channels`, their depths log-uniform in least..most."""
    depths = np.exp(rng.uniform(np.log(least), np.log(most), count)).round().astype(int)
    return [np.sort(rng.permutation(channels)[:depth]) for depth in depths]


def draw_pool(key: jax.Array, sums: LayerSums, least: int, most: int, channels: int) -> Subset:
    """Returns `POOL` subsets of a layer, stacked; see `draw_subsets`."""
    draws = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    subsets = draw_subsets(draws, POOL, least, most, channels)
    return stacked([prepare(sums, positions, most, quickly=True) for positions in subsets])


def prepare(
    sums: LayerSums, positions: Sequence[int], width: int, *, quickly: bool = False
) -> Subset:
    """Returns what the networks are told about a subset.

    Args:
        sums: of its layer.
        positions: where its channels lie among the layer's cached ones.
        width: channels to which it is padded.
        quickly: use one ridge each instead of choosing it.
    """
    attack = linear.fit(
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


def train(
    task: Task,
    key: jax.Array,
    pool: Subset,
    layer: LayerFeatures,
    parts: Parts,
    shardings: Shardings,
    progress: Callable[[float], None] = lambda share: None,
) -> Any:
    """Trains a layer's network; each example comes with a subset drawn from the pool.

    Args:
        task: from `cloud_task` or `attacker_task`.
        key: everything random comes from it.
        pool: stacked subsets.
        layer: the features, all channels.
        parts: images and labels.
        shardings: of examples and of what every device holds; `execution.data_parallel`.
        progress: told the share done since the last call.

    Returns:
        Its params, NumPy arrays.
    """
    schedule = task.schedule
    if schedule is None:
        raise ValueError("Expected a task with a schedule, got one that is not trained.")
    split, everywhere = shardings
    initial, shuffling, drawing = jax.random.split(jax.random.fold_in(key, task.stream), 3)
    stored, targets = layer.parts[task.part], getattr(getattr(parts, task.part), task.targets)
    order = training.batch_order(shuffling, len(targets), schedule)
    draws = np.random.default_rng(np.asarray(jax.random.key_data(drawing)))
    pool = jax.device_put(pool, everywhere)
    components = pool.imputation.kernel.shape[-1]
    example = np.zeros((1, *stored.shape[1:3], components), np.float32)
    state = jax.device_put(training.init_state(task, initial, example), everywhere)
    step = _step_on_pool(task)
    losses: collections.deque[jax.Array] = collections.deque()
    for rows in order:
        chosen = draws.integers(len(pool.bias), size=len(rows))
        batch = jax.device_put((chosen, stored[rows], targets[rows]), split)
        state, loss = step(state, pool, *batch)
        losses.append(loss)
        if len(losses) > _AHEAD:
            losses.popleft().block_until_ready()
        progress(1 / schedule.steps)
    return jax.device_get(state.params)


def _step_on_pool(task: Task) -> Callable[..., tuple[training.State, jax.Array]]:
    """Returns a jitted step (state, pool, chosen [B], representations, targets) -> state, loss."""

    def predict(params: Any, subsets: Subset, x: jax.Array) -> jax.Array:
        # Mapping over examples leaves whole convolutions, because they share the weights.
        return jax.vmap(lambda mine, one: task.predict(params, mine, one[None])[0])(subsets, x)

    per_example = dataclasses.replace(task, predict=predict)

    def step(
        state: training.State, pool: Subset, chosen: jax.Array, x: jax.Array, targets: jax.Array
    ) -> tuple[training.State, jax.Array]:
        subsets = jax.tree.map(lambda leaf: leaf[chosen], pool)
        return training.train_step(per_example, state, subsets, x, targets)

    return jax.jit(step, donate_argnums=0)
