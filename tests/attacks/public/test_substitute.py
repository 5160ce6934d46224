"""The substitute attack on an invertible layer, and on ones that say nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.attack_checks import fit_one
from support.handmade_layers import distinct_layer, pictures, represented

from privynet_jax.attacks.base import NETWORK, PAIRS, Knowledge, Pairs
from privynet_jax.attacks.closed_form import LinearInversion, MeanImage
from privynet_jax.attacks.public.public_layer import LayerRows, PublicLayer
from privynet_jax.attacks.public.substitute import GUESSES, Substitute
from privynet_jax.errors import UserError
from privynet_jax.images.metrics import psnr_db
from privynet_jax.images.parts import as_float

LAYER = distinct_layer(24)
# The image itself, out of order, among others: invertible, if one knows which is which.
TRUTH = (7, 1, 13, 0, 20, 2)
KEY = jax.random.key(0)
OWN, PRIVATE = pictures(256, seed=1), pictures(96, seed=2)
SCALES = np.float32([1.5, 0.7, 1, 3, 0.2, 1.1])
RELEASED = represented(LAYER, PRIVATE, TRUTH, SCALES)
ALONE = Pairs(np.empty((0, *RELEASED.shape[1:]), np.float32), OWN)


def quality(fitted, representations=RELEASED):
    estimates = jnp.asarray(fitted.reconstruct(representations))
    return float(jnp.mean(psnr_db(estimates, jnp.asarray(as_float(PRIVATE)))))


def knowing(layer=LAYER, observed=RELEASED):
    return Knowledge(NETWORK, layer=layer, observed=observed)


def mean_image():
    return quality(fit_one(MeanImage(), ALONE, Knowledge(PAIRS), KEY))


def test_the_right_channels_are_worth_pairs():
    fitted = fit_one(Substitute(), ALONE, knowing(), KEY)
    assert fitted.report["guess"].channels == TRUTH
    assert fitted.report["confidence"] > 0.9
    pairs = Pairs(represented(LAYER, OWN, TRUTH, SCALES), OWN)
    by_pairs = quality(fit_one(LinearInversion(), pairs, Knowledge(PAIRS), KEY))
    assert by_pairs > 40
    # Scales are estimated on 96 and 256 pictures, to about 1 %: errors of 0.005 are 46 dB.
    assert quality(fitted) > 40


def test_a_random_guess_is_worth_little():
    for guessing in ("random", "mixed"):
        fitted = fit_one(Substitute(guessing=guessing), ALONE, knowing(), KEY)
        assert quality(fitted) < mean_image() + 3
        assert fitted.report["confidence"] < 0.1


@pytest.mark.parametrize("guessing", GUESSES)
def test_a_constant_layer_gives_the_mean_image(guessing):
    def constant(images):
        return jnp.ones((*images.shape[:3], 24))

    fitted = fit_one(
        Substitute(guessing=guessing), ALONE, knowing(constant, np.ones_like(RELEASED)), KEY
    )
    assert quality(fitted, np.ones_like(RELEASED)) == pytest.approx(mean_image(), abs=0.2)


@pytest.mark.parametrize("guessing", GUESSES)
def test_shuffled_pairs_give_no_more_than_the_mean_image(guessing):
    def of_another_image(images):
        return LAYER(jnp.roll(images, 1, axis=0))

    fitted = fit_one(Substitute(guessing=guessing), ALONE, knowing(of_another_image), KEY)
    assert quality(fitted) < mean_image() + 0.2


def test_cached_features_are_what_the_network_gives():
    everything = represented(LAYER, OWN, range(24), np.linspace(0.5, 2, 24))
    cached, run = PublicLayer(everything), PublicLayer(LayerRows(LAYER, OWN))
    np.testing.assert_allclose(cached.represent(TRUTH), run.represent(TRUTH), atol=1e-4)
    fitted = fit_one(Substitute(public=cached), ALONE, knowing(), KEY)
    assert fitted.report["guess"].channels == TRUTH


def test_what_fills_up_the_width_is_no_channel():
    filled = np.pad(RELEASED, [(0, 0)] * 3 + [(0, 3)])
    alone = Pairs(np.empty((0, *filled.shape[1:]), np.float32), OWN)
    together = Substitute().fit([alone] * 2, [knowing(), knowing(observed=filled)], [KEY] * 2)
    assert [fitted.report["guess"].channels for fitted in together] == [TRUTH, TRUTH]
    assert quality(together[1], filled) == pytest.approx(quality(together[0]), abs=0.1)


def test_the_same_key_guesses_the_same():
    fitted = [fit_one(Substitute(guessing="random"), ALONE, knowing(), KEY) for _ in range(2)]
    assert fitted[0].report["guess"].channels == fitted[1].report["guess"].channels
    other = fit_one(Substitute(guessing="random"), ALONE, knowing(), jax.random.key(1))
    assert other.report["guess"].channels != fitted[0].report["guess"].channels


def test_too_little_knowledge_is_refused():
    with pytest.raises(UserError, match="network but not channels"):
        fit_one(Substitute(), ALONE, Knowledge(PAIRS), KEY)
    with pytest.raises(UserError, match="aligned, random, mixed"):
        Substitute(guessing="clever")
    public = PublicLayer(LayerRows(LAYER, OWN[:10]))
    with pytest.raises(UserError, match="as many"):
        fit_one(Substitute(public=public), ALONE, knowing(), KEY)
