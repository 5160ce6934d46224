"""The words that flags and tables have for defences."""

import math

import pytest
from support.every_defence import ALL

from privynet_jax.defences.mechanisms import (
    Arden,
    ChannelDropout,
    GaussianNoise,
    Quantisation,
    Undefended,
    parse_defence,
    parse_defences,
)
from privynet_jax.errors import UserError


def test_words_become_defences_and_back():
    assert parse_defence(" none ") == Undefended()
    assert parse_defence("gaussian:clip=8, sigma=0.5") == GaussianNoise(8.0, 0.5)
    assert parse_defence("gaussian:clip=inf") == GaussianNoise(math.inf, 0.5)
    assert parse_defence("quantise:bits=3,rounding=stochastic") == Quantisation(
        3, 3.0, "stochastic"
    )
    assert parse_defence("arden:nullify=0.5") == Arden(nullify=0.5)
    for defence in ALL:
        assert parse_defence(str(defence)) == defence
    assert parse_defences("none,gaussian:clip=2,sigma=1,dropout,quantise:bits=1,peak=2") == (
        Undefended(),
        GaussianNoise(2.0, 1.0),
        ChannelDropout(),
        Quantisation(1, 2.0),
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gaussan", "allowed are none, gaussian"),
        ("gaussian:sigma", "takes clip, sigma"),
        ("gaussian:sigma=much", "takes clip, sigma"),
        ("gaussian:sigma=1,sigma=2", "each once"),
        ("gaussian:clip=0", "clip=0.0; allowed: more than 0"),
        ("gaussian:clip=nan", "allowed: more than 0"),
        ("laplace:scale=-1", "scale=-1.0; allowed: 0 or more"),
        ("laplace:scale=inf", "0 or more"),
        ("arden:nullify=1.5", "allowed: 0 to 1; for example arden:nullify=0.2,clip=0.5,scale=0.2"),
        ("dropout:rate=nan", "allowed: 0 to 1"),
        ("quantise:bits=9", "allowed: 1 to 8"),
        ("quantise:bits=2.5", "takes bits, peak, rounding.*quantise:.*,rounding=stochastic"),
        ("quantise:rounding=up", "rounding=up; allowed: nearest or stochastic"),
        ("none:clip=1", "takes no parameters"),
    ],
)
def test_wrong_words_are_refused_in_one_line(text, told):
    with pytest.raises(UserError, match=told) as refused:
        parse_defence(text)
    assert "for example" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "none,none", "dropout,dropout:rate=0.5"])
def test_lists_need_different_defences(text):
    with pytest.raises(UserError, match="each once"):
        parse_defences(text)
