"""Closed-form attacks behind the interface of all attacks."""

import jax
import numpy as np
import pytest
from support.attack_checks import (
    check_inverts,
    check_learns_nothing_from_constants,
    check_learns_nothing_from_shuffled_pairs,
    invertible,
    smooth_images,
)

from privynet_jax.attacks import closed_form
from privynet_jax.attacks.base import PAIRS, Knowledge, Pairs
from privynet_jax.attacks.closed_form import LinearInversion, MeanImage
from privynet_jax.errors import UserError
from privynet_jax.images.parts import as_float
from privynet_jax.training import linear_attack


def test_an_invertible_local_nn_is_inverted():
    check_inverts(LinearInversion())


def test_there_is_nothing_to_learn_from_constants():
    check_learns_nothing_from_constants(LinearInversion())


def test_large_images_are_inverted_piece_by_piece(monkeypatch):
    images = smooth_images(7)
    stored = np.float16(invertible(images))
    fitted = LinearInversion().fit(Pairs(stored, images), Knowledge(), jax.random.key(0))
    whole = fitted.reconstruct(np.float32(stored))
    monkeypatch.setattr(closed_form, "_INVERTED_BYTES", 2 * 4 * stored[0].size)
    np.testing.assert_allclose(fitted.reconstruct(stored), whole, atol=1e-5)
    assert fitted.reconstruct(stored[:0]).shape == (0, 16, 16, 3)


def test_there_is_nothing_to_learn_from_shuffled_pairs():
    check_learns_nothing_from_shuffled_pairs(LinearInversion())


def test_the_attack_is_the_grid_s_own():
    images = smooth_images(50)
    pairs = Pairs(invertible(images) ** 2, images)
    fitted = LinearInversion().fit(pairs, Knowledge(PAIRS), jax.random.key(0))
    sums = [
        linear_attack.gather_statistics([(pairs.representations[rows], as_float(images[rows]))])
        for rows in (slice(0, 40), slice(40, 50))
    ]
    expected = linear_attack.fit(*sums, range(12))
    np.testing.assert_allclose(fitted.attack.kernel, expected.kernel, rtol=1e-3, atol=1e-4)
    assert fitted.report["converged"]


def test_the_mean_image_ignores_what_it_is_given():
    images = smooth_images(10)
    fitted = MeanImage().fit(Pairs(invertible(images), images), Knowledge(), jax.random.key(0))
    estimates = fitted.reconstruct(np.zeros((3, 8, 8, 12), np.float32))
    np.testing.assert_allclose(estimates[2], as_float(images).mean(axis=0), atol=1e-6)


def test_one_pair_is_too_few():
    images = smooth_images(1)
    with pytest.raises(UserError, match="was given 1 pairs; allowed are 2 or more"):
        LinearInversion().fit(Pairs(invertible(images), images), Knowledge(), jax.random.key(0))


def test_knowledge_has_four_names():
    with pytest.raises(UserError, match="allowed are 'pairs', 'pairs from another data set'"):
        Knowledge("nothing")
