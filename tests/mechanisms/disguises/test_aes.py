"""AES against the standard's own example, and what codebooks and frequencies make of it."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from privynet_jax.attacks.base import NETWORK, PAIRS, Knowledge, Pairs
from privynet_jax.images.metrics import psnr_db
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.disguises.aes import Aes
from privynet_jax.mechanisms.disguises.blocks import Secret, to_blocks
from privynet_jax.mechanisms.disguises.codebook import Codebook, Frequencies
from privynet_jax.mechanisms.mechanism import PICTURE_UNIT

KEY, SIZE = jax.random.key(0), 16
PUBLIC = np.zeros((1, SIZE, SIZE, 3), np.uint8)
SHAPE = (SIZE, SIZE, 3)


def pictures(count, kinds, seed):
    """Of few different blocks, uint8 [N, 16, 16, 3]: the first is the commonest, and black."""
    blocks = np.random.default_rng(0).integers(0, 256, (kinds, 4, 4, 3), dtype=np.uint8)
    blocks[0] = 0
    rng = np.random.default_rng(seed)
    shares = 0.5 ** np.arange(kinds)
    # Black is rarer further down.
    chosen = np.stack(
        [rng.choice(kinds, (count, 4), p=_shares(shares, 1 + 0.5 * row)) for row in range(4)],
        axis=1,
    )
    rows = blocks[chosen].transpose(0, 1, 3, 2, 4, 5)
    return rows.reshape(count, SIZE, SIZE, 3)


def _shares(shares, evened):
    own = shares ** (1 / evened)
    return own / own.sum()


def released(mechanism, secret, images):
    found = jax.vmap(lambda x: mechanism.of_image(secret, KEY, x))(as_float(images))
    return np.asarray(found) / PICTURE_UNIT


def mean_db(left, images):
    estimates = np.float32(PICTURE_UNIT * left[..., :3]).clip(0, 1)
    return float(np.mean(psnr_db(estimates, as_float(images))))


def test_the_standard_s_own_example():
    """FIPS 197, appendix C.1."""
    key = np.frombuffer(bytes.fromhex("000102030405060708090a0b0c0d0e0f"), np.uint8)
    plain = np.frombuffer(bytes.fromhex("00112233445566778899aabbccddeeff"), np.uint8)
    image = np.repeat(plain.reshape(4, 4)[..., None], 3, axis=-1)
    secret, mechanism = Secret(np.array([0]), key[None]), Aes()
    found = np.asarray(jax.jit(mechanism.of_image)(secret, KEY, as_float(image)))
    levels = np.uint8(np.round(255 * found))
    assert levels[..., 2].tobytes().hex() == "69c4e0d86a7b0430d8cdb78070b4c55a"
    np.testing.assert_allclose(255 * mechanism.undone(secret, found), image, atol=1e-4)


@pytest.mark.parametrize("keys", ["one", "each"])
def test_equal_blocks_stay_equal_and_the_secret_undoes_it(keys):
    mechanism, images = Aes(keys), pictures(5, 4, 1)
    secret = mechanism.secret(KEY, PUBLIC)
    assert secret.parts.shape == ((16, 16) if keys == "each" else (1, 16))
    found = PICTURE_UNIT * released(mechanism, secret, images)
    undone = np.asarray(jax.vmap(lambda x: mechanism.undone(secret, x))(found))
    np.testing.assert_allclose(255 * undone, images, atol=1e-4)
    plain, cipher = (to_blocks(x, 4)[:, :, 0] for x in (images, np.round(255 * found)))
    for place, source in enumerate(np.asarray(secret.order)):
        same = (plain[:, None, source] == plain[None, :, source]).all(axis=(-1, -2))
        np.testing.assert_array_equal(
            (cipher[:, None, place] == cipher[None, :, place]).all(axis=(-1, -2)), same
        )
    # Black is alike everywhere where there is one key, and in each place its own otherwise.
    black = {
        cipher[image, place].tobytes()
        for place, source in enumerate(np.asarray(secret.order))
        for image in range(5)
        if not plain[image, source].any()
    }
    assert len(black) == 1 if keys == "one" else len(black) > 5


@pytest.mark.parametrize("keys", ["one", "each"])
def test_a_codebook_of_pairs_has_every_block_that_was_met(keys):
    mechanism, own, theirs = Aes(keys), pictures(300, 6, 1), pictures(20, 6, 2)
    secret = mechanism.secret(KEY, PUBLIC)
    pairs = Pairs(released(mechanism, secret, own), own)
    undone = Codebook(keys == "each").learnt(pairs, Knowledge(PAIRS), KEY)
    left = undone.undo(released(mechanism, secret, theirs))
    assert left.shape == (20, SIZE, SIZE, 4)
    assert left[..., 3].mean() > 0.97
    assert (
        mean_db(left[left[..., 3].all(axis=(1, 2))], theirs[left[..., 3].all(axis=(1, 2))]) == 100
    )
    assert undone.report["known_blocks"] > 0.97


@pytest.mark.parametrize("keys", ["one", "each"])
def test_frequencies_find_the_commonest_blocks_without_pairs(keys):
    mechanism, own, theirs = Aes(keys), pictures(2000, 3, 1), pictures(1000, 3, 2)
    secret = mechanism.secret(KEY, PUBLIC)
    observed = released(mechanism, secret, theirs)
    known = Knowledge(NETWORK, observed=observed)
    undone = Frequencies(keys == "each").learnt(Pairs(observed[:0], own), known, KEY)
    left = undone.undo(observed)
    is_known = left[..., 3] == 1
    # Black at least; the others are there less often than that.
    assert is_known.mean() > 0.4
    assert undone.report["known_blocks"] == pytest.approx(is_known.mean(), abs=0.05)
    # Blocks are what they were, up to the places that statistics do not tell apart: rows of blocks.
    levels = np.round(255 * PICTURE_UNIT * left[..., :3])
    met = {x.tobytes() for x in to_blocks(theirs, 4).reshape(-1, 16)}
    rows = to_blocks(np.uint8(levels), 4)[to_blocks(left[..., [3, 3, 3]], 4).all(axis=(-1, -2))]
    assert {x.tobytes() for x in rows} <= met
    if keys == "one":
        # Black is black wherever it lies, and as often as there.
        shares = [(to_blocks(x, 4) == 0).all(axis=(-1, -2)).mean() for x in (theirs, levels)]
        assert shares[1] == pytest.approx(shares[0], abs=1e-6)


def test_copies_and_few_repeats_mislead_no_codebook():
    """Black is met once in some places, which then could hold any block: the others decide."""
    rng = np.random.default_rng(3)
    own = rng.integers(1, 256, (80, *SHAPE), dtype=np.uint8)
    blocks = own.reshape(80, 4, 4, 4, 4, 3)
    black = rng.random((80, 4, 4)) < 0.3
    black[:, 3] = False
    black[5, 3] = True
    own = (
        np.where(black[:, :, None, :, None, None].repeat(4, 2).repeat(4, 4), 0, blocks)
        .reshape(80, *SHAPE)
        .astype(np.uint8)
    )
    twice = np.repeat(own, 2, axis=0)
    mechanism = Aes()
    secret = mechanism.secret(KEY, PUBLIC)
    undone = Codebook(False).learnt(
        Pairs(released(mechanism, secret, twice), twice, copies=2), None, KEY
    )
    assert undone.pairs.copies == 2
    assert len(undone.pairs.images) == 80
    left = np.asarray(undone.pairs.representations)
    known = to_blocks(left[..., [3, 3, 3]], 4).all(axis=(-1, -2))
    levels = to_blocks(np.round(255 * PICTURE_UNIT * left[..., :3]), 4)
    truth = to_blocks(undone.pairs.images, 4)
    assert known.mean() > 0.15
    np.testing.assert_array_equal(levels[known], truth[known])


def test_what_never_repeats_is_not_known():
    rng = np.random.default_rng(0)
    own, theirs = rng.integers(0, 256, (2, 40, *SHAPE), dtype=np.uint8)
    mechanism = Aes()
    secret = mechanism.secret(KEY, PUBLIC)
    undone = Codebook(False).learnt(Pairs(released(mechanism, secret, own), own), None, KEY)
    left = undone.undo(released(mechanism, secret, theirs))
    assert left[..., 3].max() == 0
    # Not an answer from nowhere: the mean of what was learnt from.
    np.testing.assert_allclose(
        255 * PICTURE_UNIT * left[0, ..., :3], own[:20].mean(axis=0), atol=1e-3
    )


_ON_ONE_CORE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import subprocess
import sys

import jax
import numpy as np
from privynet_jax.mechanisms.disguises.aes import Aes
from privynet_jax.platform.devices import use_cpu_devices

use_cpu_devices(1)
images, keys = np.zeros((1024, 32, 32, 3), np.float32), jax.random.split(jax.random.key(0), 1024)
secret = Aes().secret(keys[0], images)
of_images = jax.jit(jax.vmap(lambda key, image: Aes().of_image(secret, key, image)))
for _ in range(2):
    print(np.asarray(of_images(keys, images)).shape)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="cores are chosen by Linux")
def test_one_core_does_not_wait_for_ever():
    program = [sys.executable, "-c", _ON_ONE_CORE]
    done = subprocess.run(program, check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout == 2 * "(1024, 32, 32, 3)\n"
