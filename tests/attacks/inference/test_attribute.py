"""Attribute inference with known answers: all of the image, nothing of it, and shuffled labels."""

import jax
import numpy as np
import pytest

from privynet_jax.attacks.inference.attribute import infer, infer_by_probe, majority_right
from privynet_jax.attacks.inference.classifiers import Labelled
from privynet_jax.training.models.networks import cloud_nn
from privynet_jax.training.tasks import Schedule

pytestmark = pytest.mark.computes
KEY = jax.random.key(7)
SCHEDULE = Schedule(steps=80, batch_size=32, learning_rate=4e-3)
OWN, ATTACKED = 300, 240


@pytest.fixture(scope="module")
def images():
    """Noise whose upper or lower half is brighter, or neither: three values."""
    stream = np.random.default_rng(0)
    values = stream.integers(3, size=OWN + ATTACKED)
    x = stream.random((OWN + ATTACKED, 16, 16, 3)).astype(np.float32)
    x[:, :8] += 0.25 * (values == 1)[:, None, None, None]
    x[:, 8:] += 0.25 * (values == 2)[:, None, None, None]
    return x, values


def split(x, values):
    """What the attacker owns, and what it attacks."""
    return Labelled(x[:OWN], values[:OWN]), Labelled(x[OWN:], values[OWN:])


def right(x, values):
    return infer(*split(x, values), cloud_nn(3, image_size=16, width=8), SCHEDULE, KEY)


@pytest.fixture(scope="module")
def by_pixels(images):
    return right(*images)


def test_the_image_itself_tells(by_pixels):
    assert by_pixels.shape == (ATTACKED,)
    assert set(by_pixels) <= {0, 0.5, 1}
    assert by_pixels.mean() > 0.9


def test_an_invertible_representation_tells_as_much_as_pixels(images, by_pixels):
    x, values = images
    mixing = np.array([[0.6, 0.3, 0.2], [0.1, 0.7, 0.3], [0.4, 0.1, 0.8]], np.float32)
    assert abs(np.linalg.det(mixing)) > 0.1
    assert right(x @ mixing, values).mean() == pytest.approx(by_pixels.mean(), abs=0.1)


def test_a_constant_representation_tells_nothing(images):
    x, values = images
    found = right(np.ones_like(x), values).mean()
    # One answer for all: each value is a third of the images, give or take 3 points.
    shares = np.bincount(values[OWN:], minlength=3) / ATTACKED
    assert shares.min() <= found <= shares.max()


def test_shuffled_values_tell_nothing(images):
    x, values = images
    shuffled = values.copy()
    np.random.default_rng(1).shuffle(shuffled[:OWN])
    # 240 images: chance has a standard deviation of 3 points, and the network leans to a value.
    assert right(x, shuffled).mean() == pytest.approx(1 / 3, abs=0.15)


def test_the_majority_is_the_attackers():
    found = majority_right(np.array([0, 1, 1, 2]), np.array([2, 2, 2, 1]))
    np.testing.assert_array_equal(found, [0, 0, 0, 1])


def test_the_probe_s_known_answers(images):
    x, values = images

    def by_probe(x, values):
        return infer_by_probe(*split(x, values), 3).mean()

    assert by_probe(x, values) > 0.95
    shares = np.bincount(values[OWN:], minlength=3) / ATTACKED
    assert shares.min() <= by_probe(np.ones_like(x), values) <= shares.max()
    shuffled = values.copy()
    np.random.default_rng(1).shuffle(shuffled[:OWN])
    assert by_probe(x, shuffled) == pytest.approx(1 / 3, abs=0.15)
