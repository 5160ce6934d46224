"""Known answers that every attack by reconstruction must give; see `test_closed_form.py`.

An invertible local NN gives everything away, a constant one nothing, and with shuffled pairs there
is nothing to learn: the best answer is the mean image then.
"""

import jax
import numpy as np

from privynet_jax.attacks.base import Knowledge, Pairs
from privynet_jax.attacks.closed_form import MeanImage
from privynet_jax.images.metrics import psnr_db
from privynet_jax.images.parts import as_float


def smooth_images(count, size=16, seed=0):
    """Made-up pictures with edges and gradients, uint8 [count, size, size, 3]."""
    stream = np.random.default_rng(seed)
    coarse = stream.random((count, size // 4, size // 4, 3))
    fine = stream.random((count, size, size, 3))
    picture = 0.8 * coarse.repeat(4, axis=1).repeat(4, axis=2) + 0.2 * fine
    return np.uint8(255 * picture)


def invertible(images, seed=0):
    """An invertible local NN of stride 2: blocks of 2 x 2 pixels times one invertible matrix."""
    x = as_float(images)
    n, height, width, _ = x.shape
    blocks = x.reshape(n, height // 2, 2, width // 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    matrix = np.random.default_rng(seed).normal(size=(12, 12)) / 3 + np.eye(12)
    # Shifted to be positive, as what a ReLU lets through is.
    mixed = blocks.reshape(n, height // 2, width // 2, 12) @ matrix + 5
    return np.float32(mixed / 5)


def fit_one(attack, pairs, knowledge=None, key=None):
    """Fits an attack on one topology alone; key 0 by default."""
    key = jax.random.key(0) if key is None else key
    [fitted] = attack.fit([pairs], [knowledge or Knowledge()], [key])
    return fitted


def mean_psnr_db(attack, pairs, representations, images, knowledge=None):
    """Mean PSNR of an attack, in dB."""
    fitted = fit_one(attack, pairs, knowledge)
    estimates = fitted.reconstruct(representations)
    assert estimates.shape == images.shape
    assert estimates.min() >= 0
    assert estimates.max() <= 1
    return float(np.mean(psnr_db(np.float32(estimates), as_float(images))))


def check_inverts(attack, count=256, least_db=40, knowledge=None):
    """An invertible local NN is rebuilt to more than 40 dB."""
    known, asked = smooth_images(count, seed=1), smooth_images(32, seed=2)
    pairs = Pairs(invertible(known), known)
    assert mean_psnr_db(attack, pairs, invertible(asked), asked, knowledge) > least_db


def check_learns_nothing_from_constants(attack, count=256, within_db=0.1, knowledge=None):
    """A constant representation yields no more than the mean image."""
    known, asked = smooth_images(count, seed=1), smooth_images(32, seed=2)
    ones = np.ones((count, 8, 8, 12), np.float32)
    _check_no_better_than_the_mean(
        attack, Pairs(ones, known), ones[:32], asked, within_db, knowledge
    )


def check_learns_nothing_from_shuffled_pairs(attack, count=256, within_db=0.1):
    """Pairs whose images belong to other representations yield no more than the mean image."""
    known, asked = smooth_images(count, seed=1), smooth_images(32, seed=2)
    pairs = Pairs(invertible(known), np.roll(known, 7, axis=0))
    _check_no_better_than_the_mean(attack, pairs, invertible(asked), asked, within_db, None)


def _check_no_better_than_the_mean(attack, pairs, representations, images, within_db, knowledge):
    found = mean_psnr_db(attack, pairs, representations, images, knowledge)
    nothing = mean_psnr_db(MeanImage(), pairs, representations, images)
    assert found <= nothing + within_db
