"""Both ways to the devices hand a network the same numbers."""

import operator
import threading

import jax
import numpy as np
import pytest
from privynet_jax.training.inputs import LayerInputs, one_ahead
from support.handmade_layers import handmade_features

from privynet_jax.images.parts import Part, Parts
from privynet_jax.platform.devices import Execution
from privynet_jax.training.batches import fetch

COUNTS = {"target": 9, "auxiliary": 8, "validation": 3, "test": 5}
WIDTH, POSITIONS = 3, [np.array([1, 4]), np.array([0]), np.array([2, 3, 1])]
# Bytes of a part's representations (2 x 2 x 5 float16) and images (8 x 8 x 3 uint8).
IMAGE_BYTES = 2 * 2 * 5 * 2 + 8 * 8 * 3


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    made = {
        name: Part(
            rng.integers(0, 256, (count, 8, 8, 3), np.uint8), np.arange(count, dtype=np.int32)
        )
        for name, count in COUNTS.items()
    }
    return Parts(**made, class_names=("any",), name="noise", fingerprint="")


@pytest.fixture
def layer():
    rng = np.random.default_rng(1)
    stored = {n: rng.normal(size=(c, 2, 2, 5)).astype(np.float16) for n, c in COUNTS.items()}
    return handmade_features(5, range(5), stored)


def inputs_with(layer, parts, resident_bytes):
    execution = Execution(tuple(jax.local_devices()), 2, 1, resident_bytes)
    return LayerInputs(layer, parts, WIDTH, execution)


@pytest.mark.parametrize("targets", ["labels", "images"])
@pytest.mark.parametrize("resident_bytes", [0, 10**6])
def test_cells_see_their_own_rows_and_channels(layer, parts, resident_bytes, targets):
    inputs = inputs_with(layer, parts, resident_bytes)
    rows = [np.array([[0, 8], [3, 3]]), np.array([[1, 1], [2, 0]]), np.array([[7, 6], [5, 4]])]
    constants = inputs.constants(POSITIONS, [np.float32(cell) for cell in range(3)])
    resident = inputs.resident("target", targets)
    assert (resident is None) == (resident_bytes == 0)
    batch = inputs.batch("target", targets, POSITIONS, rows)
    for cell in range(4):  # the last one is a copy
        real = min(cell, 2)
        device, place = divmod(cell, 2)
        mine, seen = jax.tree.map(operator.itemgetter((device, place)), (constants, batch))
        held = jax.tree.map(operator.itemgetter(device), resident)
        representations, answers = fetch(mine, held, seen)
        expected = np.zeros((2, 2, 2, 2, WIDTH), np.float16)
        chosen = layer.parts["target"][rows[real]][..., POSITIONS[real]]
        expected[..., : chosen.shape[-1]] = chosen
        np.testing.assert_array_equal(representations, expected)
        np.testing.assert_array_equal(answers, getattr(parts.target, targets)[rows[real]])
        assert float(mine.extras) == real


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (0, set()),
        (8, {"auxiliary"}),
        (9, {"target"}),
        (17, {"target", "auxiliary"}),
        (22, {"target", "auxiliary", "test"}),
        (25, set(COUNTS)),
    ],
)
def test_what_is_trained_on_stays_on_the_devices_first(layer, parts, images, expected):
    inputs = inputs_with(layer, parts, images * IMAGE_BYTES)
    assert {name for name in COUNTS if inputs.resident(name, "labels") is not None} == expected


def test_a_part_is_loaded_once(layer, parts):
    inputs = inputs_with(layer, parts, 10**6)
    labels, images = inputs.resident("test", "labels"), inputs.resident("test", "images")
    assert labels.representations is images.representations
    assert inputs.resident("test", "labels").targets is labels.targets


def test_items_are_made_one_ahead_and_in_order():
    made, used = [], threading.Event()

    def items():
        for number in range(4):
            made.append(number)
            if number == 1:
                used.set()
            yield number

    found = []
    for number in one_ahead(items()):
        if number == 0:
            assert used.wait(timeout=10)  # the next one is made without being asked for
        found.append(number)
        assert len(made) <= number + 2
    assert found == [0, 1, 2, 3]


def test_errors_of_the_thread_are_raised():
    def items():
        yield 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(one_ahead(items()))
