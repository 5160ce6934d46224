"""Which rows a step sees, and how they come to the devices."""

import itertools
import threading

import jax
import numpy as np
import pytest

from privynet_jax.platform.devices import Execution
from privynet_jax.platform.rows.row_views import ChosenChannels
from privynet_jax.training import batches
from privynet_jax.training.batches import gather, one_ahead, resident, shuffled_rows

STORED = np.arange(9 * 2 * 2 * 5, dtype=np.float16).reshape(9, 2, 2, 5)
ANSWERS = np.arange(9, dtype=np.int32)
# Bytes of an example: 2 x 2 x 5 float16, and its answer.
EXAMPLE_BYTES = 2 * 2 * 5 * 2 + 4


def some(count, rows, size, key=0):
    return list(itertools.islice(shuffled_rows(jax.random.key(key), rows, size), count))


def test_every_epoch_shows_each_row_once():
    rows = np.array([3, 5, 8, 13, 21, 34, 55])
    epochs = np.concatenate(some(28, rows, 3)).reshape(12, 7)
    assert all(sorted(epoch) == rows.tolist() for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1
    larger = np.concatenate(some(2, rows[:3], 8))  # than there are rows
    assert sorted(np.bincount(larger)[rows[:3]]) == [5, 5, 6]


def test_the_order_depends_on_the_key_alone():
    np.random.seed(0)  # global state, which must not matter
    first = some(5, np.arange(50), 8)
    np.random.seed(1)
    np.testing.assert_array_equal(some(40, np.arange(50), 8)[:5], first)
    assert not np.array_equal(some(5, np.arange(50), 8, key=1), first)


def test_members_see_their_own_rows_and_channels():
    execution = Execution(tuple(jax.local_devices()), cells_per_device=2)
    mine = [ChosenChannels(STORED, np.array(own), 3) for own in ((1, 4), (0,), (2, 3, 1))]
    rows = [np.array([[0, 8], [3, 3]]), np.array([[1, 1], [2, 0]]), np.array([[7, 6], [5, 4]])]
    found, answers = gather(mine, [ANSWERS] * 3, rows, execution)
    assert found.shape == (2, 2, 2, 2, 2, 2, 3)
    for place in range(4):  # the last one is a copy
        real = min(place, 2)
        expected = np.zeros((2, 2, 2, 2, 3), np.float16)
        chosen = STORED[rows[real]][..., mine[real].positions]
        expected[..., : chosen.shape[-1]] = chosen
        np.testing.assert_array_equal(found[divmod(place, 2)], expected)
        np.testing.assert_array_equal(answers[divmod(place, 2)], ANSWERS[rows[real]])
    # Arrays and what reads rows of them alike.
    plain, _ = gather([STORED], [ANSWERS], rows[:1], Execution(tuple(jax.local_devices()[:1])))
    np.testing.assert_array_equal(plain[0, 0], STORED[rows[0]])


@pytest.mark.parametrize("alone", [False, True])
def test_data_lie_on_every_device_once_while_there_is_room(monkeypatch, alone):
    monkeypatch.setattr(batches, "_loaded", type(batches._loaded)())
    monkeypatch.setattr("privynet_jax.platform.devices._CHUNK_BYTES", 100)  # two rows at a time
    room = 2 * 9 * EXAMPLE_BYTES
    execution = Execution(tuple(jax.local_devices()), resident_bytes=room, shares_examples=alone)
    members = [ChosenChannels(STORED, np.array(own)) for own in ((1, 4), (0, 2))]
    held = resident(members, [ANSWERS] * 2, execution)
    for copy in range(execution.places[0]):
        np.testing.assert_array_equal(held.representations[copy], STORED)
        np.testing.assert_array_equal(held.targets[copy], ANSWERS)
    assert resident([STORED], [ANSWERS], execution) is held
    # Different arrays in one group, and too large ones, are gathered by the host.
    assert resident([STORED, STORED.copy()], [ANSWERS] * 2, execution) is None
    assert resident([STORED.repeat(3, 0)], [ANSWERS.repeat(3)], execution) is None
    others = [(STORED + 1, ANSWERS), (STORED + 2, ANSWERS)]
    for x, y in others:  # take the room of the first
        resident([x], [y], execution)
    assert len(batches._loaded) == 2
    assert resident([STORED], [ANSWERS], execution) is not held


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
