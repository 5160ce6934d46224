"""PriPHiT: the guarantee of its noise, and noise and bound in what it releases."""

import jax
import numpy as np
import pytest

from privynet_jax.attacks.base import EVERYTHING
from privynet_jax.errors import UserError
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.adapting.priphit import PriPhit
from privynet_jax.mechanisms.noises import LaplaceNoise
from privynet_jax.mechanisms.scenes import released_scene
from privynet_jax.mechanisms.words import parse_mechanism

KEY = jax.random.key(2)


def test_its_guarantee_and_its_words_are_those_of_its_parts():
    mechanism = PriPhit(clip=0.25, scale=0.5)
    # By hand: twice a mean magnitude of 0.25 over 100 values, by 0.5.
    assert mechanism.epsilon(100) == LaplaceNoise(0.25, 0.5).epsilon(100) == 100
    assert mechanism.is_random
    assert mechanism.trains_local
    assert mechanism.added_noise is None  # no bound of another local NN
    assert parse_mechanism(str(mechanism)) == mechanism
    for wrong in ("scale=-1", "clip=0", "attribute=size", "steps=0"):
        with pytest.raises(UserError, match="for example priphit"):
            parse_mechanism(f"priphit:{wrong}")


def test_what_is_released_is_bounded_and_noisy(clean, small_parts):
    mechanism = PriPhit(steps=2, clip=0.1, scale=0.2)
    scene = released_scene(clean, mechanism, KEY)
    release, rows = scene.release, np.arange(20)
    released = release.released("test", rows)
    expected = np.asarray(scene.knowledge(EVERYTHING).local(as_float(small_parts.test.images[:20])))
    expected = expected * release.unit
    # Mean magnitudes of at most 0.1, but for float32's rounding.
    assert np.abs(expected).mean(axis=(1, 2, 3)).max() <= 0.1 * (1 + 1e-5)
    noise = released - expected
    # Of 81,920 values: a Laplace distribution's mean magnitude is its scale, to 4 standard errors.
    assert np.abs(noise).mean() == pytest.approx(0.2, abs=4 * 0.2 / np.sqrt(noise.size))
    assert abs(noise.mean()) < 4 * 0.2 * np.sqrt(2 / noise.size)
