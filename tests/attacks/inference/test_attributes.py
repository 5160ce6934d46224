"""Attributes of made-up images, TFDS's own features, and what representations tell of them."""

import dataclasses

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from privynet_jax.attacks.inference.attributes import (
    attribute_values,
    count_of,
    learn,
    learn_probe,
    majority_right,
    share_right,
)
from privynet_jax.attacks.inference.classifiers import Labelled
from privynet_jax.errors import UserError
from privynet_jax.images.parts import Part, Parts
from privynet_jax.training.models.networks import cloud_nn
from privynet_jax.training.tasks import Schedule

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


def right(x, values, schedule=SCHEDULE):
    own, attacked = split(x, values)
    answering = learn(own, cloud_nn(3, image_size=16, width=8), schedule, KEY)
    return share_right(answering, attacked)


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
    few = dataclasses.replace(SCHEDULE, steps=8)
    found = right(np.ones_like(x), values, few).mean()
    # One answer for all, however long: each value is a third of the images, give or take 3 points.
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
        own, attacked = split(x, values)
        return share_right(learn_probe(own, 3), attacked).mean()

    assert by_probe(x, values) > 0.95
    shares = np.bincount(values[OWN:], minlength=3) / ATTACKED
    assert shares.min() <= by_probe(np.ones_like(x), values) <= shares.max()
    shuffled = values.copy()
    np.random.default_rng(1).shuffle(shuffled[:OWN])
    assert by_probe(x, shuffled) == pytest.approx(1 / 3, abs=0.15)


def parts_of(auxiliary, test, name="folder:x"):
    nothing = Part(np.zeros((1, 4, 4, 3), np.uint8), np.zeros(1, np.int32))

    def part(images):
        return Part(images, np.arange(len(images), dtype=np.int32))

    names = tuple(map(str, range(99)))
    return Parts(nothing, part(auxiliary), nothing, part(test), names, name, "abc")


def grey(*levels):
    return np.broadcast_to(np.uint8(levels)[:, None, None, None], (len(levels), 4, 4, 3)).copy()


def test_brightness_is_in_thirds_of_the_auxiliary_images():
    parts = parts_of(grey(10, 20, 30, 40, 50, 60), grey(0, 34, 255))
    values = attribute_values("brightness", parts, None)
    assert values["auxiliary"].tolist() == [0, 0, 1, 1, 2, 2]
    assert values["test"].tolist() == [0, 1, 2]
    assert count_of(values) == 3


def test_contrast_is_of_brightness():
    images = grey(*[100] * 6)
    for index in range(6):
        images[index, :2] += np.uint8(10 * index)
    colourful = grey(100)
    colourful[..., 0], colourful[..., 2] = 0, 200  # as bright everywhere
    values = attribute_values("contrast", parts_of(images, colourful), None)
    assert values["auxiliary"].tolist() == [0, 0, 1, 1, 2, 2]
    assert values["test"].tolist() == [0]


def test_the_colour_is_what_stands_out_against_the_others():
    # All are reddish; less so than the others is blue or green.
    images = grey(*[50] * 3)
    images[..., 0] += 100
    images[1, ..., 1] += 30
    images[2, ..., 2] += 30
    values = attribute_values("colour", parts_of(images, images[::-1]), None)
    assert values["auxiliary"].tolist() == [0, 1, 2]
    assert values["test"].tolist() == [2, 1, 0]


def test_the_class_is_the_label():
    parts = parts_of(grey(1, 2), grey(3, 4, 5))
    assert attribute_values("class", parts, None)["test"].tolist() == [0, 1, 2]


def test_groups_of_classes():
    parts = dataclasses.replace(parts_of(grey(1, 2), grey(3, 4, 5)), class_names=("a", "b", "c"))
    values = attribute_values("classes:1/0+2", parts, None)
    assert {name: mine.tolist() for name, mine in values.items()} == {
        "auxiliary": [1, 0],
        "test": [1, 0, 1],
    }
    for wrong in ("0/1", "0+1/1+2", "0+1+2/3", "0+1/2/", "a/b/c"):
        with pytest.raises(UserError, match="does not name each of the classes 0 to 2 once"):
            attribute_values(f"classes:{wrong}", parts, None)


def test_a_feature_of_the_data_set(small_parts, test_data_dir):
    values = attribute_values("feature:scale", small_parts, test_data_dir)
    assert set(values["test"]) == {0, 1, 2}
    assert values["auxiliary"].shape == (len(small_parts.auxiliary),)
    builder = tfds.builder("photo_patches", data_dir=test_data_dir)
    known = 0
    for example in builder.as_data_source("test"):
        rows = np.flatnonzero(np.all(small_parts.test.images == example["image"], axis=(1, 2, 3)))
        for row in rows:
            assert (1, 2, 4)[values["test"][row]] == example["scale"]
        known += len(rows)
    assert known >= len(small_parts.test)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("smell", "attribute 'smell'; allowed are class, brightness, contrast, colour"),
        ("feature:scale", "folder:x has no features"),
        ("brightness", "the same for all auxiliary images"),
    ],
)
def test_attributes_there_are_not(attribute, message):
    with pytest.raises(UserError, match=message):
        attribute_values(attribute, parts_of(grey(7, 7), grey(7)), None)


@pytest.mark.parametrize("feature", ["smell", "image"])
def test_features_there_are_not(small_parts, test_data_dir, feature):
    with pytest.raises(UserError, match=r"it has .*cell.*scale|it has .*scale"):
        attribute_values(f"feature:{feature}", small_parts, test_data_dir)


def test_images_of_another_data_set(small_parts, test_data_dir):
    test = Part(small_parts.test.images ^ 1, small_parts.test.labels)
    with pytest.raises(UserError, match="is not in photo_patches"):
        attribute_values(
            "feature:scale", dataclasses.replace(small_parts, test=test), test_data_dir
        )
