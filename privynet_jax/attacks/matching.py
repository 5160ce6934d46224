"""Images whose representations match given ones: many small optimisation problems side by side.

For each image by itself, L-BFGS minimises

    |local(x) - representation|^2 + tv * TV(x) + prior * |coordinates(x)|^2 / 2

(He, Zhang and Lee 2019, doi:10.1145/3359789.3359824, call it rMLE without the last term; with it,
the result is the most likely image under a Gaussian prior around the start). Coordinates are those
of `pixel_prior`. Nothing here knows a true image: a step is taken if it lowers the loss.

    matcher = Matcher(knowledge.local, prior)
    matched = matcher(representations, starts, Weights(tv, prior_weight), steps=100)
    matched.images, matched.losses
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from privynet_jax.attacks.base import Representing, as_partial
from privynet_jax.attacks.pixel_prior import PixelPrior, offsets_of, total_variation
from privynet_jax.platform.devices import data_parallel, on_cpu

# Of pixels outside [0, 1], squared. Not clipped: a gradient that ends at 1 would never come back.
RANGE_WEIGHT = 10.0
# A step counts if the loss falls by this share of what its slope promises; else it is cut.
_LEAST_FALL, _CUT = 1e-4, 0.4
_MEMORY = 10
# Of each device that is a CPU: images at once, and pixels; kernels of deep layers, which caches do
# not hold, are fetched as seldom as images of shallow ones still fit. Elsewhere: pixels of one
# batch, and steps of one dispatch.
_IMAGES_ON_CPU, _PIXELS_ON_CPU, _PIXELS_ELSEWHERE, _STEPS_ELSEWHERE = 16, 2**14, 2**18, 10
_optimiser = optax.scale_by_lbfgs(memory_size=_MEMORY)


class Weights(NamedTuple):
    """Of the terms of the loss beside the misfit, float32 [N]."""

    total_variation: Any
    prior: Any


class Known(NamedTuple):
    """What the attacker sees of each image: a pytree of leading axis N."""

    representations: jax.Array
    starts: jax.Array
    weights: Weights


class State(NamedTuple):
    """The best iterates so far, by their own losses, and what L-BFGS knows of their surroundings.

    Coordinates, gradients and directions are float32 [N, H, W, 3]; losses, and lengths along the
    directions to the next trial, [N].
    """

    coordinates: jax.Array
    losses: jax.Array
    gradients: jax.Array
    directions: jax.Array
    lengths: jax.Array
    memory: Any


class Matched(NamedTuple):
    """Images float32 [N, H, W, 3] in [0, 1], at the end and half-way; losses [N], at first, too."""

    images: np.ndarray
    halfway: np.ndarray
    losses: tuple[np.ndarray, np.ndarray, np.ndarray]


class Matcher:
    """Runs the optimisation in batches that fit into memory, on all local devices."""

    def __init__(self, local: Representing, prior: PixelPrior) -> None:
        """Prepares for one local NN; images are sought in the prior's coordinates, and under it."""
        height, width, _ = prior.deviations.shape
        # A local NN that runs on several devices wants as many images on each.
        devices = len(data_parallel()[0].device_set)
        if on_cpu():
            fitting = min(_IMAGES_ON_CPU, _PIXELS_ON_CPU // (height * width))
        else:
            fitting = _PIXELS_ELSEWHERE // (height * width * devices)
        self._size = devices * max(1, fitting)
        self._split, everywhere = data_parallel(dividing=self._size)
        self._local, self._prior = jax.device_put((as_partial(local), prior), everywhere)
        self._programs = _compiled(jax.tree.structure(self._local), self._split)

    def __call__(
        self, representations: np.ndarray, starts: np.ndarray, weights: Weights, steps: int
    ) -> Matched:
        """Returns the images found for float [N, h, w, D], each tried `steps` times, 1 or more.

        Starts, float [N, H, W, 3], are estimates around which the prior lies; there are N weights
        of each term. All are cast batch by batch.
        """
        known = Known(representations, starts, Weights(*weights))
        found = []
        for begin in range(0, len(representations), self._size):
            rows = slice(begin, begin + self._size)
            piece = jax.tree.map(lambda x, rows=rows: np.float32(x[rows]), known)
            found.append(self._run(piece, steps))
        return jax.tree.map(lambda *x: np.concatenate(x), *found)

    def _run(self, known: Known, steps: int) -> Matched:
        count = len(known.starts)
        # Filled up with copies of the last image: one shape is compiled.
        rows = np.minimum(np.arange(self._size), count - 1)
        known = jax.device_put(jax.tree.map(lambda x: x[rows], known), self._split)
        start, take_steps, finish = self._programs
        state = start(self._local, self._prior, known)
        losses, images = [np.asarray(state.losses)], []
        for stretch in (steps // 2, steps - steps // 2):
            # XLA's CPU backend runs convolutions far slower inside `scan`.
            per_dispatch = 1 if on_cpu() else _STEPS_ELSEWHERE
            whole, rest = divmod(stretch, per_dispatch)
            for several in [per_dispatch] * whole + [1] * rest:
                state = take_steps(self._local, self._prior, known, state, several)
            losses.append(np.asarray(state.losses))
            images.append(np.asarray(finish(self._prior, known, state)))
        halfway, last = (each[:count] for each in images)
        return Matched(last, halfway, tuple(each[:count] for each in losses))


def start(local: Representing, prior: PixelPrior, known: Known) -> State:
    """Returns the state at the starts themselves."""
    coordinates = jnp.zeros_like(known.starts)
    losses, gradients = _losses_and_gradients(local, prior, known, coordinates)
    directions, memory = _fresh(gradients, coordinates)
    return State(coordinates, losses, gradients, directions, jnp.ones_like(losses), memory)


def take_steps(
    local: Representing, prior: PixelPrior, known: Known, state: State, count: int
) -> State:
    """Returns the state after so many steps: pure, and one dispatch where it is jitted."""
    if count == 1:
        return step(local, prior, known, state)
    body = lambda state, _: (step(local, prior, known, state), None)  # noqa: E731
    return jax.lax.scan(body, state, None, length=count)[0]


def step(local: Representing, prior: PixelPrior, known: Known, state: State) -> State:
    """Tries one point per image, and goes there where the loss is less than it was.

    A search along a line would hold up all images for the one that searches longest.
    """
    trial = state.coordinates + _each(state.lengths) * state.directions
    losses, gradients = _losses_and_gradients(local, prior, known, trial)
    promised = state.lengths * _inner(state.gradients, state.directions)
    is_better = losses <= state.losses + _LEAST_FALL * promised
    updates, memory = jax.vmap(_optimiser.update)(gradients, state.memory, trial)
    # Where the curvature was not positive L-BFGS may lead uphill: it forgets, and starts anew.
    leads_down = _inner(gradients, updates) > 0
    downhill, fresh_memory = _fresh(gradients, trial)
    directions = _where(leads_down, -updates, downhill)
    memory = _where(leads_down, memory, fresh_memory)
    moved = State(trial, losses, gradients, directions, jnp.ones_like(losses), memory)
    return _where(is_better, moved, state._replace(lengths=_CUT * state.lengths))


@functools.lru_cache(maxsize=4)  # no more: some hold a local NN's parameters
def _compiled(structure: Any, split: Any) -> tuple[Callable[..., Any], ...]:
    """`start`, `take_steps` and `_images_of`, whose results are spread like the images."""
    del structure  # one cache for each
    jitted = functools.partial(jax.jit, out_shardings=split)
    # New functions: JAX keeps a function's programs for as long as there is the function.
    return (
        jitted(lambda *known: start(*known)),
        jitted(lambda *known: take_steps(*known), static_argnums=(4,), donate_argnums=(3,)),
        jitted(_images_of),
    )


def _losses_and_gradients(
    local: Representing, prior: PixelPrior, known: Known, coordinates: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def total(coordinates: jax.Array) -> tuple[jax.Array, jax.Array]:
        images = known.starts + offsets_of(prior, coordinates)
        misfit = _squares(local(images) - known.representations)
        outside = _squares(images - jnp.clip(images, 0.0, 1.0))
        losses = (
            misfit
            + RANGE_WEIGHT * outside
            + known.weights.total_variation * total_variation(images)
            + known.weights.prior * _squares(coordinates) / 2
        )
        return losses.sum(), losses

    (_, losses), gradients = jax.value_and_grad(total, has_aux=True)(coordinates)
    return losses, gradients


def _fresh(gradients: jax.Array, coordinates: jax.Array) -> tuple[jax.Array, Any]:
    """Directions downhill, no longer than one, and L-BFGS' memory of having been there."""
    memory = jax.vmap(_optimiser.init)(coordinates)._replace(
        count=jnp.ones(len(coordinates), jnp.int32), params=coordinates, updates=gradients
    )
    norms = jnp.sqrt(_squares(gradients))
    return -gradients / _each(jnp.maximum(norms, 1.0)), memory


def _images_of(prior: PixelPrior, known: Known, state: State) -> jax.Array:
    return jnp.clip(known.starts + offsets_of(prior, state.coordinates), 0.0, 1.0)


def _where(condition: jax.Array, these: Any, those: Any) -> Any:
    """Chooses image by image between two pytrees of leading axis N."""
    choose: Callable[..., jax.Array] = lambda x, y: jnp.where(  # noqa: E731
        condition.reshape(-1, *(1,) * (x.ndim - 1)), x, y
    )
    return jax.tree.map(choose, these, those)


def _each(values: jax.Array) -> jax.Array:
    return values[:, None, None, None]


def _inner(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.sum(x * y, axis=tuple(range(1, x.ndim)))


def _squares(x: jax.Array) -> jax.Array:
    return _inner(x, x)
