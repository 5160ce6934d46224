"""The composed attack of class `public` on an invertible layer, and on ones that say nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.attack_checks import fit_one
from support.handmade_layers import distinct_layer, network_of, pictures, represented

from privynet_jax.attacks.base import NETWORK, PAIRS, Knowledge, Pairs
from privynet_jax.attacks.closed_form import MeanImage
from privynet_jax.attacks.inverse import InverseNetwork, Training
from privynet_jax.attacks.public import belief
from privynet_jax.attacks.public.guessing import guess_layer
from privynet_jax.attacks.public.public_attack import PublicAttack
from privynet_jax.attacks.tuning import Budget
from privynet_jax.errors import UserError
from privynet_jax.images.metrics import psnr_db
from privynet_jax.images.parts import as_float
from privynet_jax.training.models.attackers import RESIDUAL, capacities_of_size

pytestmark = pytest.mark.computes
LAYERS = {3: distinct_layer(24, seed=3), 4: distinct_layer(24)}
network = network_of(LAYERS)
# The image itself, out of order, among others: invertible, if one knows which is which.
TRUTH = (7, 1, 13, 0, 20, 2)
KEY = jax.random.key(0)
OWN, PRIVATE = pictures(256, seed=1), pictures(96, seed=2)
SCALES = np.float32([1.5, 0.7, 1, 3, 0.2, 1.1])
RELEASED = represented(LAYERS[4], PRIVATE, TRUTH, SCALES)
ALONE = Pairs(np.empty((0, *RELEASED.shape[1:]), np.float32), OWN)
SMALL = InverseNetwork(
    RESIDUAL,
    (capacities_of_size(8, 0)[RESIDUAL],),
    Training(Budget(steps=3, batch_size=8), capacities=capacities_of_size(8, 0)),
)
QUICK = PublicAttack(SMALL, steps=16, tuning_images=4)


def knowing(network=network, observed=RELEASED):
    return Knowledge(NETWORK, network=network, observed=observed)


def quality(fitted, representations=RELEASED, count=24):
    estimates = fitted.reconstruct(representations[:count])
    return float(np.mean(psnr_db(np.float32(estimates), as_float(PRIVATE[:count]))))


@functools.cache
def mean_image():
    return quality(fit_one(MeanImage(), ALONE, Knowledge(PAIRS), KEY))


@pytest.fixture(scope="module")
def fitted():
    return fit_one(QUICK, ALONE, knowing(), KEY)


def test_layer_and_channels_are_found_and_images_rebuilt(fitted):
    assert fitted.report["guessed_layer"] == 4
    assert fitted.report["guess"].channels == TRUTH
    assert fitted.report["confidence"] > 0.9
    assert fitted.report["warm_start"] == RESIDUAL
    # Scales are estimated on 96 and 256 pictures, to about 1 %: errors of 0.005 are 46 dB.
    assert quality(fitted) > 38


def test_topologies_side_by_side_are_attacked_as_alone(monkeypatch):
    # What follows networks is done one by one.
    monkeypatch.setattr(PublicAttack, "_optimising", lambda _, own, *given: (own, given[-1]))
    asked = [knowing(), knowing(observed=RELEASED[..., ::-1])]
    (one, network_of_one), (other, _) = QUICK.fit([ALONE] * 2, asked, [KEY, jax.random.key(1)])
    assert one.guess.channels == TRUTH
    assert other.guess.channels == TRUTH[::-1]
    own, alone = fit_one(QUICK, ALONE, knowing(), KEY)
    shown = own.normalised(RELEASED[:5])
    np.testing.assert_array_equal(one.normalised(RELEASED[:5]), shown)
    # Gradients are summed in another order.
    np.testing.assert_allclose(
        network_of_one.reconstruct(shown), alone.reconstruct(shown), atol=0.02
    )


def test_a_guess_that_is_wrong_in_part_is_put_right_by_the_release(monkeypatch):
    def mistaken(*known):
        number, guess = guess_layer(*known)
        return number, dataclasses.replace(guess, channels=(7, 1, 13, 15, 22, 2))

    monkeypatch.setattr(belief, "guess_layer", mistaken)
    found = belief.believe(RELEASED, OWN, belief.public_layers(network, OWN))
    assert found.guess.channels == TRUTH
    assert found.used.tolist() == [0, 1, 2, 3, 4, 5]


def test_layers_that_say_nothing_give_the_mean_image():
    constant = {4: lambda images: jnp.ones((*images.shape[:3], 24))}
    fitted = fit_one(QUICK, ALONE, knowing(network_of(constant), np.ones_like(RELEASED)), KEY)
    assert quality(fitted, np.ones_like(RELEASED)) < mean_image() + 0.2


def test_shuffled_pictures_give_no_more_than_the_mean_image():
    def of_another_image(layer):
        return lambda images: layer(jnp.roll(images, 1, axis=0))

    shuffled = network_of({n: of_another_image(layer) for n, layer in LAYERS.items()})
    assert quality(fit_one(QUICK, ALONE, knowing(shuffled), KEY)) < mean_image() + 0.2


def test_too_little_is_refused():
    with pytest.raises(UserError, match="network but not channels"):
        fit_one(QUICK, ALONE, Knowledge(PAIRS), KEY)
    few = dataclasses.replace(ALONE, images=OWN[:7])
    with pytest.raises(UserError, match="given 7 pairs; allowed are 8 or more"):
        fit_one(QUICK, few, knowing(), KEY)
