"""One step against NumPy, several in one dispatch, and what every backend must accept."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small_training import BATCH, RATE, WIDTH, numpy_adamw, regression

from privynet_jax.images.parts import as_float
from privynet_jax.training import steps
from privynet_jax.training.models.linear_attack import LinearAttack, reconstruct
from privynet_jax.training.optimisers import muon
from privynet_jax.training.steps import (
    Constants,
    Dispatch,
    Resident,
    init_state,
    outputs_of,
    step,
    take_steps,
)
from privynet_jax.training.tasks import attacker_task

SIZE = 16


def batches(count, seed=2):
    rng = np.random.default_rng(seed)
    x = np.float32(rng.normal(size=(count, BATCH, 2, 2, WIDTH)))
    # The first errors are large, so that gradients are clipped, the last ones are not.
    return x, np.float32(
        rng.normal(size=(count, BATCH, 2)) * np.linspace(10, 0, count)[:, None, None]
    )


def dispatch(x, y, rates, live=None):
    count = len(rates)
    live = np.ones(count, bool) if live is None else live
    return Dispatch((x, y), np.float32(rates), np.arange(count, dtype=np.int32), live)


def assert_close(one, other, atol):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def test_a_step_is_adamw_with_clipping_and_decay(monkeypatch):
    monkeypatch.setattr(steps, "WEIGHT_DECAY", 0.3)
    (x, y), rates = batches(20), RATE * np.linspace(1, 0, 20)
    task = regression()
    state = init_state(task, jax.random.key(0), x[0])
    initial, losses = np.float64(state.params["params"]["w"]), []
    one = jax.jit(functools.partial(step, task))
    for index, rate in enumerate(rates):
        state, loss = one(state, (), x[index], y[index], np.float32(rate))
        losses.append(float(loss))
    means = np.float64(x).mean(axis=(2, 3))
    expected, expected_losses = numpy_adamw(initial, zip(means, y, strict=True), rates, 0.3)
    undecayed, _ = numpy_adamw(initial, zip(means, y, strict=True), rates, 0.0)
    # A hundredth of what 20 steps move (see test_trainer.CLOSE); decay alone moves more.
    atol = 0.01 * rates.sum()
    assert np.abs(expected - undecayed).max() > 5 * atol
    np.testing.assert_allclose(state.params["params"]["w"], expected, atol=atol)
    np.testing.assert_allclose(losses, expected_losses, rtol=0.01)


def test_hard_copies_lie_up_the_loss():
    (x, y), task = batches(1), regression(hardness=0.5)
    state = init_state(task, jax.random.key(0), x[0])
    w, means = np.float64(state.params["params"]["w"]), np.float64(x[0]).mean(axis=(1, 2))
    _, loss = step(task, state, (), x[0], y[0], np.float32(RATE))
    # Of |x w - y|^2 the gradient in x is (x w - y) w^T; a mean moves as far as all of its values.
    hard = means + 0.5 * np.sign((means @ w - y[0]) @ w.T)
    clean, harder = (np.square(each @ w - y[0]).mean() for each in (means, hard))
    assert harder > clean
    np.testing.assert_allclose(loss, (clean + harder) / 2, rtol=1e-5)


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_steps_of_one_dispatch_are_those_steps(optimiser):
    task = regression(**({"optimiser": muon} if optimiser == "muon" else {}))
    (x, y), rates = batches(5), [RATE, RATE / 2, 0, RATE, RATE]
    start = init_state(task, jax.random.key(0), x[0])
    one = jax.jit(functools.partial(step, task))
    looped, losses = start, []
    for index in range(3):
        looped, loss = one(looped, (), x[index], y[index], np.float32(rates[index]))
        losses.append(loss)
    many = jax.jit(functools.partial(take_steps, task))
    constants = Constants(
        (), jax.random.key_data(jax.random.key(0)), np.arange(WIDTH), np.ones(WIDTH, bool)
    )
    # The last two fill up the dispatch, and leave no trace, the optimiser's counts included.
    filled = dispatch(x, y, rates, np.arange(5) < 3)
    scanned, found = many(start, constants, None, filled)
    assert_close(scanned.params, looped.params, atol=0.01 * sum(rates[:3]))
    np.testing.assert_allclose(found[:3], losses, rtol=0.01)
    counts = [x for x in jax.tree.leaves(scanned.optimiser) if x.dtype == np.int32]
    assert {int(count) for count in counts} == {3}
    # A single one is no scan, which on CPU would be slow.
    single = dispatch(x[:1], y[:1], rates[:1])
    jaxpr = jax.make_jaxpr(functools.partial(take_steps, task))
    if optimiser == "adamw":  # Muon has one of its own
        assert "scan" not in str(jaxpr(start, constants, None, single))
        assert "scan" in str(jaxpr(start, constants, None, filled))
    rows = np.arange(2 * BATCH).reshape(2, BATCH)
    flat = Resident(*(jnp.asarray(array).reshape(-1, *array.shape[2:]) for array in (x, y)))
    two = dispatch(x[:2], y[:2], rates[:2])
    by_rows, _ = take_steps(task, start, constants, flat, two._replace(batches=rows))
    assert_close(by_rows, many(start, constants, None, two)[0], atol=1e-2)


def images_and_inputs(stride=4):
    rng = np.random.default_rng(0)
    side, block = SIZE // stride, 3 * stride**2
    x = np.float16(rng.exponential(size=(BATCH, side, side, WIDTH)))
    kernel = np.float32(rng.normal(0, 0.05, (3, 3, WIDTH, block)))
    images = rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)
    return x, images, LinearAttack(kernel, np.full(block, 0.4, np.float32))


class Shown(nn.Module):
    """Corrects the estimate that it is shown by a share of it."""

    image_size: int = SIZE

    @nn.compact
    def __call__(self, x, estimate):
        return self.param("share", nn.initializers.ones, ()) * estimate


SHOWN = attacker_task(Shown(), name="shown", stream=3, shows_estimate=True)


def test_a_network_may_be_shown_the_linear_estimate():
    x, _, attack = images_and_inputs()
    params = SHOWN.init(jax.random.key(0), np.float32(x))
    estimate = reconstruct(attack, np.float32(x))
    np.testing.assert_array_equal(SHOWN.predict(params, attack, np.float32(x)), 2 * estimate)


def test_stored_types_count_as_float32():
    x, images, attack = images_and_inputs()
    state = init_state(SHOWN, jax.random.key(0), np.float32(x))
    one = jax.jit(functools.partial(step, SHOWN))
    half, full = (one(state, attack, inputs, images, 1e-3) for inputs in (x, np.float32(x)))
    assert_close(half, full, atol=0)  # every float16 is a float32
    estimates = SHOWN.predict(state.params, attack, np.float32(x))
    # A mean over 3,072 squares: sums in float32 are known to some 1e-6.
    assert float(half[1]) == pytest.approx(float(SHOWN.loss(estimates, as_float(images))), rel=1e-5)


def test_images_are_clipped_and_logits_are_not():
    x, _, attack = images_and_inputs()
    params = SHOWN.init(jax.random.key(0), np.float32(x))
    for bias, expected in ((3.0, 1), (-2.0, 0)):
        grey = LinearAttack(0 * attack.kernel, np.full_like(attack.bias, bias))
        assert np.unique(outputs_of(SHOWN, params, grey, x)).tolist() == [expected]
    w = np.linspace(-3, 3, 2 * WIDTH, dtype=np.float32).reshape(WIDTH, 2)
    logits = outputs_of(regression(), {"params": {"w": w}}, (), x)
    expected = np.float64(x).mean(axis=(1, 2)) @ w
    # Sums of 16 pixels and 4 channels in float32, of terms up to 10.
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert expected.max() > 1.1
    assert expected.min() < -0.1
