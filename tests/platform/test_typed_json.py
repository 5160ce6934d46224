"""JSON as types: what fits becomes the dataclass, and what does not is told with its place."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import pytest

from privynet_jax.platform.typed_json import Bounds, typed


class Point(NamedTuple):
    """An array in JSON."""

    x: Annotated[int, Bounds(least=0, most=9)]
    y: float | None


@dataclasses.dataclass(frozen=True)
class Record:
    """One field of every kind."""

    name: Annotated[str, Bounds(longest=4, pattern="[a-z]+")]
    kind: Literal["a", "b"]
    points: tuple[Point, ...]
    sides: tuple[int, int]
    sizes: dict[str, int | float]
    rest: Mapping[str, Any]
    on: bool = False


GIVEN = {
    "name": "ab",
    "kind": "a",
    "points": [[3, 0.5], [9, None]],
    "sides": [1, 2],
    "sizes": {"x": 1, "y": 2.5},
    "rest": {"z": [None]},
}


def test_what_fits_becomes_the_dataclass():
    found = typed({**GIVEN, "unknown": 1}, Record)
    points = (Point(3, 0.5), Point(9, None))
    assert found == Record("ab", "a", points, (1, 2), {"x": 1, "y": 2.5}, {"z": [None]})
    assert typed(dataclasses.asdict(found), Record) == found
    assert typed({**GIVEN, "points": [[3, 2]]}, Record).points[0].y == 2.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "abcde"}, r"Expected `str` of length <= 4 - at `\$.name`"),
        ({"name": "A"}, "matching regex"),
        ({"name": "ab\n"}, "matching regex"),
        ({"name": b"ab"}, "Expected `str`, got `bytes`"),
        ({"kind": "c"}, "Expected one of 'a', 'b', got 'c'"),
        ({"kind": ["a"]}, "Expected one of 'a', 'b', got"),
        ({"points": [[3, 0.5], [10, 0.5]]}, r"Expected `int` <= 9 - at `\$.points\[1\]\[0\]`"),
        ({"points": [[-1, 0.5]]}, ">= 0"),
        ({"points": [[3]]}, r"Expected `array` of length 2 - at `\$.points\[0\]`"),
        ({"points": [[3, "x"]]}, r"Expected `float`, got `str` - at `\$.points\[0\]\[1\]`"),
        ({"points": {}}, "Expected `array`, got `object`"),
        ({"sides": [1, True]}, "Expected `int`, got `bool`"),
        ({"sides": [1, 2.0]}, "Expected `int`, got `float`"),
        ({"sides": None}, "Expected `array`, got `null`"),
        ({"sizes": {"x": "1"}}, "Expected `float`, got `str`"),
        ({"sizes": []}, "Expected `object`, got `array`"),
        ({"on": 1}, "Expected `bool`, got `int`"),
        ({"points": [[3, 10**400]]}, r"got a larger number - at `\$.points\[0\]\[1\]`"),
        ({"points": [[10**400, 1]]}, "Expected `int` <= 9"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(change, message):
    with pytest.raises(ValueError, match=message) as raised:
        typed({**GIVEN, **change}, Record)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="missing required field `sides`"):
        typed({name: value for name, value in GIVEN.items() if name != "sides"}, Record)


def test_no_number_is_within_no_bounds():
    with pytest.raises(ValueError, match=r"> 0\.0"):
        typed(0.0, Annotated[float, Bounds(above=0)])
    with pytest.raises(ValueError, match="that is a number"):
        typed(float("nan"), Annotated[float, Bounds(most=9)])
