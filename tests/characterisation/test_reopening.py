"""A finished characterisation, opened again for further measurements."""

import dataclasses
import json

import numpy as np
import pytest

from privynet_jax.characterisation.reopening import reopen
from privynet_jax.errors import UserError


def reopened(config, **changed):
    given = {"weights": "embedded", "cache_dir": config.cache_dir, "data_dir": config.data_dir}
    return reopen(config.workdir, **{**given, **changed})


def test_a_cell_s_scenario_has_the_features_it_was_measured_on(tiny_run):
    before = sorted((tiny_run.feature_cache / "features").iterdir())
    found = reopened(tiny_run)
    scene = found.scenario(found.results[1])
    assert scene.topology.channels == found.results[1].channels
    assert scene.representations("test").shape == (20, 16, 16, 3)
    assert np.isfinite(scene.scales).all()
    assert sorted((tiny_run.feature_cache / "features").iterdir()) == before


def test_results_say_whether_attackers_had_converged(tiny_run):
    for result in reopened(tiny_run).results:
        # Two steps have not seen all pairs, however little the error fell in the second.
        assert [row["converged"] for row in result.attack_rows()] == [True, False]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("data_fingerprint", "photo_patches has other images now than"),
        ("weights_fingerprint", "was characterised with other weights than embedded"),
    ],
)
def test_images_and_weights_must_be_the_same(tiny_run, tmp_path, changed, said):
    settings = json.loads((tiny_run.workdir / "config.json").read_text())
    (tmp_path / "cells").symlink_to(tiny_run.workdir / "cells")
    (tmp_path / "config.json").write_text(json.dumps({**settings, changed: "0" * 64}))
    with pytest.raises(UserError, match=said):
        reopened(dataclasses.replace(tiny_run, workdir=tmp_path))
