"""A grid of what devices release under a mechanism."""

import dataclasses

import numpy as np
import pytest
from support.whole_runs import config_in, table

from privynet_jax import characterise
from privynet_jax.attacks.base import EVERYTHING
from privynet_jax.attacks.closed_form import LinearInversion
from privynet_jax.attacks.scenario import fit_attack, score
from privynet_jax.characterisation.reopening import reopen
from privynet_jax.errors import UserError
from privynet_jax.results.cells import Cell, training_key
from privynet_jax.results.work_directory import ResultStore


@pytest.fixture(scope="module")
def noisy(finished, test_data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("noisy")
    own = config_in(folder, test_data_dir, mechanism="gaussian:sigma=20")
    config = dataclasses.replace(own, cache_dir=finished.config.cache_dir)
    characterise(config)
    return config


def test_noise_protects_and_settings_tell_of_it(noisy, finished):
    settings = ResultStore.existing(noisy.workdir)[1]
    assert settings["mechanism"] == "gaussian:clip=1,sigma=20"
    assert "mechanism" not in ResultStore.existing(finished.config.workdir)[1]
    clean, other = (
        [
            float(row["psnr_db_mean"])
            for row in table(config.workdir, "attacks.csv")
            if row["attacker"] == "linear"
        ]
        for config in (finished.config, noisy)
    )
    assert all(b < a for a, b in zip(clean, other, strict=True))
    with pytest.raises(UserError, match="other settings"):
        characterise(dataclasses.replace(noisy, mechanism="gaussian:sigma=3"))


def test_it_is_attacked_again_as_it_was_released(noisy):
    """Also the channels that fill a smaller depth up stay zeros, without noise."""
    given = {"cache_dir": noisy.cache_dir, "data_dir": noisy.data_dir}
    found = reopen(noisy.workdir, weights="embedded", **given)
    result = found.results[0]
    scene = found.scenario(result)
    stored = scene.representations("test")
    assert (result.depth, stored.shape[-1]) == (2, 3)
    assert (stored[..., :2] < 0).any()
    assert not stored[..., 2].any()
    expected = np.asarray(scene.knowledge(EVERYTHING).local(np.zeros((1, 16, 16, 3))))
    assert expected.shape == (1, *stored.shape[1:])
    key = training_key(Cell(result.topology, result.draw, result.selection), noisy.seed)
    [fitted] = fit_attack(LinearInversion(), [scene], [key])
    again = score(fitted, scene, "test")["psnr_db"]
    kept = found.store.load_arrays(result.name)["linear_psnr_db"]
    # The same numbers in one sum of squares or another.
    np.testing.assert_allclose(again, kept, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mechanism": "rmt"}, "whole pictures are released.*allowed are none, gaussian"),
        ({"mechanism": "nopeek"}, "weights of its own"),
        ({"mechanism": "noise"}, "allowed are none"),
        ({"mechanism": "gaussian", "mode": "linear"}, "estimates the split alone"),
        ({"mechanism": "gaussian", "attackers": ("public",)}, "informed knows them"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, test_data_dir, changes, said):
    given = {"attackers": ()} | changes
    with pytest.raises(UserError, match=said):
        config_in(tmp_path, test_data_dir, **given).cells()
