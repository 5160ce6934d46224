"""Closed-form attacks behind the interface of all attacks."""

import numpy as np
import pytest
from support.attack_checks import (
    check_inverts,
    check_learns_nothing_from_constants,
    check_learns_nothing_from_shuffled_pairs,
    fit_one,
    invertible,
    smooth_images,
)

from privynet_jax.attacks import closed_form
from privynet_jax.attacks.base import Knowledge, Pairs
from privynet_jax.attacks.closed_form import LinearInversion, MeanImage, linear_attacks
from privynet_jax.errors import UserError
from privynet_jax.images.parts import as_float
from privynet_jax.platform.rows.row_views import ChosenChannels
from privynet_jax.training.models import linear_attack


def test_an_invertible_local_nn_is_inverted():
    check_inverts(LinearInversion())


def test_there_is_nothing_to_learn_from_constants():
    check_learns_nothing_from_constants(LinearInversion())


def test_large_images_are_inverted_piece_by_piece(monkeypatch):
    images = smooth_images(7)
    stored = np.float16(invertible(images))
    fitted = fit_one(LinearInversion(), Pairs(stored, images))
    whole = fitted.reconstruct(np.float32(stored))
    monkeypatch.setattr(closed_form, "_INVERTED_BYTES", 2 * 4 * stored[0].size)
    np.testing.assert_allclose(fitted.reconstruct(stored), whole, atol=1e-5)
    assert fitted.reconstruct(stored[:0]).shape == (0, 16, 16, 3)


def test_there_is_nothing_to_learn_from_shuffled_pairs():
    check_learns_nothing_from_shuffled_pairs(LinearInversion())


def test_the_attack_is_the_grid_s_own():
    images = smooth_images(50)
    pairs = Pairs(invertible(images) ** 2, images)
    [attack] = linear_attacks([pairs], on_both=True)
    sums = [
        linear_attack.gather_statistics([(pairs.representations[rows], as_float(images[rows]))])
        for rows in pairs.hold_out()
    ]
    expected = linear_attack.fit(*sums, range(12))
    np.testing.assert_array_equal(attack.kernel, expected.kernel)
    assert fit_one(LinearInversion(), pairs).report["converged"]


def test_topologies_of_one_layer_are_fitted_as_alone():
    images = smooth_images(60)
    stored = np.float16(invertible(images) ** 2)
    asked = invertible(smooth_images(5, seed=3)) ** 2
    chosen = [ChosenChannels(stored, np.array(own), 6) for own in ((3, 0, 9), (11, 2, 4, 1, 7, 5))]
    scenes = [Pairs(own, images) for own in chosen]
    together = linear_attacks(scenes, on_both=False)
    for own, pairs, attack in zip(chosen, scenes, together, strict=True):
        [alone] = linear_attacks([pairs], on_both=False)
        # What fills up the width to 6 counts for nothing.
        narrow = Pairs(ChosenChannels(stored, own.positions), images)
        [bare] = linear_attacks([narrow], on_both=False)
        depth = len(own.positions)
        assert not attack.kernel[:, :, depth:].any()
        shown = asked[..., own.positions]
        padded = np.pad(shown, [(0, 0)] * 3 + [(0, 6 - depth)])
        estimates = [
            linear_attack.reconstruct(*each)
            for each in ((attack, padded), (alone, padded), (bare, shown))
        ]
        # Gram matrices of the union are summed in float32 in another order: 60 * 64 positions of
        # values about 1, known to 1e-5, which solving for ridges of 1e-7 magnifies, in estimates
        # much less than in kernels. One channel in another's place is off by 0.1.
        np.testing.assert_allclose(estimates[0], estimates[1], atol=2e-3)
        np.testing.assert_allclose(estimates[1], estimates[2], atol=2e-3)


def test_what_is_held_out_is_not_solved_on():
    images = smooth_images(60)
    pairs = Pairs(invertible(images) ** 2, images)
    rows, held = pairs.hold_out()
    changed = images.copy()
    changed[held] = changed[held][::-1] // 2
    one, other = (
        fit_linear([Pairs(pairs.representations, own)], [1e-3]) for own in (images, changed)
    )
    np.testing.assert_array_equal(one.kernel, other.kernel)
    black = images.copy()
    black[rows] = 0
    third = fit_linear([Pairs(pairs.representations, black)], [1e-3])
    assert np.abs(one.kernel - third.kernel).max() > 0.01


def fit_linear(scenes, ridges):
    """Their linear start at one ridge, which then no held-out pair has to choose."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_attack, "RIDGES", ridges)
        [attack] = linear_attacks(scenes, on_both=False)
    return attack


def test_copies_of_an_image_stay_together():
    images = smooth_images(20).repeat(3, axis=0)
    stored = ChosenChannels(invertible(images), np.array([5, 2]), 4)
    pairs = Pairs(stored, images, copies=3)
    rows, held = pairs.hold_out()
    assert len(held) == 6
    assert not set(rows // 3) & set(held // 3)
    chosen = pairs.chosen(rows)
    assert (chosen.copies, chosen.representations.positions.tolist()) == (3, [5, 2])
    np.testing.assert_array_equal(chosen.representations[:], stored[rows])
    np.testing.assert_array_equal(chosen.images, images[rows])
    for broken in (rows[1:], rows[:4], rows[::-1]):
        with pytest.raises(ValueError, match="all 3 copies of each image"):
            pairs.chosen(broken)


def test_the_mean_image_ignores_what_it_is_given():
    images = smooth_images(10)
    fitted = fit_one(MeanImage(), Pairs(invertible(images), images))
    estimates = fitted.reconstruct(np.zeros((3, 8, 8, 12), np.float32))
    np.testing.assert_allclose(estimates[2], as_float(images).mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("copies", [1, 3])
def test_one_pair_is_too_few_in_any_number_of_copies(copies):
    images = smooth_images(1).repeat(copies, axis=0)
    pairs = Pairs(invertible(images), images, copies)
    with pytest.raises(UserError, match="linear was given 1 pairs; allowed are 2 or more"):
        fit_one(LinearInversion(), pairs)
    with pytest.raises(UserError, match="1 representations and 1 images are no pairs"):
        pairs.hold_out()


def test_knowledge_has_four_names():
    with pytest.raises(UserError, match="allowed are 'pairs', 'pairs from another data set'"):
        Knowledge("nothing")
