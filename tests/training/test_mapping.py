"""Cells get the same numbers under every plan, and every plan lowers for every backend."""

import functools
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export

from privynet_jax.platform.devices import Execution, of_one_device
from privynet_jax.training import mapping, tasks
from privynet_jax.training.attackers import CAPACITIES, attacker_tasks
from privynet_jax.training.batches import CellConstants, Resident
from privynet_jax.training.mapping import DoesNotFitError, MappedTask
from privynet_jax.training.networks import attacker, cloud_nn
from privynet_jax.training.tasks import Schedule, attacker_task, cloud_task, linear_task

CELLS, STEPS, BATCH, SIZE, IMAGES, STORED = 8, 3, 4, 16, 24, 5
CHANNELS, WIDTH = [(0, 3, 4), (1, 2), (4,), (2, 0)], 3
# (devices, cells per device, steps per dispatch, whether the data are resident)
PLANS = [
    *[(1, 1, 1, False), (2, 1, 1, False), (2, 1, 1, True), (1, 2, 1, False), (2, 2, 1, True)],
    *[(1, 1, 3, False), (2, 2, 2, True)],
]
PLATFORMS = ("cpu", "cuda", "tpu")
TASK = attacker_task(attacker(SIZE, width=8, num_blocks=0), Schedule(STEPS, BATCH, 1e-3))


def stored_images(stride=4):
    rng = np.random.default_rng(0)
    side = SIZE // stride
    representations = rng.exponential(size=(IMAGES, side, side, STORED)).astype(np.float16)
    return representations, rng.integers(0, 256, (IMAGES, SIZE, SIZE, 3), np.uint8)


def cell_of(index, stride=4):
    """A cell's key data, its constants, and its rows [steps, batch size]; no two are the same."""
    rng = np.random.default_rng(index + 1)
    mine = CHANNELS[index % len(CHANNELS)]
    block = 3 * stride**2
    attack = tasks.linear_attack.LinearAttack(
        rng.normal(0, 0.05, (3, 3, WIDTH, block)).astype(np.float32),
        rng.uniform(0.3, 0.6, block).astype(np.float32),
    )
    constants = CellConstants(
        attack,
        np.int32(mine + (0,) * (WIDTH - len(mine))),
        np.arange(WIDTH) < len(mine),
    )
    key_data = np.asarray(jax.random.key_data(jax.random.key(index)))
    return key_data, constants, rng.integers(0, IMAGES, (STEPS, BATCH), np.int32)


def gathered(constants, rows):
    """What `batches.fetch` is to find, by NumPy."""
    representations, images = stored_images()
    chosen = representations[rows][..., constants.channels] * np.float16(constants.released)
    return chosen, images[rows]


@functools.cache
def mapped_task(num_devices, cells_per_device, steps, resident):
    devices = tuple(jax.local_devices()[:num_devices])
    return MappedTask(TASK, Execution(devices, cells_per_device, steps, resident_bytes=resident))


def trained_group(task, cells, resident):
    execution = task.execution
    keys, constants, rows = zip(*map(cell_of, cells), strict=True)
    constants_there = execution.place(execution.stack(constants))
    data = Resident(*map(execution.load, stored_images())) if resident else None

    def batch(select):
        if resident:
            return execution.stack([mine[select] for mine in rows])
        pairs = zip(constants, rows, strict=True)
        return execution.stack([gathered(mine, where[select]) for mine, where in pairs])

    state = task.init(execution.stack(keys), constants_there, data, batch(0))
    for start in range(0, STEPS, execution.steps_per_dispatch):
        steps = np.arange(start, start + execution.steps_per_dispatch)
        live = execution.stack([steps < STEPS] * len(cells))
        chosen = batch(np.minimum(steps, STEPS - 1))
        state, loss = task.steps(state, constants_there, data, chosen, live)
    metrics = task.evaluate(state.params, constants_there, data, batch(0))
    outputs = task.predict(state.params, constants_there, data, batch(0))
    return execution.unstack((state, loss, metrics, outputs), len(cells))


