"""The gain that channels share, by a layer without offsets, which tells nothing of it by itself."""

import functools

import numpy as np
import pytest
from support.handmade_layers import CENTRED, centred, pictures

from privynet_jax.attacks.matching import Matcher
from privynet_jax.attacks.pixel_prior import fit_prior
from privynet_jax.attacks.public.calibration import Calibration, calibrate
from privynet_jax.attacks.public.shared_gain import brightest, settled_gains
from privynet_jax.images.parts import as_float

MIDDLE = 0.45
layer = functools.partial(centred, offset=np.float32(0))


def contrasted(by, seed):
    """Float [8, 16, 16, 3] of so many times the contrast, within [0, 1]."""
    return np.clip(0.5 + by * (as_float(pictures(8, seed)) - 0.5), 0, 1)


def blurred(images):
    return (images + np.roll(images, 1, axis=1) + np.roll(images, 1, axis=2)) / 3


@pytest.mark.parametrize("gain", [1.0, 1.05, 1.1, 1.2])
def test_a_common_gain_that_the_network_hides_is_found_by_the_ends_of_the_range(gain):
    truth = contrasted(3, seed=1)  # black and white in places
    release, faint = np.asarray(layer(truth)) / gain, MIDDLE + (truth - MIDDLE) / gain
    np.testing.assert_allclose(layer(faint), release, atol=1e-4)
    # The pictures' root mean squares say what the gain is; what was found is below that.
    ones = np.ones(CENTRED)
    found = Calibration(ones, ones, faint, common=-np.log(gain), spread=0.0)
    matcher = Matcher(layer, fit_prior(truth - faint * 0.9))
    # The square has its third power beside it; the last steps between factors are 0.005.
    assert brightest(matcher, release, found, steps=40) == pytest.approx(gain, rel=0.002)


def shared(contrast, gains):
    """Of gains, beside root mean squares: what `calibrate` finds, and what is right, on average."""
    own, truth = contrasted(contrast, seed=2), contrasted(contrast, seed=1)
    prior = fit_prior(own - blurred(own))
    release = np.asarray(layer(truth)).copy()
    release[..., :CENTRED] /= gains
    found = calibrate(layer, prior, release, blurred(truth), steps=60)
    mine = np.asarray(layer(own)), blurred(own)
    settled, doubt = settled_gains(layer, prior, release, found, mine, steps=60)
    assert 0 <= doubt < 0.01
    matcher = Matcher(layer, prior)
    alone = brightest(matcher, release * np.float32(found.gains), found, steps=30)
    # Of channels without offsets a few pictures tell all.
    np.testing.assert_allclose(np.ptp(np.log(settled / found.gains)), 0, atol=0.01)
    return found.common + np.log(alone), np.log(settled[:CENTRED]).mean()


def test_pale_pictures_have_the_gain_that_root_mean_squares_say():
    """They explain any gain within reach, so the ends of the range would lead far astray."""
    spread = np.exp(np.random.default_rng(0).normal(0, 0.03, CENTRED)).astype(np.float32)
    alone, found = shared(contrast=0.6, gains=spread)
    assert alone > 0.03
    assert abs(found) < 0.02


def test_pictures_with_black_and_white_have_theirs():
    """What root mean squares say is 8 % off here, of all channels, and of each beside them."""
    wrong = np.exp(np.random.default_rng(0).normal(0.08, 0.08, CENTRED)).astype(np.float32)
    alone, found = shared(contrast=3, gains=wrong)
    assert found == pytest.approx(np.log(wrong).mean(), abs=0.02)
    assert abs(found - alone) < 0.03
