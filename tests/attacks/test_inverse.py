"""Trained inverse networks: what training adds, determinism, company, and what tuning reports.

Known answers are those of every attacker; see test_registry.py.
"""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from support.attack_checks import (
    check_learns_nothing_from_constants,
    check_learns_nothing_from_shuffled_pairs,
    fit_one,
    invertible,
    mean_psnr_db,
    smooth_images,
)

from experiments.comparing.other_networks import BASELINES
from privynet_jax.attacks import inverse
from privynet_jax.attacks.base import Knowledge, Pairs
from privynet_jax.attacks.closed_form import LinearInversion
from privynet_jax.attacks.inverse import InverseNetwork, Training
from privynet_jax.attacks.tuning import Budget, tune
from privynet_jax.errors import DivergedError, UserError
from privynet_jax.platform.rows.row_views import ChosenChannels
from privynet_jax.training.models.attackers import capacities_of_size

SHORT = Budget(steps=6, batch_size=8)


def folded(images):
    """A local NN that a linear map does not undo: what is above grey, and what is below a third."""
    x = invertible(images)
    return np.float32(np.maximum(x - 1.1, 0) + np.maximum(0.9 - x, 0))


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_baselines_learn_nothing_where_there_is_nothing(name):
    attack = InverseNetwork(name, (BASELINES[name],), Training(Budget(steps=3, batch_size=4)))
    check_learns_nothing_from_constants(attack, count=64)
    check_learns_nothing_from_shuffled_pairs(attack, count=64)


def test_training_adds_to_the_linear_attack():
    known, asked = smooth_images(256, seed=1), smooth_images(32, seed=2)
    pairs = Pairs(folded(known), known)
    linear = mean_psnr_db(LinearInversion(), pairs, folded(asked), asked)
    network = capacities_of_size(width=24, num_blocks=0)["residual"]
    training = Training(Budget(steps=100, batch_size=32), (2.0,))
    residual = InverseNetwork("residual", (network,), training)
    assert mean_psnr_db(residual, pairs, folded(asked), asked) > linear + 0.3


def small_network(name, budget):
    return InverseNetwork(
        name, (capacities_of_size(width=8, num_blocks=0)[name],), Training(budget)
    )


def test_everything_follows_from_the_key():
    known = smooth_images(40)
    pairs, asked = Pairs(folded(known), known), folded(smooth_images(5, seed=3))
    attack = small_network("residual", SHORT)
    fits = [fit_one(attack, pairs, key=jax.random.key(seed)) for seed in (0, 0, 1)]
    first, again, other = (fitted.reconstruct(asked) for fitted in fits)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_topologies_side_by_side_are_attacked_as_alone():
    images, asked = smooth_images(60), folded(smooth_images(5, seed=3))
    stored, attack = folded(images), small_network("residual", SHORT)
    scenes = [
        Pairs(ChosenChannels(stored, np.array(own), 6), images)
        for own in ((3, 0, 9), (11, 2, 4, 1, 7, 5), (8,))
    ]
    keys = list(jax.random.split(jax.random.key(0), 3))
    together = attack.fit(scenes, [Knowledge()] * 3, keys)
    for pairs, key, fitted in zip(scenes, keys, together, strict=True):
        alone = fit_one(attack, pairs, key=key)
        positions = pairs.representations.positions
        shown = np.pad(asked[..., positions], [(0, 0)] * 3 + [(0, 6 - len(positions))])
        one, other = fitted.reconstruct(shown), alone.reconstruct(shown)
        # Six steps move each parameter by 6 times the rate at most, of which the order of sums
        # decides some hundredths, where a gradient is small beside its terms: a few per mille of
        # an image, beside the linear start's (test_closed_form.py). A step more is several times
        # that on average, and so is another topology's estimate.
        np.testing.assert_allclose(one, other, atol=0.02)
        assert np.abs(one - other).mean() < 2e-3


def test_what_diverges_on_one_topology_spoils_no_other(monkeypatch):
    images, asked = smooth_images(40), folded(smooth_images(5, seed=3))
    scenes, keys = [Pairs(folded(images), images)] * 2, list(jax.random.split(jax.random.key(0)))

    def second_diverges(*given):
        first, second = tune(*given)
        return [first, second._replace(trained=SimpleNamespace(diverged=True))]

    monkeypatch.setattr(inverse, "tune", second_diverges)
    knowledge = [Knowledge()] * 2
    one, lost = small_network("residual", SHORT).fit(scenes, knowledge, keys)
    assert np.isfinite(one.reconstruct(asked)).all()
    with pytest.raises(DivergedError, match=r"residual diverged.*tried, last at 0.\d+; give lower"):
        lost.reconstruct(asked)
    assert not lost.report["converged"]


def test_capacities_and_rates_compete_within_the_budget():
    images = smooth_images(64)
    small = capacities_of_size(width=8, num_blocks=0)["residual"]
    other = dataclasses.replace(small, name="hasty", learning_rate=0.02)
    training = Training(Budget(steps=40, batch_size=8), (1.0, 0.01))
    attack = InverseNetwork("best", (small, other), training)
    report = fit_one(attack, Pairs(folded(images), images)).report
    usual = small.learning_rate
    assert report["learning_rate"] in (usual, 0.01 * usual)
    assert 25 <= report["steps"] < 40
    assert np.isfinite(report["held_out_psnr_db"])


def test_bad_arguments_end_in_one_line():
    images = smooth_images(2)
    with pytest.raises(UserError, match="was given 2 pairs; allowed are 3 or more"):
        fit_one(small_network("strong", SHORT), Pairs(folded(images), images))
    copies = np.repeat(images, 2, axis=0)  # of two images, which are too few all the same
    with pytest.raises(UserError, match="was given 2 pairs; allowed are 3 or more"):
        fit_one(small_network("strong", SHORT), Pairs(folded(copies), copies, copies=2))
    known = smooth_images(40)
    fitted = fit_one(small_network("residual", SHORT), Pairs(folded(known), known))
    with pytest.raises(UserError, match=r"shape \(2, 8, 8, 11\).*\[N, h, w, 12\]"):
        fitted.reconstruct(folded(images)[..., :11])
