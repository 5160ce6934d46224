"""A group brings each cell its own batches and takes every image's number apart again."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from privynet_jax.training.group import Group, Member
from privynet_jax.training.inputs import LayerInputs
from support.handmade_layers import handmade_features
from support.noise import noise_parts

from privynet_jax.platform.devices import Execution
from privynet_jax.training import group, tasks
from privynet_jax.training.checkpoints import GroupCheckpoint
from privynet_jax.training.linear_attack import LinearAttack
from privynet_jax.training.mapping import DoesNotFitError, MappedTask
from privynet_jax.training.networks import attacker
from privynet_jax.training.tasks import Schedule, attacker_task, linear_task

SIZE, WIDTH, CHANNELS = 16, 4, 6
COUNTS = {"target": 30, "auxiliary": 27, "validation": 16, "test": 21}
POSITIONS = [(0, 3, 5), (1, 2), (4, 0, 2, 3)]
SCHEDULE = Schedule(steps=5, batch_size=4, learning_rate=1e-3)
RESIDUAL = attacker_task(attacker(SIZE, width=8, num_blocks=0), SCHEDULE)
# Adds up what it is shown: exact in float32, and different for every image and channel.
SUM = dataclasses.replace(
    linear_task(),
    targets="labels",
    predict=lambda _, extras, x: x.sum(axis=(1, 2)) + extras,
    measure=lambda outputs, labels: {"sum": outputs @ 10.0 ** np.arange(WIDTH), "label": labels},
)


@pytest.fixture(scope="module")
def parts():
    return noise_parts(COUNTS, SIZE)


@pytest.fixture(scope="module")
def layer():
    """Representations of 4 x 4 pixels: small integers, exact in float16."""
    rng = np.random.default_rng(1)
    shapes = {name: (count, 4, 4, CHANNELS) for name, count in COUNTS.items()}
    stored = {n: rng.integers(0, 4, shape).astype(np.float16) for n, shape in shapes.items()}
    return handmade_features(3, range(CHANNELS), stored)


def members(extras):
    return [
        Member(np.array(positions), jax.random.key(cell), extras(cell))
        for cell, positions in enumerate(POSITIONS)
    ]


def attack_of(cell):
    rng = np.random.default_rng(cell)
    kernel = rng.normal(0, 0.05, (3, 3, WIDTH, 48)).astype(np.float32)
    kernel[:, :, len(POSITIONS[cell]) :] = 0
    return LinearAttack(kernel, np.full(48, 0.5, np.float32))


def execution_of(num_devices, cells_per_device, steps_per_dispatch=1, resident_bytes=0):
    devices = tuple(jax.local_devices()[:num_devices])
    return Execution(devices, cells_per_device, steps_per_dispatch, resident_bytes)


@functools.cache
def mapped(task, execution):
    return MappedTask(task, execution)


def of_cell(layer, part, cell):
    """All representations of a part as a cell sees them, without `LayerFeatures`."""
    chosen = np.float32(layer.parts[part])[..., list(POSITIONS[cell])]
    return np.pad(chosen, [(0, 0)] * 3 + [(0, WIDTH - chosen.shape[-1])])


@pytest.mark.parametrize("batch", [1, 7, 8, 21, 128])
@pytest.mark.parametrize("plan", [(2, 2), (2, 1), (2, 2, 1, 2**20)])
def test_every_image_is_evaluated_once_for_every_cell(parts, layer, monkeypatch, plan, batch):
    monkeypatch.setattr(group, "EVALUATION_BATCH", batch)
    execution = execution_of(*plan)
    # Fewer cells than places, so that one is filled up with a copy.
    count = min(3, execution.group_size)
    extras = [np.float32(100 * cell) for cell in range(count)]
    cells = members(lambda cell: np.float32(100 * cell))[:count]
    together = Group(cells, LayerInputs(layer, parts, WIDTH, execution))
    task = mapped(SUM, execution)
    params = together.train(task)
    for part in ("validation", "test"):
        found = together.evaluate(task, params, part)
        for cell in range(count):
            sums = of_cell(layer, part, cell).sum(axis=(1, 2)) + extras[cell]
            # Integers under 2 ** 24 are exact in float32, in any order.
            expected = (sums * 10.0 ** np.arange(WIDTH)).sum(axis=-1)
            np.testing.assert_array_equal(found["sum"][cell], expected)
            assert found["label"][cell].tolist() == list(range(COUNTS[part]))
        assert found["sum"].shape == (count, COUNTS[part])
        assert len(np.unique(found["sum"][0])) > 5  # images can be told apart


def test_predictions_are_of_the_images_asked_for(parts, layer):
    execution, rows = execution_of(2, 2), np.array([20, 3, 3])
    cells = members(lambda cell: np.float32(0))
    together = Group(cells, LayerInputs(layer, parts, WIDTH, execution))
    task = mapped(SUM, execution)
    found = together.predict(task, together.train(task), "test", rows)
    assert found.shape == (3, 3, WIDTH)
    for cell in range(3):
        np.testing.assert_array_equal(
            found[cell], of_cell(layer, "test", cell)[rows].sum(axis=(1, 2))
        )


@functools.cache
def plain_steps():
    return tuple(
        jax.jit(functools.partial(function, RESIDUAL))
        for function in (tasks.init_state, tasks.train_step, tasks.evaluate)
    )


def trained_alone(parts, layer, cell):
    """A cell's params by a plain loop, with the keys that `Member.key` promises."""
    init, step, _ = plain_steps()
    key = jax.random.fold_in(jax.random.key(cell), RESIDUAL.stream)
    initial, shuffling = jax.random.split(key)
    order = tasks.batch_order(shuffling, COUNTS["auxiliary"], SCHEDULE)
    inputs, images = of_cell(layer, "auxiliary", cell), parts.auxiliary.images
    state = init(initial, inputs[order[0]])
    for rows in order:
        state, _ = step(state, attack_of(cell), inputs[rows], images[rows])
    return state.params


