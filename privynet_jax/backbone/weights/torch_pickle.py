"""Reads the pickles inside PyTorch's weight files without the pickle module, so nothing can run.

A pickle is a small program, and unpickling runs it. This room walks through that program itself and
knows only the instructions that a state dict needs: strings, numbers, tuples, lists, dictionaries,
and four functions that stand for "a tensor" or "an ordered dictionary". Anything else ends the
reading. `torch_files` gives it the bytes and turns the `TensorRecord`s into arrays.

    state_dict = read_pickle(io.BytesIO(data))  # {"features.0.weight": TensorRecord(...), ...}
"""

import dataclasses
import itertools
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

# PyTorch's storage class -> NumPy's name for its elements.
STORAGE_TYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


class UnsafePickleError(Exception):
    """The pickle asks for something that no state dict needs; nothing of it was run."""


class BrokenPickleError(Exception):
    """The bytes are no complete pickle of a state dict."""


@dataclasses.dataclass(frozen=True)
class StorageRecord:
    """A run of numbers elsewhere in the file.

    Attributes:
        dtype: NumPy's name of the elements' type.
        key: under which the file keeps the numbers.
        size: number of elements.
    """

    dtype: str
    key: str
    size: int


@dataclasses.dataclass(frozen=True)
class TensorRecord:
    """A strided view of a storage; offset and strides count elements."""

    storage: StorageRecord
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Symbol:
    """A name that the pickle mentions. It stays a name: nothing is ever looked up by it."""

    name: str


_MARK = object()
# VGG16 with batch normalisation takes about 3,500; the bound keeps hostile files from filling the
# memory.
_MOST_INSTRUCTIONS = 20_000


def read_pickle(file: BinaryIO) -> Any:
    """Returns what one pickle describes, and leaves the file just behind it.

    Args:
        file: an in-memory or memory-mapped file, whose `read` never gives more than is there.

    Raises:
        UnsafePickleError: it asks for a function, class or instruction that is not admitted.
        BrokenPickleError: the bytes are damaged, cut short or no pickle of tensors.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in itertools.islice(pickletools.genops(file), _MOST_INSTRUCTIONS):
            if opcode.name == "STOP":
                return machine.pop()
            machine.run(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise BrokenPickleError(f"{type(error).__name__}: {error}") from None
    raise BrokenPickleError(f"it does not end within {_MOST_INSTRUCTIONS} instructions")


class _Machine:
    """The stack and the memo of one pickle, with one method per kind of instruction."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in _INSTRUCTIONS:
            _INSTRUCTIONS[name](self, argument)
        elif name not in {"PROTO", "FRAME"}:
            raise UnsafePickleError(f"it uses the instruction {name}")

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        items = []
        while (item := self.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def put(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def symbol(self, name: str) -> None:
        if name not in _ADMITTED:
            raise UnsafePickleError(f"it asks for {name!r}")
        self.stack.append(_Symbol(name))

    def symbol_from_stack(self) -> None:
        name, module = _of_type(self.pop(), str), _of_type(self.pop(), str)
        self.symbol(f"{module} {name}")

    def set_items(self, items: list[Any]) -> None:
        target = _of_type(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Strings and numbers only: hashing a deeply nested key could exhaust the C stack.
            target[_of_type(key, str, int)] = value

    def call(self) -> None:
        arguments, function = _of_type(self.pop(), tuple), _of_type(self.pop(), _Symbol)
        if function.name not in _FUNCTIONS:
            raise UnsafePickleError(f"it calls {function.name!r}")
        self.stack.append(_FUNCTIONS[function.name](*arguments))

    def build(self) -> None:
        # A state dict's `_metadata` arrives as an attribute; versions of modules do not matter.
        self.pop()
        _of_type(self.stack[-1], dict)

    def load_persistent(self) -> None:
        kind, storage, key, _, size, *view = _of_type(self.pop(), tuple)
        if kind != "storage" or any(part is not None for part in view):
            raise ValueError("storages that are views of others are not supported")
        dtype = STORAGE_TYPES[_of_type(storage, _Symbol).name.split()[-1]]
        self.stack.append(StorageRecord(dtype, _of_type(key, str), _count(size)))

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.stack.append(tuple(items[::-1]))

    def extend(self, items: list[Any]) -> None:
        _of_type(self.stack[-1], list).extend(items)


def _of_type(value: Any, *types: type) -> Any:
    if not isinstance(value, types):
        raise ValueError(f"found {type(value).__name__} where another type belongs")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a size, stride or offset is not a whole number from 0 on")
    return value


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TensorRecord:
    sizes = tuple(_count(size) for size in _of_type(shape, tuple, list))
    steps = tuple(_count(step) for step in _of_type(strides, tuple, list))
    if len(sizes) != len(steps):
        raise ValueError("a tensor has another number of strides than of axes")
    return TensorRecord(_of_type(storage, StorageRecord), _count(offset), sizes, steps)


def _parameter(data: Any, *_: Any) -> TensorRecord:
    return _of_type(data, TensorRecord)


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    # Python 2 passes the items to the constructor, Python 3 sets them afterwards.
    return {_of_type(key, str, int): value for key, value in pairs}


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor": _tensor,  # before PyTorch 0.4: torchvision's vgg16-397923af
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
}
_ADMITTED = {*_FUNCTIONS} | {f"torch {name}" for name in STORAGE_TYPES}
_ADMITTED |= {f"torch.cuda {name}" for name in STORAGE_TYPES}

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_LITERALS |= {"BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"}
_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "GLOBAL": _Machine.symbol,
    "STACK_GLOBAL": lambda machine, _: machine.symbol_from_stack(),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.load_persistent(),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop() for _ in range(2)][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
}
