"""Training steps against arithmetic by hand or in NumPy, and what every backend must accept."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from privynet_jax.images.depth_and_space import space_to_depth
from privynet_jax.images.parts import as_float
from privynet_jax.training import linear_attack
from privynet_jax.training.linear_attack import LinearAttack
from privynet_jax.training.networks import attacker, cloud_nn
from privynet_jax.training.tasks import (
    Schedule,
    attacker_task,
    batch_order,
    cloud_task,
    evaluate,
    init_state,
    linear_task,
    predict,
    train_step,
    train_steps,
)

SIZE, DEPTH, CLASSES, BATCH = 16, 5, 4, 8
PLATFORMS = ("cpu", "cuda", "tpu")
ONE, THREE = np.ones(1, bool), np.ones(3, bool)


class ChannelMeans(nn.Module):
    """A linear model of the channels' means: small enough to be differentiated by hand."""

    outputs: int = 2

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.normal(1.0), (DEPTH, self.outputs))
        return x.mean(axis=(1, 2)) @ w


def regression_task(schedule):
    """Mean squared error of `ChannelMeans` against numbers [N, 2]."""
    return dataclasses.replace(
        cloud_task(ChannelMeans(), schedule),
        loss=lambda outputs, targets: jnp.mean(jnp.square(outputs - targets)),
    )


def random_batches(count, stride=4, seed=0):
    """`count` batches: representations, labels, and uint8 images."""
    rng = np.random.default_rng(seed)
    side = SIZE // stride
    representations = rng.exponential(size=(count, BATCH, side, side, DEPTH)).astype(np.float16)
    labels = rng.integers(0, CLASSES, (count, BATCH), np.int32)
    return representations, labels, rng.integers(0, 256, (count, BATCH, SIZE, SIZE, 3), np.uint8)


def random_attack(stride=4, seed=1):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(0, 0.05, (3, 3, DEPTH, stride * stride * 3))
    return LinearAttack(np.float32(kernel), np.full(stride * stride * 3, 0.4, np.float32))


def tiny_task(name, schedule=None):
    schedule = schedule or Schedule(steps=20, batch_size=BATCH)
    return {
        "cloud": cloud_task(cloud_nn(CLASSES, SIZE, width=8), schedule),
        "attacker": attacker_task(attacker(SIZE, width=8, num_blocks=1), schedule),
        "linear": linear_task(),
    }[name]


def initial_state(task, example, seed=0):
    return jax.jit(functools.partial(init_state, task))(jax.random.key(seed), example)


def assert_same_trees(one, other, **tolerance):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, **tolerance)


def test_every_steps_loss_is_in_the_curve():
    task = regression_task(Schedule(steps=25, batch_size=BATCH, learning_rate=0.05))
    inputs, _, _ = random_batches(25)
    state = init_state(task, jax.random.key(0), inputs[0])
    losses = []
    for x in inputs:
        state, loss = train_step(task, state, (), x, np.ones((BATCH, 2), np.float32))
        losses.append(float(loss))
    stretches = np.arange(25) * 10 // 25
    expected = [np.sum(np.array(losses)[stretches == point]) for point in range(10)]
    np.testing.assert_allclose(state.curve.sums, expected, rtol=1e-5)
    assert state.curve.step == 25


def targets_of(task, labels, images):
    return labels if task.targets == "labels" else images


def numpy_adamw(w, batches, schedule):
    """AdamW (arXiv:1711.05101) with clipped gradients, warm-up and cosine, in float64."""
    first, second, losses = np.zeros_like(w), np.zeros_like(w), []
    warmup = schedule.steps // 10
    for step, (x, y) in enumerate(batches):
        error = x @ w - y
        losses.append(np.mean(error**2))
        gradient = 2 * x.T @ error / error.size
        gradient /= max(1.0, np.sqrt(np.sum(gradient**2)))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        direction = first / (1 - 0.9 ** (step + 1))
        direction /= np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8
        if step < warmup:
            rate = schedule.learning_rate * step / warmup
        else:
            phase = (step - warmup) / (schedule.steps - warmup)
            rate = schedule.learning_rate * 0.5 * (1 + np.cos(np.pi * phase))
        w = w - rate * (direction + schedule.weight_decay * w)
    return w, losses


