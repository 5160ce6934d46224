"""An undisturbed run that tests compare with others."""

import dataclasses
import time

import pytest
from support.whole_runs import config_in

from privynet_jax import Config, characterise
from privynet_jax.characterisation import run as characterisation


@dataclasses.dataclass(frozen=True, eq=False)
class Finished:
    """A run's settings, what it returned, and how long it took."""

    config: Config
    done: characterisation.Characterisation
    seconds: float


@pytest.fixture(scope="session")
def finished(vgg_weights, photo_parts, test_data_dir, tmp_path_factory):
    """An undisturbed run, which nobody may write into; what is asked for is fetched beforehand."""
    config = config_in(tmp_path_factory.mktemp("undisturbed"), test_data_dir)
    begun = time.monotonic()
    done = characterise(config)
    return Finished(config, done, time.monotonic() - begun)
