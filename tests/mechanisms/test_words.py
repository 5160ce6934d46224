"""The words that flags and tables have for mechanisms."""

import math

import pytest
from support.every_mechanism import ALL

from privynet_jax.errors import UserError
from privynet_jax.mechanisms.mechanism import Plain
from privynet_jax.mechanisms.noises import (
    Arden,
    ChannelDropout,
    GaussianNoise,
    Quantisation,
)
from privynet_jax.mechanisms.words import parse_mechanism, parse_mechanisms


def test_words_become_mechanisms_and_back():
    assert parse_mechanism(" none ") == Plain()
    assert parse_mechanism("gaussian:clip=8, sigma=0.5") == GaussianNoise(8.0, 0.5)
    assert parse_mechanism("gaussian:clip=inf") == GaussianNoise(math.inf, 0.5)
    assert parse_mechanism("quantise:bits=3,rounding=stochastic") == Quantisation(
        3, 3.0, "stochastic"
    )
    assert parse_mechanism("arden:nullify=0.5") == Arden(nullify=0.5)
    for mechanism in ALL:
        assert parse_mechanism(str(mechanism)) == mechanism
    for word in ("early_exit", "nopeek", "declustering", "multidetasking", "priphit", "disco"):
        assert parse_mechanism(str(parse_mechanism(f"{word}:steps=7"))).steps == 7
    assert parse_mechanisms("none,gaussian:clip=2,sigma=1,dropout,quantise:bits=1,peak=2") == (
        Plain(),
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
        parse_mechanism(text)
    assert "for example" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "none,none", "dropout,dropout:rate=0.5"])
def test_lists_need_different_mechanisms(text):
    with pytest.raises(UserError, match="each once"):
        parse_mechanisms(text)