def test_steps_are_adamw_with_warm_up_cosine_and_clipping():
    schedule = Schedule(steps=20, batch_size=BATCH, learning_rate=0.05, weight_decay=0.3)
    task = regression_task(schedule)
    rng = np.random.default_rng(2)
    inputs = rng.normal(size=(20, BATCH, 2, 2, DEPTH)).astype(np.float32)
    # The first batches' errors are large, so that their gradients are clipped, the last ones' not.
    answers = (rng.normal(size=(20, BATCH, 2)) * np.linspace(10, 0, 20)[:, None, None]).astype("f4")
    state = init_state(task, jax.random.key(0), inputs[0])
    initial = np.float64(state.params["params"]["w"])
    losses = []
    for x, y in zip(inputs, answers, strict=True):
        state, loss = train_step(task, state, (), x, y)
        losses.append(float(loss))
    means = np.float64(inputs).mean(axis=(2, 3))
    expected, expected_losses = numpy_adamw(initial, zip(means, answers, strict=True), schedule)
    assert np.abs(expected - initial).min() > 0.01
    # Twenty steps of float32; leaving out decay, clipping or warm-up changes the second digit.
    np.testing.assert_allclose(state.params["params"]["w"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 9])
def test_runs_too_short_to_warm_up_start_at_the_peak(steps):
    task = regression_task(Schedule(steps, BATCH, learning_rate=0.05, weight_decay=0.0))
    x = np.ones((BATCH, 2, 2, DEPTH), np.float32)
    state = init_state(task, jax.random.key(0), x)
    after, _ = train_step(task, state, (), x, np.full((BATCH, 2), 100, np.float32))
    # Adam's first step is the learning rate in the sign of the gradient.
    change = after.params["params"]["w"] - state.params["params"]["w"]
    np.testing.assert_allclose(change, 0.05, rtol=1e-4)


def test_smoothed_cross_entropy_by_hand():
    probabilities = np.array([[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]], np.float32)
    loss = tiny_task("cloud").loss(jnp.log(probabilities), jnp.array([0, 2]))
    # A tenth of the label is shared out among four classes: 0.925 for the right, 0.025 for others.
    first = -(0.925 * np.log(0.7) + 3 * 0.025 * np.log(0.1))
    assert float(loss) == pytest.approx((first + np.log(4)) / 2, rel=1e-6)


def test_tasks_say_what_they_learn_from():
    cloud, residual, closed = (tiny_task(name) for name in ("cloud", "attacker", "linear"))
    # The attacker owns the auxiliary part only, and must not learn from the target part.
    assert [(t.part, t.targets) for t in (cloud, residual, closed)] == [
        ("target", "labels"),
        ("auxiliary", "images"),
        ("auxiliary", "images"),
    ]
    assert len({task.stream for task in (cloud, residual, closed)}) == 3
    with pytest.raises(ValueError, match="is not trained"):
        init_state(closed, jax.random.key(0), random_batches(1)[0][0])


def test_epochs_are_permutations():
    order = batch_order(jax.random.key(3), 7, Schedule(steps=10, batch_size=3))
    assert order.shape == (10, 3)
    epochs = order.ravel()[:28].reshape(4, 7)
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1


def test_a_longer_schedule_begins_with_the_same_batches():
    short, long = (
        batch_order(jax.random.key(3), 50, Schedule(steps=steps, batch_size=8)) for steps in (5, 40)
    )
    np.testing.assert_array_equal(short, long[:5])


def test_the_order_depends_on_the_key_alone():
    def order(key, rate=1e-3):
        return batch_order(key, 50, Schedule(steps=5, batch_size=8, learning_rate=rate)).tolist()

    np.random.seed(0)  # global state, which must not matter
    first = order(jax.random.key(3))
    np.random.seed(1)
    assert order(jax.random.key(3), rate=1.0) == first
    assert order(jax.random.key(4)) != first


def test_a_batch_may_be_larger_than_the_part():
    order = batch_order(jax.random.key(0), 3, Schedule(steps=2, batch_size=8))
    assert np.bincount(order.ravel()).tolist() in ([6, 5, 5], [5, 6, 5], [5, 5, 6])


