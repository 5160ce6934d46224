"""Trained inverse networks: known answers, determinism, and what tuning reports."""

import jax
import numpy as np
import pytest
from support.attack_checks import (
    check_inverts,
    check_learns_nothing_from_constants,
    check_learns_nothing_from_shuffled_pairs,
    invertible,
    mean_psnr_db,
    smooth_images,
)

from experiments.comparing.other_networks import BASELINES
from privynet_jax.attacks.base import Knowledge, Pairs
from privynet_jax.attacks.closed_form import LinearInversion
from privynet_jax.attacks.inverse import inverse_network
from privynet_jax.attacks.tuning import Budget
from privynet_jax.errors import UserError
from privynet_jax.training.attackers import CAPACITIES

SHORT = Budget(steps=6, batch_size=8)


def folded(images):
    """A local NN that a linear map does not undo: what is above grey, and what is below a third."""
    x = invertible(images)
    return np.float32(np.maximum(x - 1.1, 0) + np.maximum(0.9 - x, 0))


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_an_invertible_local_nn_is_inverted(capacity):
    check_inverts(inverse_network(capacity, SHORT, (1.0,)))


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_there_is_nothing_to_learn_from_constants(capacity):
    check_learns_nothing_from_constants(inverse_network(capacity, SHORT, (1.0,)))


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_there_is_nothing_to_learn_from_shuffled_pairs(capacity):
    check_learns_nothing_from_shuffled_pairs(inverse_network(capacity, SHORT, (1.0,)))


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_baselines_learn_nothing_where_there_is_nothing(name):
    attack = inverse_network(name, Budget(steps=3, batch_size=4), (1.0,), BASELINES)
    check_learns_nothing_from_constants(attack, count=64)
    check_learns_nothing_from_shuffled_pairs(attack, count=64)


@pytest.mark.slow
def test_training_adds_to_the_linear_attack():
    known, asked = smooth_images(256, seed=1), smooth_images(32, seed=2)
    pairs = Pairs(folded(known), known)
    linear = mean_psnr_db(LinearInversion(), pairs, folded(asked), asked)
    strong = inverse_network("strong", Budget(steps=60, batch_size=32), (1.0,))
    assert mean_psnr_db(strong, pairs, folded(asked), asked) > linear + 0.5


def test_everything_follows_from_the_key():
    known = smooth_images(40)
    pairs, asked = Pairs(folded(known), known), folded(smooth_images(5, seed=3))
    attack = inverse_network("strong", Budget(steps=8, batch_size=8), (1.0,))
    fits = [attack.fit(pairs, Knowledge(), jax.random.key(seed)) for seed in (0, 0, 1)]
    first, again, other = (fitted.reconstruct(asked) for fitted in fits)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_capacities_and_rates_compete_within_the_budget():
    known = smooth_images(64)
    attack = inverse_network(["residual", "strong"], Budget(steps=40, batch_size=8), (1.0, 0.01))
    report = attack.fit(Pairs(folded(known), known), Knowledge(), jax.random.key(0)).report
    assert attack.name == "residual+strong"
    usual = CAPACITIES[report["capacity"]].learning_rate
    assert report["learning_rate"] in (usual, 0.01 * usual)
    assert 25 <= report["steps"] < 40
    assert np.isfinite(report["held_out_psnr_db"])


def test_bad_arguments_end_in_one_line():
    images = smooth_images(2)
    with pytest.raises(UserError, match="capacities mighty at 3 learning rates; allowed are paper"):
        inverse_network("mighty")
    with pytest.raises(UserError, match="was given 2 pairs; allowed are 3 or more"):
        inverse_network("strong", SHORT).fit(
            Pairs(folded(images), images), Knowledge(), jax.random.key(0)
        )
    known = smooth_images(12)
    fitted = inverse_network("residual", SHORT, (1.0,)).fit(
        Pairs(folded(known), known), Knowledge(), jax.random.key(0)
    )
    with pytest.raises(UserError, match=r"shape \(2, 8, 8, 11\).*\[N, h, w, 12\]"):
        fitted.reconstruct(folded(images)[..., :11])
