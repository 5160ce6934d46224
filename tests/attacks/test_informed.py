"""Who has the local NN and makes pairs of its own pictures, with noise of their own or without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.attack_checks import fit_one
from support.handmade_layers import pictures

from privynet_jax.attacks.base import EVERYTHING, PAIRS, Knowledge, Pairs
from privynet_jax.attacks.closed_form import MeanImage
from privynet_jax.attacks.informed import InformedAttack
from privynet_jax.attacks.inverse import InverseNetwork, Training
from privynet_jax.attacks.tuning import Budget
from privynet_jax.errors import UserError
from privynet_jax.images.metrics import psnr_db
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.noises import GaussianNoise
from privynet_jax.mechanisms.release_functions import expected_release, release_by_content
from privynet_jax.training.models.attackers import RESIDUAL, capacities_of_size

KEY = jax.random.key(0)
OWN, PRIVATE = pictures(40, seed=1), pictures(24, seed=2)
NOISE = GaussianNoise(clip=float("inf"), sigma=0.3)


def training(**budget):
    return Training(Budget(batch_size=8, **budget), capacities=capacities_of_size(8, 0))


def informed(**budget):
    own = training(**budget)
    network = InverseNetwork(RESIDUAL, (own.capacities[RESIDUAL],), own)
    return InformedAttack(network, steps=16, tuning_images=4)


QUICK = informed(steps=3)


def local(images):
    """Invertible: the image and its negative, both cut at zero."""
    x = 2 * images - 1
    return jnp.concatenate([jnp.maximum(x, 0), jnp.maximum(-x, 0)], axis=-1)


def quality(fitted, release):
    estimates = np.float32(fitted.reconstruct(np.asarray(release)))
    return float(np.mean(psnr_db(estimates, as_float(PRIVATE))))


def alone(release):
    return Pairs(np.empty((0, *release.shape[1:]), np.float32), OWN)


def test_it_rebuilds_what_can_be_rebuilt_without_any_pair():
    release = local(as_float(PRIVATE))
    fitted = fit_one(QUICK, alone(release), Knowledge(EVERYTHING, local=local), KEY)
    assert quality(fitted, release) > 35
    assert fitted.report["warm_start"] == RESIDUAL


def test_under_noise_it_learns_what_is_released_and_not_what_would_be():
    release = release_by_content(local, NOISE, jax.random.key(7))(as_float(PRIVATE))
    expected = expected_release(local, NOISE, 1.0)
    made = release_by_content(local, NOISE, jax.random.key(8))
    knows = Knowledge(EVERYTHING, local=expected, made=made)
    ignores = Knowledge(EVERYTHING, local=expected)
    found, naive = (
        quality(fit_one(QUICK, alone(release), k, KEY), release) for k in (knows, ignores)
    )
    mean = quality(fit_one(MeanImage(), alone(release), Knowledge(PAIRS), KEY), release)
    # Two values tell each pixel's, give or take 0.3 / 2: 16 dB, and neighbours tell more.
    assert mean < 14 < 17 < found < 35
    assert found > naive + 0.5


def test_what_it_needs():
    release = local(as_float(PRIVATE))
    with pytest.raises(UserError, match="was not given the local NN itself"):
        fit_one(QUICK, alone(release), Knowledge(PAIRS), KEY)
    knows = Knowledge(EVERYTHING, local=local)
    with pytest.raises(UserError, match="informed was given 7 pairs; allowed are 8 or more"):
        fit_one(QUICK, Pairs(np.asarray(release)[:0], OWN[:7]), knows, KEY)
    with pytest.raises(UserError, match="give a number of steps"):
        fit_one(informed(steps=None, seconds=1.0), alone(release), knows, KEY)