def test_scanned_steps_equal_a_loop():
    task = tiny_task("attacker", Schedule(steps=4, batch_size=BATCH, learning_rate=1e-3))
    inputs, _, answers = random_batches(3)
    start = initial_state(task, np.float32(inputs[0]))
    step = jax.jit(functools.partial(train_step, task))
    looped = start
    for batch in zip(inputs, answers, strict=True):
        looped, last_loss = step(looped, random_attack(), *batch)
    steps = jax.jit(functools.partial(train_steps, task))
    # Two more steps fill up the dispatch, and must leave no trace.
    filled, live = [np.concatenate([x, x[:2]]) for x in (inputs, answers)], np.arange(5) < 3
    scanned, loss = steps(start, random_attack(), tuple(filled), live)
    assert float(loss) == pytest.approx(float(last_loss), rel=1e-4)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), looped.params, start.params)
    assert max(jax.tree.leaves(moved)) > 1e-3
    # Adam divides by the gradient's size, which magnifies rounding where a gradient is small: a
    # tenth of the learning rate. A step left out or doubled moves most parameters by all of it.
    assert_same_trees(looped.params, scanned.params, atol=1e-4)


def test_one_step_is_not_scanned():
    task, (inputs, _, _) = regression_task(Schedule(steps=4)), random_batches(1)
    answers = np.ones((1, BATCH, 2), np.float32)
    start = initial_state(task, np.float32(inputs[0]))
    steps = functools.partial(train_steps, task)
    assert "scan" not in str(jax.make_jaxpr(steps)(start, (), (inputs, answers), ONE))
    three = tuple(np.repeat(array, 3, axis=0) for array in (inputs, answers))
    assert "scan" in str(jax.make_jaxpr(steps)(start, (), three, THREE))
    expected = train_step(task, start, (), inputs[0], answers[0])
    assert_same_trees(steps(start, (), (inputs, answers), ONE), expected, atol=0)


def test_batches_are_fetched_step_by_step():
    task, (inputs, _, _) = regression_task(Schedule(steps=4)), random_batches(3)
    answers = np.ones((3, BATCH, 2), np.float32)
    start = initial_state(task, np.float32(inputs[0]))
    everything = jnp.concatenate(inputs), jnp.concatenate(answers)
    rows = np.arange(3 * BATCH).reshape(3, BATCH)
    fetched = train_steps(
        task, start, (), rows, THREE, lambda mine: jax.tree.map(lambda x: x[mine], everything)
    )
    assert_same_trees(fetched, train_steps(task, start, (), (inputs, answers), THREE), atol=0)


def test_the_cloud_nns_task_learns_a_toy_problem():
    # A linear model will do, and compiles at once; test_grid trains the cloud NN itself.
    network = ChannelMeans(outputs=CLASSES)
    task = cloud_task(network, Schedule(steps=200, batch_size=BATCH, learning_rate=0.1))
    inputs, labels, _ = random_batches(200)
    # The class is the channel that is three times as strong.
    inputs = inputs * np.where(np.arange(DEPTH) == labels[..., None], 3, 1)[:, :, None, None]
    state = initial_state(task, np.float32(inputs[0]))
    step = jax.jit(functools.partial(train_step, task))
    losses = []
    for batch in zip(inputs, labels, strict=True):
        state, loss = step(state, (), *batch)
        losses.append(float(loss))
    # No better than guessing at first; with labels smoothed by a tenth, 0.35 is the least.
    assert np.mean(losses[:5]) > np.log(CLASSES)
    assert 0.35 < np.mean(losses[-20:]) < 0.6
    seen = inputs[-20:].reshape(-1, 4, 4, DEPTH), labels[-20:].ravel()
    right = evaluate(task, state.params, (), *seen)
    assert right["accuracy"].mean() > 0.95


def test_the_attacker_learns_what_a_linear_map_cannot(small_parts):
    images = small_parts.auxiliary.images[:64]
    folded = np.asarray(space_to_depth(as_float(images), 4))
    # Squared differences from grey: a linear map cannot tell bright from dark.
    inputs = np.float16(8 * np.square(folded - 0.5))
    sums = linear_attack.gather_statistics([(np.float32(inputs), as_float(images))])
    attack = linear_attack.fit(sums, sums, range(inputs.shape[-1]))
    schedule = Schedule(steps=60, batch_size=64, learning_rate=3e-3)
    task = attacker_task(attacker(32, width=16, num_blocks=1), schedule)
    state = initial_state(task, np.float32(inputs))
    step = jax.jit(functools.partial(train_step, task))
    losses = []
    for _ in range(schedule.steps):
        state, loss = step(state, attack, inputs, images)
        losses.append(float(loss))
    estimates = linear_attack.reconstruct(attack, np.float32(inputs))
    start = np.mean(np.square(np.float64(estimates) - images / 255))
    assert losses[0] == pytest.approx(start, rel=1e-5)
    assert losses[-1] < 0.8 * start


