"""A finished characterisation, opened again for further measurements."""

import dataclasses
import json

import numpy as np
import pytest

from privynet_jax.characterisation import characterise
from privynet_jax.config import Config
from privynet_jax.errors import UserError
from privynet_jax.reopening import reopen
from privynet_jax.training import Schedule

LIMITS = {"target": 60, "auxiliary": 50, "validation": 20, "test": 20}


@pytest.fixture(scope="module")
def config(tmp_path_factory, test_data_dir):
    workdir = tmp_path_factory.mktemp("run")
    made = Config(
        workdir=workdir,
        layers=(2,),
        depths=(3,),
        draws=2,
        max_images=LIMITS,
        cache_dir=test_data_dir / "weights",
        data_dir=test_data_dir,
        cloud=Schedule(steps=2, batch_size=8),
        attacker=Schedule(steps=2, batch_size=8),
        cloud_width=8,
        attacker_width=8,
        attacker_blocks=0,
        examples=2,
    )
    characterise(made)
    return made


def reopened(config, **changed):
    given = {"weights": "embedded", "cache_dir": config.cache_dir, "data_dir": config.data_dir}
    return reopen(config.workdir, **{**given, **changed})


def test_a_cell_s_scenario_has_the_features_it_was_measured_on(config):
    before = sorted((config.feature_cache / "features").iterdir())
    found = reopened(config)
    scene = found.scenario(found.results[1])
    assert scene.topology.channels == found.results[1].channels
    assert scene.representations("test").shape == (20, 32, 32, 3)
    assert np.isfinite(scene.scales).all()
    assert sorted((config.feature_cache / "features").iterdir()) == before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("data_fingerprint", "photo_patches has other images now than"),
        ("weights_fingerprint", "was characterised with other weights than embedded"),
    ],
)
def test_images_and_weights_must_be_the_same(config, tmp_path, changed, said):
    settings = json.loads((config.workdir / "config.json").read_text())
    (tmp_path / "cells").symlink_to(config.workdir / "cells")
    (tmp_path / "config.json").write_text(json.dumps({**settings, changed: "0" * 64}))
    with pytest.raises(UserError, match=said):
        reopened(dataclasses.replace(config, workdir=tmp_path))
