"""Fixtures that more than one test file uses."""

import os
from pathlib import Path

import jax
import pytest

from privynet_jax.characterisation import characterise
from privynet_jax.config import Config
from privynet_jax.data import Parts, load_parts
from privynet_jax.training import Schedule
from privynet_jax.weights import PretrainedWeights, load_weights

# Two devices, however many cores there are, so that groups of cells really are spread. JAX refuses
# the setting once a computation has chosen the devices; pytest reads this file before any test.
jax.config.update("jax_num_cpu_devices", 2)


@pytest.fixture(scope="session")
def test_data_dir(tmp_path_factory) -> Path:
    """Where data sets and weights are kept; set PRIVYNET_TEST_DATA_DIR to reuse it between runs."""
    kept = os.environ.get("PRIVYNET_TEST_DATA_DIR")
    return Path(kept) if kept else tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def photo_parts(test_data_dir) -> Parts:
    """The real photo_patches at seed 0."""
    return load_parts("photo_patches", data_dir=test_data_dir)


@pytest.fixture(scope="session")
def small_parts(test_data_dir) -> Parts:
    """A few real images per part, for tests that train; no size is a multiple of another."""
    limits = {"target": 120, "auxiliary": 96, "validation": 40, "test": 50}
    return load_parts("photo_patches", data_dir=test_data_dir, max_images=limits)


@pytest.fixture(scope="session")
def vgg_weights(test_data_dir) -> PretrainedWeights:
    """The real ImageNet VGG16 trunk."""
    return load_weights("embedded", cache_dir=test_data_dir / "weights")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, test_data_dir) -> Config:
    """A finished characterisation of real images, as small as can be; nobody may write into it."""
    config = Config(
        workdir=tmp_path_factory.mktemp("tiny_run"),
        layers=(2, 4),
        depths=(3,),
        draws=2,
        max_images={"target": 60, "auxiliary": 50, "validation": 20, "test": 20},
        cache_dir=test_data_dir / "weights",
        data_dir=test_data_dir,
        cloud=Schedule(steps=2, batch_size=8),
        attacker=Schedule(steps=2, batch_size=8),
        cloud_width=8,
        attacker_width=8,
        attacker_blocks=0,
        examples=2,
    )
    characterise(config)
    return config