# Five steps in one dispatch each, or as 2 + 2 + 1; gathered by the host, or on the devices.
@pytest.mark.parametrize("plan", [(2, 1, 1), (2, 2, 2), (2, 2, 2, 2**20)])
def test_cells_train_and_are_measured_as_they_would_alone(parts, layer, plan, monkeypatch):
    monkeypatch.setattr(group, "EVALUATION_BATCH", 8)
    execution = execution_of(*plan)
    count = min(3, execution.group_size)
    shares = []
    inputs = LayerInputs(layer, parts, WIDTH, execution)
    together = Group(members(attack_of)[:count], inputs, shares.append)
    task = mapped(RESIDUAL, execution)
    params = together.train(task)
    found = together.evaluate(task, params, "test")
    assert sum(shares) == pytest.approx(count)  # one per network
    assert len(shares) == -(-SCHEDULE.steps // plan[2])
    for cell in range(count):
        expected = trained_alone(parts, layer, cell)
        mine = jax.tree.map(
            lambda x, cell=cell: np.asarray(x).reshape(-1, *x.shape[2:])[cell], params
        )
        # Other sums, magnified by Adam to a fraction of its steps of 1e-3.
        for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)
        direct = plain_steps()[2](
            expected, attack_of(cell), of_cell(layer, "test", cell), parts.test.images
        )
        # Parameters off by 1e-4 move a PSNR near 8 dB by less than a hundredth.
        np.testing.assert_allclose(found["psnr_db"][cell], direct["psnr_db"], atol=0.01)
        np.testing.assert_allclose(found["ssim"][cell], direct["ssim"], atol=1e-3)


def test_tasks_without_a_schedule_train_nothing_and_report_nothing(parts, layer):
    execution, shares = execution_of(2, 2), []
    cells = members(lambda cell: np.float32(0))
    together = Group(cells, LayerInputs(layer, parts, WIDTH, execution), shares.append)
    assert jax.tree.leaves(together.train(mapped(SUM, execution))) == []
    assert shares == []


def assert_same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def group_of_three(layer, parts, execution, checkpoint=None, stop=lambda: False):
    shares = []
    inputs = LayerInputs(layer, parts, WIDTH, execution)
    return Group(members(attack_of), inputs, shares.append, checkpoint, stop), shares


