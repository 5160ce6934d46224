"""Matching representations, image by image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from privynet_jax.attacks import matching
from privynet_jax.attacks.matching import Known, Matcher, Weights
from privynet_jax.attacks.pixel_prior import PixelPrior, offsets_of
from privynet_jax.backbone.split import local_nn
from privynet_jax.backbone.topology import Topology

SIDE = 8
PRIOR = PixelPrior(np.full((SIDE, SIDE, 3), 0.2, np.float32), np.eye(3, dtype=np.float32))
MIXING = np.float32(np.random.default_rng(0).normal(size=(3, 5)))
# Near its minimum, a loss of about 1 with curvatures of about 1 no longer changes in float32 when
# pixels change by sqrt(2 * eps) = 5e-4: so far apart may two computations of one search end.
SEARCHED = 1e-3


def mixed(images):
    """A local NN that is linear in each pixel and loses nothing."""
    return images @ MIXING


def some_images(count, seed=1):
    return np.random.default_rng(seed).random((count, SIDE, SIDE, 3), np.float32)


def weights(count, tv=0.0, prior=0.0):
    return Weights(np.full(count, tv), np.full(count, prior))


def test_without_other_terms_the_representation_is_matched():
    images = some_images(5)
    starts = np.full_like(images, 0.5)
    matcher = Matcher(mixed, PRIOR)
    found = matcher(mixed(images), starts, weights(5), 60)
    np.testing.assert_allclose(found.images, images, atol=SEARCHED)
    half_as_many = matcher(mixed(images), starts, weights(5), 30)
    np.testing.assert_array_equal(found.halfway, half_as_many.images)
    first, middle, last = found.losses
    assert (last <= middle).all()
    assert (middle < first).all()


def test_the_prior_gives_the_ridge_solution():
    images, starts = some_images(3), some_images(3, seed=2) * 0.2 + 0.4
    found = Matcher(mixed, PRIOR)(mixed(images), starts, weights(3, prior=1.5), 60)
    # |A d - r|^2 + 1.5 |d / 0.2|^2 / 2, per pixel: orthogonal transforms leave the norm alone.
    normal = MIXING @ MIXING.T + 1.5 / (2 * 0.2**2) * np.eye(3)
    expected = starts + mixed(images - starts) @ MIXING.T @ np.linalg.inv(normal)
    assert expected.min() > 0  # the range of pixels is not what decides here
    assert expected.max() < 1
    np.testing.assert_allclose(found.images, expected, atol=SEARCHED)


def test_each_image_has_weights_of_its_own():
    images = some_images(4)
    starts = np.full_like(images, 0.5)
    each = Weights(np.array([0.0, 0.3, 0.0, 30.0]), np.array([0.0, 0.0, 1e6, 0.0]))
    matcher = Matcher(mixed, PRIOR)
    together = matcher(mixed(images), starts, each, 40).images
    for i in range(4):
        one = Weights(each.total_variation[i : i + 1], each.prior[i : i + 1])
        alone = matcher(mixed(images[i : i + 1]), starts[i : i + 1], one, 40).images
        np.testing.assert_allclose(together[i], alone[0], atol=SEARCHED)
    np.testing.assert_allclose(together[2], 0.5, atol=1e-3)  # the prior holds it fast
    assert np.abs(np.diff(together[3], axis=0)).mean() < 0.02  # smooth


def test_batches_change_nothing(monkeypatch):
    images = some_images(7)
    starts = np.full_like(images, 0.5)
    large = Matcher(mixed, PRIOR)
    for name in ("_PIXELS_ON_CPU", "_PIXELS_ELSEWHERE"):
        monkeypatch.setattr(matching, name, 2 * SIDE * SIDE)
    small = Matcher(mixed, PRIOR)
    ours, theirs = (
        m(mixed(images), starts, weights(7, tv=0.1, prior=0.1), 30) for m in (small, large)
    )
    np.testing.assert_allclose(ours.images, theirs.images, atol=SEARCHED)
    again = small(mixed(images), starts, weights(7, tv=0.1, prior=0.1), 30)
    np.testing.assert_array_equal(ours.images, again.images)


def known_and_state(images):
    known = jax.tree.map(
        jnp.float32, Known(mixed(images), np.full_like(images, 0.5), weights(len(images), 0.1, 0.1))
    )
    return known, jax.jit(functools.partial(matching.start, mixed))(PRIOR, known)


def test_the_loss_is_the_sum_of_its_terms_and_its_gradient():
    images = some_images(2)
    known, state = known_and_state(images)
    np.testing.assert_allclose(
        state.losses, np.sum((mixed(known.starts) - mixed(images)) ** 2, axis=(1, 2, 3)), rtol=1e-5
    )

    def loss(coordinates):
        x = known.starts + offsets_of(PRIOR, coordinates)
        # The rounded TV and the range of pixels have no slope at a constant grey.
        return jnp.sum((mixed(x) - mixed(images)) ** 2) + 0.05 * jnp.sum(coordinates**2)

    np.testing.assert_allclose(
        state.gradients, jax.grad(loss)(state.coordinates), rtol=1e-4, atol=1e-5
    )


def test_no_step_raises_an_image_s_own_loss():
    def rough(images):  # curvature of both signs
        return jnp.sin(9 * images @ MIXING)

    images = some_images(6)
    known = jax.tree.map(
        jnp.float32, Known(rough(images), np.full_like(images, 0.5), weights(6, 0.1, 0.1))
    )
    first = state = jax.jit(functools.partial(matching.start, rough))(PRIOR, known)
    step = jax.jit(functools.partial(matching.step, rough, PRIOR))
    for _ in range(30):
        new = step(known, state)
        assert (new.losses <= state.losses).all()
        state = new
    assert (state.losses < 0.7 * first.losses).all()


def test_several_steps_per_dispatch_are_the_same_steps():
    known, state = known_and_state(some_images(3))
    steps = functools.partial(matching.take_steps, mixed, PRIOR, known)
    at_once = jax.jit(steps, static_argnums=(1,))(state, 4)
    one = jax.jit(lambda state: steps(state, 1))
    for _ in range(4):
        state = one(state)
    # Coordinates are pixels in units of the prior, 0.2; four steps are a part of the search.
    np.testing.assert_allclose(at_once.coordinates, state.coordinates, atol=SEARCHED / 0.2)


@pytest.mark.parametrize("platforms", [["cuda"], ["tpu"]])
def test_steps_lower_for_accelerators(vgg_weights, platforms):
    local = local_nn(vgg_weights.params, Topology(4, (3, 17, 90)))
    images = np.zeros((2, 16, 16, 3), np.float32)
    prior = PixelPrior(np.ones((16, 16, 3), np.float32), np.eye(3, dtype=np.float32))
    known = Known(jax.eval_shape(local, images), images, jax.tree.map(np.float32, weights(2)))
    state = jax.eval_shape(functools.partial(matching.start, local), prior, known)
    steps = jax.jit(functools.partial(matching.take_steps, local), static_argnums=(3,))
    lowered = export.export(steps, platforms=platforms)(prior, known, state, 2)
    assert [x.shape for x in lowered.out_avals] == [x.shape for x in jax.tree.leaves(state)]
