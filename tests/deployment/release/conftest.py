"""What tests of extraction have in common: a small package, pictures and small shards."""

import pytest
from support.handmade_package import fill, handmade_package
from support.handmade_release import COUNTS

from privynet_jax.deployment.release import release_manifest, release_rows


@pytest.fixture
def small_shards(monkeypatch):
    """22 rows are 5 shards, the last of 2; a full shard is 2 batches, the second one filled up."""
    monkeypatch.setattr(release_manifest, "_MOST_ROWS", 5)
    monkeypatch.setattr(release_rows, "_MOST_IMAGES", 3)


@pytest.fixture(scope="module")
def package():
    return handmade_package()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    fill(folder, COUNTS)
    return folder
