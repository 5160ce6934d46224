"""RMT by hand and back, and what least squares and moments make of it."""

import jax
import numpy as np
import pytest

from privynet_jax.attacks.base import NETWORK, PAIRS, Knowledge, Pairs
from privynet_jax.errors import UserError
from privynet_jax.images.metrics import psnr_db
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.disguises.alignment import Alignment
from privynet_jax.mechanisms.disguises.blocks import Secret, from_blocks, to_blocks
from privynet_jax.mechanisms.disguises.least_squares import LeastSquares
from privynet_jax.mechanisms.disguises.rmt import Rmt
from privynet_jax.mechanisms.mechanism import PICTURE_UNIT

KEY, SIZE = jax.random.key(0), 16
PUBLIC = np.zeros((1, SIZE, SIZE, 3), np.uint8)


def pictures(count, seed):
    """Smooth ones, uint8 [N, 16, 16, 3], brighter on the left and at the top."""
    rng = np.random.default_rng(seed)
    side = 2 * SIZE  # what is cut out has no edge that goes on at the other side
    frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    waves = rng.standard_normal((count, 3, *frequencies.shape, 2)) @ np.array([1, 1j])
    field = np.fft.irfft2(waves / (0.05 + frequencies) ** 1.5)[..., :SIZE, :SIZE]
    field = field + 0.7 * field[:, :1]
    field = np.moveaxis(field / field.std(), 1, -1)
    place = np.linspace(0.75, 0.35, SIZE)
    tilt = (place[:, None] + 1.5 * place[None, :]) / 2.5
    return np.uint8(255 * (tilt[..., None] + 0.1 * field).clip(0, 1))


def released(mechanism, secret, images, seed=1):
    keys = jax.random.split(jax.random.key(seed), len(images))
    found = jax.vmap(lambda key, x: mechanism.of_image(secret, key, x))(keys, as_float(images))
    return np.asarray(found) / PICTURE_UNIT


def mean_db(estimates, images):
    """Of estimates in the unit of releases."""
    pictures = np.float32(PICTURE_UNIT * estimates).clip(0, 1)
    return float(np.mean(psnr_db(pictures, as_float(images))))


def blind_db(own, theirs):
    mean = as_float(own).mean(axis=0) / PICTURE_UNIT
    return mean_db(np.broadcast_to(mean, theirs.shape), theirs)


def test_a_case_worked_by_hand():
    # Two blocks of 2 x 2 side by side, grey; the second comes first, and a quarter turn takes its
    # rows (a, b) to (-b, a); the other block's rows are exchanged in their columns.
    image = np.repeat(np.float32([[1, 2, 5, 6], [3, 4, 7, 8]])[..., None], 3, axis=-1) / 255
    exchange, turn = [[0, 1], [1, 0]], [[0, 1], [-1, 0]]
    parts = np.float32([[exchange] * 3, [turn] * 3])
    secret, mechanism = Secret(np.array([1, 0]), parts), Rmt(block=2)
    found = np.asarray(mechanism.of_image(secret, KEY, image))
    expected = np.float32([[-6, 5, 2, 1], [-8, 7, 4, 3]])
    np.testing.assert_allclose(255 * found[..., 1], expected, rtol=1e-6)
    np.testing.assert_allclose(mechanism.undone(secret, found), image, atol=1e-7)
    assert mechanism.macs((2, 4, 3), None) == 2 * 4 * 3 * 2


def test_blocks_come_back():
    images = np.arange(2 * 8 * 12 * 3).reshape(2, 8, 12, 3)
    blocks = to_blocks(images, 4)
    assert blocks.shape == (2, 6, 3, 4, 4)
    np.testing.assert_array_equal(blocks[1, 4, 2], images[1, 4:, 4:8, 2])
    np.testing.assert_array_equal(from_blocks(blocks, 12), images)


def test_the_secret_undoes_it_but_for_the_noise():
    mechanism, images = Rmt(block=4, noise=20), as_float(pictures(3, 0))
    secret = mechanism.secret(KEY, PUBLIC)
    assert sorted(np.asarray(secret.order)) == list(range(16))
    gram = np.einsum("bckl,bcml->bckm", secret.parts, secret.parts)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(4), gram.shape), atol=1e-6)
    disguised = mechanism.of_image(secret, KEY, images[0])
    noise = 255 * (np.asarray(mechanism.undone(secret, disguised)) - images[0])
    assert np.abs(noise - np.round(noise)).max() < 1e-3
    assert set(np.unique(np.round(noise))) == set(range(21))
    again = mechanism.of_image(secret, jax.random.key(9), images[0])
    assert not np.allclose(again, disguised)
    told = r"blocks of 4 x 4 pixels, and pictures are 10 x 10; .* these pictures are 2, 5, 10;"
    with pytest.raises(UserError, match=told):
        mechanism.check((10, 10, 3))


