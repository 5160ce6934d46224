"""The rows of attributes and sources, of pictures whose classes and sources are known."""

import jax
import numpy as np
import pytest

from privynet_jax.attacks.base import PAIRS
from privynet_jax.attacks.inference.suite import Rebuilt, Settings, Suite
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.backbone.topology import Topology
from privynet_jax.images.parts import Part, Parts
from privynet_jax.training.tasks import Schedule

CLASSES, TEST = 3, 48
QUERIES = np.arange(0, TEST, 2)
CHANNELS = (3, 17)


def part_of(count, seed):
    """Noise whose upper or lower half is brighter, or neither; two near copies per source."""
    stream = np.random.default_rng(seed)
    sources = np.arange(count) // 2
    labels = np.int32(sources % CLASSES)
    x = np.repeat(stream.integers(60, 130, (count // 2, 16, 16, 3)), 2, axis=0)
    x += stream.integers(4, size=x.shape)
    x[:, :8] += 80 * (labels == 1)[:, None, None, None]
    x[:, 8:] += 80 * (labels == 2)[:, None, None, None]
    return Part(np.uint8(x), labels, sources=sources)


@pytest.fixture(scope="module")
def parts():
    made = [part_of(count, seed) for seed, count in enumerate((8, 240, 8, TEST))]
    return Parts(*made, tuple("abc"), "handmade", "abc")


@pytest.fixture(scope="module")
def suite(parts):
    settings = Settings(Schedule(60, 32, 4e-3), 8, attributes=("class",), candidates=(10,))
    return Suite(parts, settings, None, jax.random.key(0))


@pytest.fixture(scope="module")
def scene(parts):
    """Its representations are two of three colours, so that they tell what the images do."""
    stored = {name: np.float16(part.images) / 128 for name, part in parts.items()}
    layer = LayerFeatures(2, (3, 5, 17), stored, np.ones(3, np.float32))
    return Scenario(Topology(2, CHANNELS), parts, layer)


def by_variant(rows):
    assert len({row["variant"] for row in rows}) == len(rows)
    return {row["variant"]: row for row in rows}


def test_the_class_is_told_of_reconstructions_as_of_images(parts, suite, scene):
    """Perfect ones are told as well as the images; one answer for all is right by chance."""
    same, constant = (
        by_variant(suite.attribute(scene, Rebuilt(rebuilt, "x", PAIRS), QUERIES))
        for rebuilt in (
            parts.test.images[QUERIES],
            np.full((len(QUERIES), 16, 16, 3), 110, np.uint8),
        )
    )
    for classifier in ("network", "linear probe"):
        title = f"class, by a {classifier} from a reconstruction by x"
        row = same[title]
        assert row["value"] == row["reference"] > 0.9
        assert row["low"] <= row["value"] <= row["high"]
        assert row["chance"] == pytest.approx(1 / CLASSES)
        assert same[f"class, by a {classifier}"]["value"] > 0.9
        assert constant[title]["value"] == pytest.approx(1 / CLASSES)
        assert constant[title]["reference"] == row["reference"]


def test_the_source_is_told_by_its_other_picture(parts, suite, scene):
    same = Rebuilt(parts.test.images[QUERIES], "x", PAIRS)
    rows = [row for row in suite.reidentification(scene, same, QUERIES) if "all" in row["variant"]]
    assert [row["number"] for row in rows] == ["same source"] * 3
    for row in rows[:2]:  # by the reconstruction, and with the local NN known
        assert row["value"] == row["reference"] == 1
    assert all(row["chance"] == pytest.approx(1 / (TEST - 1)) for row in rows)
    # What is rebuilt as another source's picture is taken for that source.
    wrong = Rebuilt(np.roll(parts.test.images[QUERIES], 1, axis=0), "x", PAIRS)
    [row] = [
        row
        for row in suite.reidentification(scene, wrong, QUERIES)
        if row["variant"] == "reconstruction by x, among all others"
    ]
    assert (row["value"], row["reference"]) == (0, 1)
