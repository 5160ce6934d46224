"""Reads the pickles inside PyTorch's weight files without the pickle module, so nothing can run.

A pickle is a small program, and unpickling runs it. Here that program is walked through, knowing
only what a state dict needs: strings, numbers, tuples, lists, dictionaries, and four functions that
stand for "a tensor" or "an ordered dictionary". Anything else ends the reading.

    state_dict = read_pickle(io.BytesIO(data))  # {"features.0.weight": TensorRecord(...), ...}
"""

import dataclasses
import itertools
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

# PyTorch's storage class -> NumPy's name for its elements.
_STORAGE_TYPES = {
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

    def __init__(self, what: str) -> None:
        super().__init__(
            f"it {what}, which the weights of a state dict never need; nothing of it was run"
        )


@dataclasses.dataclass(frozen=True)
class StorageRecord:
    """`size` numbers elsewhere in the file, under a key; `dtype` is NumPy's name of their type."""

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

    The file is in memory or mapped, as its `read` must never give more than is there.

    Raises:
        UnsafePickleError: it asks for a function, class or instruction that is not admitted.
        ValueError: the bytes are damaged, cut short or no pickle of tensors.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, argument, _ in itertools.islice(pickletools.genops(file), _MOST_INSTRUCTIONS):
            if opcode.name == "STOP":
                return stack.pop()
            _follow(opcode.name, argument, stack, memo)
    except (LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"broken pickle, {type(error).__name__}: {error}") from None
    raise ValueError(f"broken pickle, which does not end within {_MOST_INSTRUCTIONS} instructions")


def _follow(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    """Follows one instruction; their meaning is told by `python -m pickletools`."""
    match name:
        case "PROTO" | "FRAME":
            pass
        case "NONE":
            stack.append(None)
        case "NEWTRUE" | "NEWFALSE":
            stack.append(name == "NEWTRUE")
        case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
            stack.append({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}[name]())
        case "MARK":
            stack.append(_MARK)
        case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
            memo[len(memo) if argument is None else argument] = stack[-1]
        case "BINGET" | "LONG_BINGET":
            stack.append(memo[argument])
        case "GLOBAL":
            stack.append(_symbol(argument))
        case "STACK_GLOBAL":
            stack.append(_symbol(" ".join(_of_type(part, str) for part in _pop(stack, 2))))
        case "REDUCE":
            stack.append(_called(*_pop(stack, 2)))
        case "BUILD":  # a state dict's `_metadata`: versions of modules do not matter
            stack.pop()
            _of_type(stack[-1], dict)
        case "BINPERSID":
            stack.append(_storage(stack.pop()))
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            stack.append(tuple(_pop(stack, int(name[-1]))))
        case "TUPLE":
            stack.append(tuple(_pop_to_mark(stack)))
        case "APPEND" | "APPENDS":
            items = _pop(stack, 1) if name == "APPEND" else _pop_to_mark(stack)
            _of_type(stack[-1], list).extend(items)
        case "SETITEM" | "SETITEMS":
            items = _pop(stack, 2) if name == "SETITEM" else _pop_to_mark(stack)
            pairs = zip(items[::2], items[1::2], strict=True)
            _of_type(stack[-1], dict).update(_ordered_dict(pairs))
        case _ if name in _LITERALS:
            stack.append(argument)
        case _:
            raise UnsafePickleError(f"uses the instruction {name}")


def _pop(stack: list[Any], count: int) -> list[Any]:
    return [stack.pop() for _ in range(count)][::-1]


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _symbol(name: str) -> _Symbol:
    module, _, attribute = name.partition(" ")
    if name in _FUNCTIONS or (module in {"torch", "torch.cuda"} and attribute in _STORAGE_TYPES):
        return _Symbol(name)
    raise UnsafePickleError(f"asks for {name!r}")


def _called(function: Any, arguments: Any) -> Any:
    name = _of_type(function, _Symbol).name
    if name not in _FUNCTIONS:
        raise UnsafePickleError(f"calls {name!r}")
    return _FUNCTIONS[name](*_of_type(arguments, tuple))


def _storage(parts: Any) -> StorageRecord:
    kind, storage, key, _, size, *view = _of_type(parts, tuple)
    if kind != "storage" or any(part is not None for part in view):
        raise ValueError("storages that are views of others are not supported")
    dtype = _STORAGE_TYPES[_of_type(storage, _Symbol).name.split()[-1]]
    return StorageRecord(dtype, _of_type(key, str), _count(size))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TensorRecord:
    sizes = tuple(_count(size) for size in _of_type(shape, tuple, list))
    steps = tuple(_count(step) for step in _of_type(strides, tuple, list))
    if len(sizes) != len(steps):
        raise ValueError("a tensor has another number of strides than of axes")
    return TensorRecord(_of_type(storage, StorageRecord), _count(offset), sizes, steps)


def _parameter(data: Any, *_: Any) -> TensorRecord:
    return _of_type(data, TensorRecord)


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    # Python 2 passes the items to the constructor, Python 3 sets them afterwards. Strings and
    # numbers only are keys: hashing a deeply nested one could exhaust the C stack.
    return {_of_type(key, str, int): value for key, value in pairs}


def _of_type(value: Any, *types: type) -> Any:
    if not isinstance(value, types):
        raise ValueError(f"found {type(value).__name__} where another type belongs")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a size, stride or offset is not a whole number from 0 on")
    return value


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor": _tensor,  # before PyTorch 0.4: torchvision's vgg16-397923af
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_LITERALS |= {"BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"}
