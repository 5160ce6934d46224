"""Networks come back from the disk as they were, and damage ends in one line."""

import numpy as np
import pytest
from privynet_jax.training.network_folder import load_networks, save_networks

from privynet_jax.errors import UserError


def some_networks(seed):
    rng = np.random.default_rng(seed)
    kernel, bias = rng.random((2, 3), np.float32), rng.random(3, np.float32)
    return {"cloud": {"params": {"Dense_0": {"kernel": kernel, "bias": bias}}}}


def leaves(networks):
    return networks["cloud"]["params"]["Dense_0"]


@pytest.mark.parametrize("again", [False, True], ids=["once", "by two processes"])
def test_what_is_saved_is_loaded(tmp_path, again):
    folder = tmp_path / "networks" / "layer_04"
    save_networks(folder, some_networks(1))
    if again:  # which train the same; the numbers here differ to tell which were kept
        save_networks(folder, some_networks(0))
    found, expected = leaves(load_networks(folder)), leaves(some_networks(1))
    assert sorted(found) == ["bias", "kernel"]
    for name, array in found.items():
        assert isinstance(array, np.ndarray)
        np.testing.assert_array_equal(array, expected[name])
    assert [path.name for path in folder.parent.iterdir()] == ["layer_04"]


def test_damage_is_one_line(tmp_path):
    folder = tmp_path / "layer_04"
    save_networks(folder, some_networks(0))
    (folder / "_METADATA").write_text("{")
    with pytest.raises(UserError, match="layer_04 is no readable checkpoint of amortised networks"):
        load_networks(folder)
