"""What JSON held, as the types of a dataclass's fields say, bounds included.

    Count = Annotated[int, Bounds(least=1, most=2**20 - 1)]
    manifest = typed({"id": "0f", "shape": [1, 2]}, Manifest)

Devices read packages and classifiers by it, with the standard library alone. A class's own check,
in `__post_init__`, is told like the others, with the place. No JAX here.
"""

import dataclasses
import functools
import math
import re
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

_Kind = TypeVar("_Kind")
_LONGEST = 40  # of what is quoted
_LARGEST = 2**1023  # that a float holds
_NAMES = {type(None): "null", list: "array", dict: "object"}


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a number or a text must keep to besides its type."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    longest: float = math.inf  # of texts
    pattern: str = ""  # that texts match as a whole

    def problem(self, value: Any) -> str:
        """Returns what is expected of a value that does not keep to them, else nothing."""
        if isinstance(value, str):
            if len(value) > self.longest:
                return f"of length <= {self.longest}"
            fits = not self.pattern or re.fullmatch(self.pattern, value, re.ASCII)
            return "" if fits else f"matching regex {self.pattern!r}"
        if isinstance(value, float) and math.isnan(value):
            return "that is a number"
        if not value > self.above:
            return f"> {self.above:.1f}"
        if not value >= self.least:
            return f">= {self.least}"
        return "" if value <= self.most else f"<= {self.most}"


def typed(value: Any, kind: type[_Kind], where: str = "$") -> _Kind:
    """Returns a value that JSON held as what a type says: arrays as tuples, objects as dataclasses.

    Names that a dataclass does not have are passed over.

    Raises:
        ValueError: it is not of that type; one line, with its place.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        found = typed(value, inner[0], where)
        if problem := inner[1].problem(found):
            raise ValueError(f"Expected {_name(inner[0])} {problem}{_at(where)}")
        return found
    if origin in (Union, types.UnionType):
        return _one_of(value, inner, where)
    if origin is Literal:
        if value in inner and isinstance(value, str):
            return value
        allowed, given = ", ".join(map(repr, inner)), repr(value)[:_LONGEST]
        raise ValueError(f"Expected one of {allowed}, got {given}{_at(where)}")
    if origin is tuple:
        return _array(value, inner, where)
    if origin in (dict, Mapping):
        _check_is(value, dict, where)
        name, of_each = inner
        return {typed(k, name, where): typed(v, of_each, f"{where}[...]") for k, v in value.items()}
    if dataclasses.is_dataclass(kind):
        return _object(value, kind, where)
    if hasattr(kind, "_fields"):  # a NamedTuple, which JSON has as an array
        hints = get_type_hints(kind, include_extras=True)
        return kind(*_array(value, tuple(hints[name] for name in kind._fields), where))
    if kind is float and type(value) is int:
        if abs(value) > _LARGEST:
            raise ValueError(f"Expected {_name(kind)}, got a larger number{_at(where)}")
        return float(value)
    _check_is(value, kind, where)
    return value


def _check_is(value: Any, kind: type, where: str) -> None:
    if type(value) is not kind:  # True is no 1
        raise ValueError(f"Expected {_name(kind)}, got {_name(type(value))}{_at(where)}")


def _at(where: str) -> str:
    return "" if where == "$" else f" - at `{where}`"


def _name(kind: Any) -> str:
    return f"`{_NAMES.get(kind) or getattr(kind, '__name__', kind)}`"


def _one_of(value: Any, kinds: tuple[Any, ...], where: str) -> Any:
    """By the first type that takes it; what is refused is told by the last one but None."""
    if value is None and type(None) in kinds:
        return None
    *others, last = [kind for kind in kinds if kind is not type(None)]
    for kind in others:
        try:
            return typed(value, kind, where)
        except ValueError:
            continue
    return typed(value, last, where)


def _array(value: Any, kinds: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, tuple):  # what is to be written is checked as it is
        _check_is(value, list, where)
    if kinds[-1:] == (...,):
        return tuple(typed(one, kinds[0], f"{where}[{i}]") for i, one in enumerate(value))
    if len(value) != len(kinds):
        raise ValueError(f"Expected `array` of length {len(kinds)}{_at(where)}")
    pairs = zip(value, kinds, strict=True)
    return tuple(typed(one, kind, f"{where}[{i}]") for i, (one, kind) in enumerate(pairs))


def _object(value: Any, kind: type[_Kind], where: str) -> _Kind:
    _check_is(value, dict, where)
    given = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            hint = _hints(kind)[field.name]
            given[field.name] = typed(value[field.name], hint, f"{where}.{field.name}")
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"Object missing required field `{field.name}`{_at(where)}")
    try:
        return kind(**given)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{error}{_at(where)}") from None


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)