def test_the_attacker_starts_exactly_at_the_linear_attack():
    task, attack = tiny_task("attacker"), random_attack()
    inputs = np.float32(random_batches(1)[0][0])
    params = initial_state(task, inputs, seed=5).params
    found = task.predict(params, attack, inputs)
    np.testing.assert_array_equal(found, linear_attack.reconstruct(attack, inputs))
    np.testing.assert_array_equal(found, tiny_task("linear").predict({}, attack, inputs))


@pytest.mark.parametrize(("bias", "grey"), [(3.0, 255), (-2.0, 0)])
@pytest.mark.parametrize("name", ["attacker", "linear"])
def test_estimates_are_clipped_before_they_are_measured(name, bias, grey):
    task, inputs = tiny_task(name), random_batches(1)[0][0]
    attack = LinearAttack(np.zeros((3, 3, DEPTH, 48), np.float32), np.full(48, bias, np.float32))
    params = jax.jit(task.init)(jax.random.key(0), np.float32(inputs))
    images = np.full((BATCH, SIZE, SIZE, 3), grey, np.uint8)
    assert np.unique(predict(task, params, attack, inputs)).tolist() == [grey / 255]
    found = evaluate(task, params, attack, inputs, images)
    # Clipped, the estimate is perfect, which counts as 100 dB.
    np.testing.assert_allclose(found["psnr_db"], 100.0)
    np.testing.assert_allclose(found["ssim"], 1.0, rtol=1e-6)
    middling = evaluate(task, params, attack, inputs, np.full_like(images, 51 if grey else 204))
    # 51 is 0.2 away from 0 and 0.8 from 1: either way the error is 0.8.
    np.testing.assert_allclose(middling["psnr_db"], -20 * np.log10(0.8), rtol=1e-4)


def test_logits_are_not_clipped():
    task, inputs = regression_task(Schedule(steps=4)), random_batches(1)[0][0]
    weights = np.linspace(-3, 3, 2 * DEPTH, dtype=np.float32).reshape(DEPTH, 2)
    logits = predict(task, {"params": {"w": weights}}, (), inputs)
    expected = np.float64(inputs).mean(axis=(1, 2)) @ weights
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)  # float32 sums
    assert expected.min() < -0.1
    assert expected.max() > 1.1


def test_images_of_eight_bits_count_as_float_images():
    task = attacker_task(attacker(SIZE, width=4, num_blocks=0), Schedule(steps=4))
    attack = random_attack()
    inputs, _, images = (batches[0] for batches in random_batches(1))
    state = initial_state(task, np.float32(inputs))
    _, loss = jax.jit(functools.partial(train_step, task))(state, attack, inputs, images)
    estimates = jax.jit(task.predict)(state.params, attack, np.float32(inputs))
    # Division by 255 may round otherwise in XLA: one unit in the last place per pixel.
    assert float(loss) == pytest.approx(float(task.loss(estimates, as_float(images))), rel=1e-6)
    found = evaluate(task, state.params, attack, inputs, images)
    expected = task.measure(np.clip(estimates, 0, 1), as_float(images))
    for metric in ("psnr_db", "ssim"):
        np.testing.assert_allclose(found[metric], expected[metric], rtol=1e-5)


def test_half_precision_representations_count_as_float32():
    task, (inputs, _, _) = regression_task(Schedule(steps=4)), random_batches(3)
    answers = np.ones((3, BATCH, 2), np.float32)
    state = initial_state(task, np.float32(inputs[0]))
    half = train_step(task, state, (), inputs[0], answers[0])
    full = train_step(task, state, (), np.float32(inputs[0]), answers[0])
    assert_same_trees(half, full, atol=0)
    half = train_steps(task, state, (), (inputs, answers), THREE)
    full = train_steps(task, state, (), (np.float32(inputs), answers), THREE)
    assert_same_trees(half, full, atol=0)


def test_a_network_may_be_shown_the_linear_estimate():
    class Shown(nn.Module):
        image_size: int = SIZE

        @nn.compact
        def __call__(self, x, estimate):
            return self.param("scale", nn.initializers.ones, ()) * estimate

    task = attacker_task(Shown(), Schedule(1), name="shown", stream=3, shows_estimate=True)
    x = np.float32(random_batches(1)[0][0])
    state = initial_state(task, x)
    assert (task.name, task.stream) == ("shown", 3)
    estimate = linear_attack.reconstruct(random_attack(), x)
    found = task.predict(state.params, random_attack(), x)
    np.testing.assert_allclose(found, 2 * estimate, rtol=1e-6)
