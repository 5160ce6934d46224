"""What is mapped over members lowers for every backend, and finds each member's own data."""

import functools

import jax
import numpy as np
import pytest
from jax import export

from privynet_jax.platform.devices import of_one_device
from privynet_jax.training.models.attackers import RESIDUAL, STRONG, capacities_of_size
from privynet_jax.training.models.linear_attack import LinearAttack
from privynet_jax.training.models.networks import cloud_nn
from privynet_jax.training.steps import (
    Constants,
    Dispatch,
    Resident,
    fetch,
    first_state,
    take_steps,
)
from privynet_jax.training.tasks import cloud_task

IMAGES, BATCH, SIZE, STORED, WIDTH = 12, 4, 16, 5, 3
PLATFORMS = ("cpu", "cuda", "tpu")


def data(stride):
    rng = np.random.default_rng(0)
    side = SIZE // stride
    x = np.float16(rng.exponential(size=(IMAGES, side, side, STORED)))
    return x, rng.integers(0, 256, (IMAGES, SIZE, SIZE, 3), np.uint8)


def constants_of(stride, channels=(4, 1)):
    block = 3 * stride**2
    attack = LinearAttack(
        np.zeros((3, 3, WIDTH, block), np.float32), np.full(block, 0.5, np.float32)
    )
    padded = np.int32([*channels, *[0] * (WIDTH - len(channels))])
    key = np.asarray(jax.random.key_data(jax.random.key(0)))
    return Constants(attack, key, padded, np.arange(WIDTH) < len(channels))


def test_resident_rows_are_the_member_s_channels():
    x, images = data(4)
    rows = np.array([[3, 0], [11, 3]])
    found, answers = fetch(constants_of(4), Resident(*map(jax.numpy.asarray, (x, images))), rows)
    np.testing.assert_array_equal(found[..., :2], x[rows][..., [4, 1]])
    np.testing.assert_array_equal(found[..., 2], 0)
    np.testing.assert_array_equal(answers, images[rows])
    gathered = object()
    assert fetch(constants_of(4), None, gathered) is gathered


def task_of(name, dtype):
    if name == "cloud":
        return cloud_task(cloud_nn(4, SIZE, 8, dtype))
    return capacities_of_size(8, 1)[name].task(SIZE, dtype)


# At stride 16 of 16 x 16 pixels, convolutions are larger than what they convolve.
@pytest.mark.parametrize(
    ("stride", "members", "steps", "resident", "dtype"),
    [(2, 1, 1, False, "float32"), (16, 2, 3, True, "bfloat16")],
)
# "paper" is "residual" of another size.
@pytest.mark.parametrize("name", ["cloud", RESIDUAL, STRONG])
def test_every_step_lowers_for_every_backend(name, stride, members, steps, resident, dtype):
    task, (x, images) = task_of(name, dtype), data(stride)
    targets = np.zeros(IMAGES, np.int32) if name == "cloud" else images
    constants, shared = constants_of(stride), Resident(x, targets) if resident else None
    rows = np.zeros((steps, BATCH), np.int32)
    batches = rows if resident else (x[rows][..., :WIDTH], targets[rows])
    first = jax.tree.map(lambda array: array[0], batches)
    key, init = constants.key, functools.partial(first_state, task)
    state = jax.eval_shape(init, key, constants, shared, first)
    live = np.ones(steps, bool)
    dispatch = Dispatch(batches, np.float32(rows[:, 0]), rows[:, 0], live)
    take = functools.partial(take_steps, task)
    for function, own, rest in ((init, key, first), (take, state, dispatch)):
        outputs = jax.eval_shape(function, own, constants, shared, rest)
        many = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((members, *np.shape(leaf)), leaf.dtype),
            (own, constants, rest),
        )
        mapped = jax.jit(of_one_device(function, members))
        lowered = export.export(mapped, platforms=PLATFORMS)(*many[:2], shared, many[2])
        expected = [(members, *leaf.shape) for leaf in jax.tree.leaves(outputs)]
        assert [leaf.shape for leaf in lowered.out_avals] == expected
