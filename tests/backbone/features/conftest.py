"""A small feature cache of real images."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from support.small_cache import COUNT, UNION

from privynet_jax.backbone.features import cached_layer, extraction
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.images.parts import Part


@pytest.fixture(scope="module")
def small_shards():
    """Four images of 32 x 32 pixels per shard, where the cache is called."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cached_layer, "_SHARD_BYTES", 4 * 32 * 32 * 64 * 2)
        yield


@pytest.fixture(scope="module")
def few_parts(small_parts):
    """Ten real images per part: enough wherever the values do not matter."""
    parts = {
        name: Part(part.images[:COUNT], part.labels[:COUNT]) for name, part in small_parts.items()
    }
    return dataclasses.replace(small_parts, **parts, name="few", fingerprint="few")


@pytest.fixture(scope="module")
def written(vgg_weights, few_parts, small_shards, tmp_path_factory):
    """A finished cache of `UNION` that nobody changes."""
    folder = tmp_path_factory.mktemp("written")
    load_features(vgg_weights, few_parts, UNION, folder)
    return folder


@pytest.fixture
def cached(written, tmp_path):
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "cache"))


@pytest.fixture
def passes(monkeypatch):
    """The number of images of each pass of VGG16, calibration included."""
    counts = []
    call = extraction.BatchedPass.__call__

    def spy(self, images):
        counts.append(len(images))
        return call(self, images)

    monkeypatch.setattr(extraction.BatchedPass, "__call__", spy)
    return counts