def test_known_pairs_break_it_to_the_last_bit():
    mechanism, own, theirs = Rmt(block=4), pictures(60, 1), pictures(20, 2)
    secret = mechanism.secret(KEY, PUBLIC)
    pairs = Pairs(released(mechanism, secret, own), own)
    undone = LeastSquares(4).learnt(pairs, Knowledge(PAIRS), KEY)
    assert mean_db(undone.undo(released(mechanism, secret, theirs)), theirs) > 60
    # What is left to learn from was not learnt from, and is as well rebuilt.
    assert len(undone.pairs.images) == 30
    assert mean_db(np.asarray(undone.pairs.representations), own[30:]) > 60


def test_with_noise_pairs_find_the_noisy_picture():
    mechanism, own, theirs = Rmt(block=4, noise=30), pictures(400, 1), pictures(20, 2)
    secret = mechanism.secret(KEY, PUBLIC)
    undone = LeastSquares(4).learnt(Pairs(released(mechanism, secret, own), own), None, KEY)
    found = mean_db(undone.undo(released(mechanism, secret, theirs)), theirs)
    # Noise that is uniform on 31 levels has a variance of 80: 29.1 dB, which smoothing betters.
    assert 29 < found < 36


@pytest.mark.parametrize("noise", [0, 10])
def test_moments_break_it_without_any_pair(noise):
    mechanism, own, theirs = Rmt(block=4, noise=noise), pictures(1500, 3), pictures(1000, 4)
    secret = mechanism.secret(KEY, PUBLIC)
    observed = released(mechanism, secret, theirs)
    known = Knowledge(NETWORK, observed=observed)
    undone = Alignment(mechanism).learnt(Pairs(observed[:0], own), known, KEY)
    found = mean_db(undone.undo(observed[:50]), theirs[:50])
    assert found > blind_db(own, theirs[:50]) + 6
    assert undone.pairs.representations.shape == own.shape


def test_other_secrets_tell_nothing():
    """What least squares learns of one release does not undo another."""
    mechanism, own, theirs = Rmt(block=4), pictures(60, 1), pictures(20, 2)
    first, second = (mechanism.secret(key, PUBLIC) for key in jax.random.split(KEY))
    undone = LeastSquares(4).learnt(Pairs(released(mechanism, first, own), own), None, KEY)
    found = mean_db(undone.undo(released(mechanism, second, theirs)), theirs)
    assert found < blind_db(own, theirs)


def test_copies_of_a_picture_stay_together():
    """Noise differs between them, and who holds out one holds out all."""
    mechanism, own = Rmt(block=4, noise=30), pictures(20, 1)
    secret, twice = mechanism.secret(KEY, PUBLIC), np.repeat(own, 2, axis=0)
    given = released(mechanism, secret, twice)
    known = Knowledge(NETWORK, observed=given)
    of_pairs = LeastSquares(4).learnt(Pairs(given, twice, copies=2), None, KEY)
    of_moments = Alignment(mechanism).learnt(Pairs(given[:0], twice, copies=2), known, KEY)
    for undone, images in ((of_pairs, twice[20:]), (of_moments, twice)):
        assert undone.pairs.copies == 2
        np.testing.assert_array_equal(undone.pairs.images, images)
        left = np.asarray(undone.pairs.representations)
        assert np.abs(left[::2] - left[1::2]).mean() > 0.01
    # An odd number of pictures, too.
    odd = LeastSquares(4).learnt(Pairs(given[:30], twice[:30], copies=2), None, KEY)
    assert len(odd.pairs.images) == 16


@pytest.mark.parametrize("own", [pictures(12, 1), np.full((12, SIZE, SIZE, 3), 7, np.uint8)])
def test_whole_pictures_as_blocks_and_pictures_all_alike_are_no_trouble(own):
    mechanism = Rmt(block=SIZE)
    secret = mechanism.secret(KEY, PUBLIC)
    observed = released(mechanism, secret, own)
    known = Knowledge(NETWORK, observed=observed)
    undone = Alignment(mechanism).learnt(Pairs(observed[:0], own), known, KEY)
    assert np.isfinite(undone.undo(observed)).all()