@pytest.mark.parametrize("stopped_after", [1, 3, 5])
@pytest.mark.parametrize("plan", [(2, 2, 1), (2, 2, 2)])
def test_a_stopped_group_continues_to_the_same_bits(parts, layer, tmp_path, plan, stopped_after):
    execution = execution_of(*plan)
    task = mapped(RESIDUAL, execution)
    whole, _ = group_of_three(layer, parts, execution)
    expected = whole.train(task)
    asked = iter(range(100))
    first, _ = group_of_three(
        layer,
        parts,
        execution,
        GroupCheckpoint(tmp_path / "kept", every_seconds=1e9),
        lambda: next(asked) == min(stopped_after, -(-5 // plan[2])) - 1,
    )
    with pytest.raises(group.signals.Terminated):
        first.train(task)
    again, shares = group_of_three(
        layer, parts, execution, GroupCheckpoint(tmp_path / "kept", every_seconds=1e9)
    )
    assert_same_bits(again.train(task), expected)
    np.testing.assert_array_equal(
        again.falling_percent[RESIDUAL.name], whole.falling_percent[RESIDUAL.name]
    )
    assert sum(shares) == pytest.approx(3)  # what was restored counts as progress, too


def test_a_finished_network_is_not_trained_again(parts, layer, tmp_path, monkeypatch):
    execution, kept = execution_of(2, 2), tmp_path / "kept"
    task = mapped(RESIDUAL, execution)
    first, _ = group_of_three(layer, parts, execution, GroupCheckpoint(kept, 1e9))
    expected = first.train(task)
    # The attacker is done, and the signal comes while it is evaluated.
    first._stop_requested = lambda: True
    with pytest.raises(group.signals.Terminated):
        first.evaluate(task, expected, "test")
    again, shares = group_of_three(layer, parts, execution, GroupCheckpoint(kept, 1e9))
    monkeypatch.setattr(task, "steps", None)
    assert_same_bits(again.train(task), expected)
    assert again.falling_percent.keys() == first.falling_percent.keys()
    assert shares == [3]


def test_checkpoints_come_at_the_interval(parts, layer, tmp_path, monkeypatch):
    execution, kept = execution_of(2, 2), tmp_path / "kept"
    never, _ = group_of_three(layer, parts, execution, GroupCheckpoint(kept, 1e9))
    never.train(mapped(RESIDUAL, execution))
    assert not kept.exists()
    saved, checkpoint = [], GroupCheckpoint(kept, 0)
    monkeypatch.setattr(checkpoint, "save", lambda progress, **_: saved.append(progress.step))
    always, _ = group_of_three(layer, parts, execution, checkpoint)
    always.train(mapped(RESIDUAL, execution))
    assert saved == [1, 2, 3, 4, 5]


def test_another_number_of_devices_continues_as_well(parts, layer, tmp_path):
    one, other = execution_of(2, 2), execution_of(1, 3)
    expected, _ = group_of_three(layer, parts, one)
    found = expected.evaluate(mapped(RESIDUAL, one), expected.train(mapped(RESIDUAL, one)), "test")
    asked = iter(range(100))
    first, _ = group_of_three(
        layer, parts, one, GroupCheckpoint(tmp_path / "kept", 1e9), lambda: next(asked) == 2
    )
    with pytest.raises(group.signals.Terminated):
        first.train(mapped(RESIDUAL, one))
    again, _ = group_of_three(layer, parts, other, GroupCheckpoint(tmp_path / "kept", 1e9))
    task = mapped(RESIDUAL, other)
    continued = again.evaluate(task, again.train(task), "test")
    np.testing.assert_allclose(continued["psnr_db"], found["psnr_db"], atol=1e-3)


def test_memory_is_checked_before_training(parts, layer):
    execution = dataclasses.replace(execution_of(2, 1), step_bytes=1000)
    inputs = LayerInputs(layer, parts, WIDTH, execution)
    together = Group(members(attack_of)[:2], inputs)
    with pytest.raises(DoesNotFitError):
        together.check_memory(MappedTask(RESIDUAL, execution))
    together.check_memory(MappedTask(SUM, execution))  # nothing is trained


def test_large_images_are_evaluated_in_smaller_batches(parts, layer, monkeypatch):
    execution = execution_of(2, 1)
    together = Group(members(attack_of)[:2], LayerInputs(layer, parts, WIDTH, execution))
    assert together._evaluation_batch() == group.EVALUATION_BATCH
    # An image of 16 x 16 x 3 and a representation of 4 x 4 x 4, as float32.
    monkeypatch.setattr(group, "_EVALUATION_BYTES", 5 * 4 * (768 + 64))
    assert together._evaluation_batch() == 5
