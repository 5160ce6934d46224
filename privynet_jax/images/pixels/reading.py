"""How pictures are read where their files leave it open: the same from the plan to predictions.

    reading = Reading(fit="pad", dicom_window=(40, 400))
    pixels = decode_picture(data, size=32, reading=reading)

No JAX here.
"""

import dataclasses
import math
from typing import Literal, get_args

from privynet_jax.errors import UserError

Fit = Literal["crop", "pad"]
FITS = get_args(Fit)
_MOST_WHITE = 2**16 - 1


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a user says of pictures; the defaults say nothing.

    Attributes:
        sixteen_bit_max: white in greyscale of 16 bits that states no range; 0 where it is unknown.
        fit: whether a picture's central square is taken, or all of it with black margins.
        dicom_window: centre and width, in what DICOM's values mean (in CT Hounsfield units), in
            place of the window that a file states; None for that.

    Raises:
        UserError: a value that is not allowed.
    """

    sixteen_bit_max: int = 0
    fit: Fit = "crop"
    dicom_window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.sixteen_bit_max <= _MOST_WHITE:
            raise UserError(
                f"--sixteen_bit_max is {self.sixteen_bit_max}; allowed are 0 to {_MOST_WHITE}"
            )
        if self.fit not in FITS:
            raise UserError(f"--fit is {self.fit!r}; allowed are {', '.join(FITS)}")
        if self.dicom_window is not None:
            _check_window(self.dicom_window)

    def told(self) -> str:
        """Returns what is said, in one line; nothing of defaults."""
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        said = {name: x for name, x in dataclasses.asdict(self).items() if x != usual[name]}
        return repr(said) if said else ""

    def agreed(self, planned: "Reading") -> "Reading":
        """Returns how pictures are read that were planned for, with what nobody had said then.

        UserError where one says something else. How pictures fit was always said.
        """
        for name in ("sixteen_bit_max", "dicom_window"):
            given, known = getattr(self, name), getattr(planned, name)
            if given and known and given != known:
                raise UserError(
                    f"--{name} is {_as_flag(given)}, but what is used here was made of pictures "
                    f"read with {_as_flag(known)}; leave the flag out"
                )
        return Reading(
            self.sixteen_bit_max or planned.sixteen_bit_max,
            planned.fit,
            self.dicom_window or planned.dicom_window,
        )


AS_FILES_SAY = Reading()


def window_of(text: str) -> tuple[float, float] | None:
    """Returns what a flag says as CENTRE,WIDTH; None where it says nothing."""
    if not text:
        return None
    try:
        centre, width = map(float, text.split(","))
    except ValueError:
        raise _refused(text) from None
    _check_window((centre, width))
    return centre, width


def _check_window(window: tuple[float, float]) -> None:
    if len(window) != 2 or not all(map(math.isfinite, window)) or window[1] < 1:
        raise _refused(_as_flag(window))


def _refused(text: str) -> UserError:
    return UserError(
        f"--dicom_window is {text}; give CENTRE,WIDTH with a width of 1 or more, as in 40,400"
    )


def _as_flag(value: object) -> str:
    return ",".join(f"{x:g}" for x in value) if isinstance(value, tuple) else str(value)
