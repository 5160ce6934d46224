"""Mini-batches of several networks: drawn from keys, gathered on the host or kept on the devices.

On accelerators, representations that fit into their memory are loaded once, and a batch is just
its rows. The others are gathered by the host, one batch ahead of the devices. On CPU that is all
of them: the devices' memory is the host's own. `trainer` asks for batches, `steps.fetch` unpacks
them.

    rows = shuffled_rows(key, member_rows, batch_size=32)
    next(rows)  # int [32]
"""

import collections
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np

from privynet_jax.platform.devices import Execution, nbytes
from privynet_jax.platform.rows.row_views import ChosenChannels
from privynet_jax.training.steps import Resident

_Item = TypeVar("_Item")
# What lies on devices, by what it was loaded from, least recently used first.
_loaded: collections.OrderedDict[Any, tuple[Any, Any, Resident]] = collections.OrderedDict()


def stream_of(key: jax.Array) -> np.random.Generator:
    """Returns NumPy's generator, for work on the host, with a key's own bits as its seed."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def shuffled_rows(key: jax.Array, rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Yields int [batch_size] without end: shuffled epochs, from the key alone."""
    stream = stream_of(key)
    endless = itertools.chain.from_iterable(
        stream.permutation(len(rows)) for _ in itertools.count()
    )
    while True:
        yield rows[np.fromiter(itertools.islice(endless, batch_size), int, batch_size)]


def ordered_rows(rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Yields int [batch_size] without end: the rows in their own order, again and again."""
    for start in itertools.count(step=batch_size):
        yield rows[np.arange(start, start + batch_size) % len(rows)]


def stored_of(inputs: Any) -> Any:
    """Returns what a member's representations are channels of."""
    return inputs.stored if isinstance(inputs, ChosenChannels) else inputs


def positions_of(inputs: Any) -> np.ndarray:
    """Returns where a member's channels lie in what is stored, int [depth]."""
    if isinstance(inputs, ChosenChannels):
        return inputs.positions
    return np.arange(inputs.shape[-1])


def gather(
    inputs: Sequence[Any], targets: Sequence[Any], rows: Sequence[np.ndarray], execution: Execution
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (representations, targets) of members, [*places, *rows.shape, ...] each."""
    shape = (*rows[0].shape, *inputs[0].shape[1:])
    # Gathered in place: on CPU, every copy of a batch costs as much as some of its arithmetic.
    stacked = np.empty((execution.group_size, *shape), inputs[0].dtype)
    for place, (own, mine) in enumerate(zip(inputs, rows, strict=True)):
        out = stacked[place].reshape(-1, *inputs[0].shape[1:])
        if isinstance(own, ChosenChannels):
            own.read_into(mine.ravel(), out)
        else:
            out[:] = own[mine.ravel()]
    stacked[len(rows) :] = stacked[len(rows) - 1]
    answers = [np.asarray(own[mine]) for own, mine in zip(targets, rows, strict=True)]
    return stacked.reshape(*execution.places, *shape), execution.stack(answers)


def resident(
    inputs: Sequence[Any], targets: Sequence[Any], execution: Execution
) -> Resident | None:
    """Returns members' data as they lie on the devices; None where the host gathers.

    Only channels of one stored array can lie there. Data stay until others need the room.
    """
    stored, answers = stored_of(inputs[0]), targets[0]
    size = nbytes(stored) + nbytes(answers)
    shared = all(stored_of(own) is stored for own in inputs)
    shared = shared and all(own is answers for own in targets)
    if not shared or size > execution.resident_bytes:
        return None
    key = (id(stored), id(answers), execution.devices, execution.shares_examples)
    if key not in _loaded:
        held = sum(nbytes(one) + nbytes(other) for one, other, _ in _loaded.values())
        while _loaded and held + size > execution.resident_bytes:
            _, (one, other, _) = _loaded.popitem(last=False)
            held -= nbytes(one) + nbytes(other)
        loaded = Resident(execution.load(stored), execution.load(answers))
        _loaded[key] = (stored, answers, loaded)  # the first two keep their ids theirs
    _loaded.move_to_end(key)
    return _loaded[key][2]


def one_ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """Yields the same items, each made by a thread while the one before it is used."""
    nothing = object()
    with ThreadPoolExecutor(1, "prefetch") as pool:
        pending = pool.submit(next, items, nothing)
        while (item := pending.result()) is not nothing:
            pending = pool.submit(next, items, nothing)
            yield item