@functools.cache
def trained(*plan):
    """(state, loss, metrics, outputs) of all cells after three steps, leading axis cells."""
    task = mapped_task(*plan)
    size = task.execution.group_size
    groups = [
        trained_group(task, range(start, min(start + size, CELLS)), plan[3])
        for start in range(0, CELLS, size)
    ]
    return jax.tree.map(lambda *x: np.concatenate(x), *groups)


def test_cells_equal_those_trained_without_any_mapping():
    init, step, predict, evaluate = (
        jax.jit(functools.partial(function, TASK))
        for function in (
            tasks.init_state,
            tasks.train_step,
            tasks.predict,
            tasks.evaluate,
        )
    )
    state, losses, metrics, outputs = trained(*PLANS[0])
    for cell in range(CELLS):
        key_data, constants, rows = cell_of(cell)
        first, images = gathered(constants, rows[0])
        expected = init(jax.random.wrap_key_data(key_data), np.float32(first))
        for mine in rows:
            expected, loss = step(expected, constants.extras, *gathered(constants, mine))
        # The same program but for two axes of length one; see below for the tolerance.
        mine = jax.tree.map(lambda x, cell=cell: x[cell], state.params)
        for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(expected.params), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)
        assert losses[cell] == pytest.approx(float(loss), rel=1e-4)
        found = predict(expected.params, constants.extras, first)
        np.testing.assert_allclose(outputs[cell], found, atol=1e-3)
        quality = evaluate(expected.params, constants.extras, first, images)
        for metric, values in quality.items():
            np.testing.assert_allclose(metrics[metric][cell], values, atol=1e-2)


def assert_same(plan, found):
    """Bits where a device runs the same program on a cell, rounding apart elsewhere."""
    expected = trained(*PLANS[0])
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        assert one.shape == other.shape
        if plan[1:] == (1, 1, False):
            np.testing.assert_array_equal(one, other)
        else:
            # vmap and scan sum in another order, and XLA then shares the sums out by the number of
            # devices as well; Adam magnifies that where gradients are small, up to a fraction of
            # its steps of 1e-3. Measured: 3e-11 in the parameters.
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("plan", PLANS[1:], ids=str)
def test_every_plan_gives_every_cell_the_same(plan):
    assert_same(plan, trained(*plan))


