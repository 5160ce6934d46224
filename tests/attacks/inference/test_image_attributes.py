"""Attributes of images, against values known for made-up images, and TFDS's own features."""

import dataclasses

import numpy as np
import pytest
import tensorflow_datasets as tfds

from privynet_jax.attacks.inference.image_attributes import attribute_values, count_of
from privynet_jax.errors import UserError
from privynet_jax.images.parts import Part, Parts


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
