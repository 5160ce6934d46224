"""The words of mechanisms in flags and tables.

parse_mechanism("laplace:clip=1,scale=0.5")  # LaplaceNoise(clip=1.0, scale=0.5)
"""

import dataclasses
import re

from privynet_jax.errors import UserError
from privynet_jax.mechanisms.adapting.adapted import EarlyExit
from privynet_jax.mechanisms.adapting.declustering import Declustering
from privynet_jax.mechanisms.adapting.disco import Disco
from privynet_jax.mechanisms.adapting.multidetasking import Multidetasking
from privynet_jax.mechanisms.adapting.no_peek import NoPeek
from privynet_jax.mechanisms.adapting.patrol import Patrol
from privynet_jax.mechanisms.adapting.priphit import PriPhit
from privynet_jax.mechanisms.composed import Composed
from privynet_jax.mechanisms.disguises.aes import Aes
from privynet_jax.mechanisms.disguises.instahide import InstaHide
from privynet_jax.mechanisms.disguises.rmt import Rmt
from privynet_jax.mechanisms.mechanism import Mechanism, Plain
from privynet_jax.mechanisms.noises import (
    Arden,
    ChannelDropout,
    GaussianNoise,
    LaplaceNoise,
    NoisilyTrainedArden,
    Quantisation,
)
from privynet_jax.mechanisms.rotations.rotation import Quaternion, Rotation

_PLUS = r"\s*\+\s*(?=[a-z])"  # not that of an exponent
_KINDS = {
    kind.name: kind
    for kind in (
        *(Plain, GaussianNoise, LaplaceNoise, Arden, NoisilyTrainedArden),
        *(ChannelDropout, Quantisation),
        *(EarlyExit, NoPeek, Declustering, Multidetasking, PriPhit, Disco, Patrol),
        *(Rotation, Quaternion, Rmt, Aes, InstaHide),
    )
}


def parse_mechanism(text: str) -> Mechanism:
    """Returns the mechanism that a word and its parameters name, as in `laplace:clip=1,scale=0.5`.

    What is not given has its default; `none` is the split alone; a plus combines.

    Raises:
        UserError: the word, a parameter or a value is not one of those allowed, or two do not go
            together.
    """
    several = re.split(_PLUS, text.strip())
    return _one(text) if len(several) == 1 else Composed(tuple(map(_one, several)))


def _one(text: str) -> Mechanism:
    word, _, given = text.strip().partition(":")
    if word not in _KINDS:
        raise UserError(
            f"mechanism {text!r}; allowed are {', '.join(_KINDS)}; for example {GaussianNoise()}"
        )
    kind, values = _KINDS[word], {}
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    readers = dict(fields)
    for item in filter(None, given.split(",")):
        name, _, value = (side.strip() for side in item.partition("="))
        try:
            # Taken out, so that nothing can be given twice.
            values[name] = readers.pop(name)(value)
        except (KeyError, ValueError):
            raise UserError(
                f"mechanism {text!r}: {item!r} cannot be used; {word} takes "
                f"{', '.join(fields) or 'no parameters'}, each once; "
                f"for example {kind.example or kind()}"
            ) from None
    return kind(**values)


def planned_mechanism(text: str) -> Mechanism:
    """Returns the mechanism of a plan.

    Raises:
        UserError: the words are wrong, or no plan has such a one.
    """
    mechanism = parse_mechanism(text)
    if why := mechanism.not_planned:
        allowed = ", ".join(name for name, kind in _KINDS.items() if not kind.not_planned)
        raise UserError(
            f"mechanism {text!r} cannot be planned: {why}; allowed are {allowed}; "
            "experiments.compare_mechanisms measures the others"
        )
    return mechanism


def parse_mechanisms(text: str) -> tuple[Mechanism, ...]:
    """Returns the mechanisms of a list, separated by commas like their own parameters.

    Raises:
        UserError: one of them is wrong or given twice, or there is none.
    """
    found: list[str] = []
    for item in filter(None, (item.strip() for item in text.split(","))):
        # A parameter belongs to the mechanism before it: its word would come before a colon.
        if found and "=" in item.partition(":")[0]:
            found[-1] += f",{item}"
        else:
            found.append(item)
    mechanisms = tuple(map(parse_mechanism, found))
    if not mechanisms or len(set(mechanisms)) < len(mechanisms):
        raise UserError(
            f"mechanisms {text!r}: expected at least one, each once; for example none,"
            f"{GaussianNoise()},{ChannelDropout()}"
        )
    return mechanisms
