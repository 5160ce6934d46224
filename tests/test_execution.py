"""Which devices and plans are chosen, and that cells get the same numbers under every plan."""

import functools
import types

import jax
import numpy as np
import pytest

from privynet_jax import training
from privynet_jax.execution import Execution, MappedTask, data_parallel, default_execution
from privynet_jax.models import attacker
from privynet_jax.training import Schedule, attacker_task

CELLS, STEPS, BATCH, SIZE, DEPTH = 4, 3, 4, 16, 3
# (devices, cells per device)
PLANS = [(1, 1), (2, 1), (1, 2), (2, 2)]
TASK = attacker_task(attacker(SIZE, width=8, num_blocks=0), Schedule(STEPS, BATCH, 1e-3))


def devices(platform, count):
    return [types.SimpleNamespace(platform=platform, id=index) for index in range(count)]


@pytest.mark.parametrize(
    ("platform", "count", "cells_per_layer", "given", "expected"),
    [
        # One cell and one step on each CPU device, and no more devices than cells.
        ("cpu", 2, 4, {}, (2, 1, 1)),
        ("cpu", 2, 1, {}, (1, 1, 1)),
        ("cpu", 2, 4, {"cells_per_device": 3, "steps_per_dispatch": 5}, (2, 3, 5)),
        # Elsewhere a layer's cells share the devices in equal groups, at most 8 on each: 7, 7, 6.
        ("gpu", 4, 6, {}, (4, 2, 10)),
        ("gpu", 4, 3, {}, (3, 1, 10)),
        ("gpu", 1, 20, {}, (1, 7, 10)),
        ("tpu", 8, 64, {}, (8, 8, 10)),
        ("tpu", 8, 64, {"cells_per_device": 1}, (8, 1, 10)),
        ("gpu", 1, 20, {"steps_per_dispatch": 1}, (1, 7, 1)),
    ],
)
def test_the_backend_picks_and_arguments_override(
    monkeypatch, platform, count, cells_per_layer, given, expected
):
    present = devices(platform, count)
    monkeypatch.setattr(jax, "local_devices", lambda: present)
    found = default_execution(cells_per_layer, **given)
    assert found.devices == tuple(present[: expected[0]])
    assert (found.cells_per_device, found.steps_per_dispatch) == expected[1:]
    assert found.group_size == expected[0] * expected[1]


def cell_arrays():
    """Per cell: its key, its attack, its batches and their images; a different one for each."""
    rng = np.random.default_rng(0)
    side = SIZE // 4
    keys = np.stack([jax.random.key_data(jax.random.key(cell)) for cell in range(CELLS)])
    attack = training.linear.LinearAttack(
        rng.normal(0, 0.05, (CELLS, 3, 3, DEPTH, 48)).astype(np.float32),
        rng.uniform(0.3, 0.6, (CELLS, 48)).astype(np.float32),
    )
    inputs = rng.exponential(size=(CELLS, STEPS, BATCH, side, side, DEPTH)).astype(np.float16)
    images = rng.integers(0, 256, (CELLS, STEPS, BATCH, SIZE, SIZE, 3), np.uint8)
    return keys, attack, inputs, images


@functools.cache
def mapped_task(num_devices, cells_per_device):
    devices = tuple(jax.local_devices()[:num_devices])
    execution = Execution(devices, cells_per_device, steps_per_dispatch=1)
    return MappedTask(TASK, execution), execution


def trained(num_devices, cells_per_device):
    """(state, loss, metrics, outputs) of all cells after three steps, leading axis cells."""
    mapped, execution = mapped_task(num_devices, cells_per_device)
    groups = []
    for start in range(0, CELLS, execution.group_size):
        keys, attack, inputs, images = jax.tree.map(
            lambda x, start=start: x[start : start + execution.group_size].reshape(
                num_devices, cells_per_device, *x.shape[1:]
            ),
            cell_arrays(),
        )
        state = mapped.init(keys, inputs[:, :, 0])
        for step in range(STEPS):
            rows = slice(step, step + 1)
            state, loss = mapped.steps(state, attack, inputs[:, :, rows], images[:, :, rows])
        metrics = mapped.evaluate(state.params, attack, inputs[:, :, 0], images[:, :, 0])
        outputs = mapped.predict(state.params, attack, inputs[:, :, 0])
        groups.append(
            jax.tree.map(
                lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), (state, loss, metrics, outputs)
            )
        )
    return jax.tree.map(lambda *x: np.concatenate(x), *groups)


def test_cells_equal_those_trained_without_any_mapping():
    keys, attack, inputs, images = cell_arrays()
    init, step, predict, evaluate = (
        jax.jit(functools.partial(function, TASK))
        for function in (
            training.init_state,
            training.train_step,
            training.predict,
            training.evaluate,
        )
    )
    state, losses, metrics, outputs = trained(1, 1)
    for cell in range(CELLS):
        extras = jax.tree.map(lambda x, cell=cell: x[cell], attack)
        key = jax.random.wrap_key_data(keys[cell])
        expected = init(key, np.float32(inputs[cell, 0]))
        for batch in zip(inputs[cell], images[cell], strict=True):
            expected, loss = step(expected, extras, *batch)
        # The same program but for two axes of length one; see below for the tolerance.
        for one, other in zip(
            jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True
        ):
            np.testing.assert_allclose(one[cell], other, atol=1e-4)
        assert losses[cell] == pytest.approx(float(loss), rel=1e-4)
        found = predict(expected.params, extras, inputs[cell, 0])
        np.testing.assert_allclose(outputs[cell], found, atol=1e-3)
        quality = evaluate(expected.params, extras, inputs[cell, 0], images[cell, 0])
        for metric, values in quality.items():
            np.testing.assert_allclose(metrics[metric][cell], values, atol=1e-2)


@pytest.mark.parametrize("plan", PLANS[1:], ids=lambda plan: "{} x {}".format(*plan))
def test_every_plan_gives_every_cell_the_same(plan):
    expected, found = trained(1, 1), trained(*plan)
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        assert one.shape == other.shape
        if plan[1] == 1:
            np.testing.assert_array_equal(one, other)
        else:
            # vmap sums in another order, and XLA then shares the sums out by the number of devices
            # as well; Adam magnifies that where gradients are small, up to a fraction of its steps
            # of 1e-3. Measured: 3e-11 in the parameters.
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: "{} x {}".format(*plan))
def test_the_same_plan_gives_the_same_bits_again(plan):
    once, again = trained(*plan), trained(*plan)
    for one, other in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_cells_are_different_from_one_another():
    # Otherwise the comparisons above would not notice cells that change places.
    kernel = trained(1, 1)[0].params["params"]["head"]["kernel"]
    for cell in range(1, CELLS):
        assert np.abs(kernel[cell] - kernel[0]).max() > 1e-3


def test_images_are_not_spread_over_cpu_devices():
    assert len(jax.local_devices()) == 2  # conftest's doing
    images, everywhere = data_parallel()
    assert images.device_set == everywhere.device_set == {jax.local_devices()[0]}
    assert images.spec == jax.sharding.PartitionSpec("images")
    assert everywhere.is_fully_replicated