@pytest.mark.parametrize("count", [4, 8])
def test_more_devices_give_every_cell_the_same(count, tmp_path):
    # The number of CPU devices is fixed once they are in use, so another process counts again.
    script = (
        f"import jax, numpy; jax.config.update('jax_num_cpu_devices', {count}); "
        f"import test_mapping; found = test_mapping.trained({count}, 1, 1, False); "
        "numpy.savez('found.npz', *jax.tree.leaves(found))"
    )
    tests = Path(__file__).parent
    environment = {"PYTHONPATH": f"{tests}:{tests.parent}:{tests.parents[1]}", "PATH": ""}
    command = [sys.executable, "-c", script]
    subprocess.run(command, check=True, timeout=300, cwd=tmp_path, env=environment)
    with np.load(tmp_path / "found.npz") as arrays:
        found = [arrays[f"arr_{index}"] for index in range(len(arrays))]
    # Equal bits with jax 0.10 on 2 cores; how XLA shares sums out may depend on more than that.
    # With jax 0.7, 1e-10 in the parameters.
    for one, other in zip(jax.tree.leaves(trained(*PLANS[0])), found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_same_plan_gives_the_same_bits_again(plan):
    again = trained.__wrapped__(*plan)
    for one, other in zip(jax.tree.leaves(trained(*plan)), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_cells_are_different_from_one_another():
    # Otherwise the comparisons above would not notice cells that change places.
    kernel = trained(*PLANS[0])[0].params["params"]["head"]["kernel"]
    for cell in range(1, CELLS):
        assert np.abs(kernel[cell] - kernel[0]).max() > 1e-3


def test_a_step_that_is_too_large_for_its_memory_is_refused():
    devices = tuple(jax.local_devices()[:1])
    for limit, fits in [(2**30, True), (1000, False)]:
        task = MappedTask(TASK, Execution(devices, 1, 1, step_bytes=limit))
        if fits:
            trained_group(task, [0], resident=False)
        else:
            with pytest.raises(DoesNotFitError, match="1 cells of the network residual needs"):
                trained_group(task, [0], resident=False)


def test_resident_data_do_not_count_as_a_steps_memory(monkeypatch):
    needed = {}
    for count in (IMAGES, 100 * IMAGES):
        many = [np.resize(x, (count, *x.shape[1:])) for x in stored_images()]
        monkeypatch.setattr(sys.modules[__name__], "stored_images", lambda many=many: many)
        execution = Execution(tuple(jax.local_devices()[:1]), 1, 1, step_bytes=1)
        with pytest.raises(DoesNotFitError) as raised:
            trained_group(MappedTask(TASK, execution), [0], resident=True)
        needed[count] = str(raised.value)
        monkeypatch.undo()
    assert needed[IMAGES] == needed[100 * IMAGES]


def tiny_task(name, dtype):
    schedule, residual = Schedule(steps=20, batch_size=BATCH), attacker(SIZE, 8, 1, dtype)
    return {
        "cloud": cloud_task(cloud_nn(4, SIZE, 8, dtype), schedule),
        "linear": linear_task(),
        **{task.name: task for task in attacker_tasks(CAPACITIES, residual, schedule)},
    }[name]


def calls(task, stride, resident):
    """Name -> (function of one cell, its arguments) of everything that is mapped over cells."""
    key_data, constants, rows = cell_of(0, stride)
    representations, images = stored_images(stride)
    targets = images if task.targets == "images" else np.zeros(IMAGES, np.int32)
    data = Resident(representations, targets) if resident else None

    def batch(select):
        mine = rows[select]
        if resident:
            return mine
        return representations[mine][..., constants.channels], targets[mine]

    evaluated = {
        "evaluate": (mapping._evaluate, {}, constants, data, batch(0)),
        "predict": (mapping._predict, {}, constants, data, batch(0)),
    }
    if task.schedule is None:
        return evaluated
    init = functools.partial(mapping._init, task)
    state = jax.eval_shape(init, key_data, constants, data, batch(0))
    steps = {
        f"{count} steps": (mapping._steps, state, constants, data, batch(slice(count)), live)
        for count, live in ((1, np.ones(1, bool)), (3, np.ones(3, bool)))
    }
    trained = {
        name: (function, state.params, *rest) for name, (function, _, *rest) in evaluated.items()
    }
    return {"init": (mapping._init, key_data, constants, data, batch(0)), **steps, **trained}


# At stride 16 of 16 x 16 pixels, convolutions are larger than what they convolve.
@pytest.mark.parametrize(
    ("stride", "cells", "resident"), [(2, 1, False), (2, 2, True), (16, 2, False)]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["cloud", "residual", "strong", "paper", "linear"])
def test_every_step_lowers_for_every_backend(name, stride, cells, resident, dtype):
    task = tiny_task(name, dtype)
    for step, (function, first, second, shared, *rest) in calls(task, stride, resident).items():
        one_cell = functools.partial(function, task)
        outputs = jax.tree.leaves(jax.eval_shape(one_cell, first, second, shared, *rest))
        many = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((cells, *np.shape(x)), x.dtype), (first, second, rest)
        )
        mapped = jax.jit(of_one_device(one_cell, cells))
        lowered = export.export(mapped, platforms=PLATFORMS)(*many[:2], shared, *many[2])
        assert lowered.platforms == PLATFORMS, step
        assert [x.shape for x in lowered.out_avals] == [(cells, *x.shape) for x in outputs], step
