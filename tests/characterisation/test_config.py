"""Settings that make no sense are refused before anything is fetched or written."""

import dataclasses
from types import SimpleNamespace

import pytest

from privynet_jax import Config, characterise
from privynet_jax.errors import UserError


@pytest.mark.parametrize(
    ("layers", "image_size", "multiple"), [((3, 10), 36, 8), ((13,), 40, 16), ((2,), 30, 4)]
)
def test_images_that_pooling_cannot_divide_are_refused_before_anything_is_done(
    tmp_path, layers, image_size, multiple
):
    config = Config(tmp_path / "run", layers=layers, image_size=image_size, depths=(2,))
    with pytest.raises(
        UserError, match=rf"image_size is {image_size}; .* multiples of {multiple} "
    ):
        characterise(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_size": 10**5}, "image_size is 100000; allowed are multiples of 8 from 16 to 1024"),
        ({"device_memory_gib": float("nan")}, "device_memory_gib is nan; allowed are numbers"),
        ({"checkpoint_minutes": 1e30}, "checkpoint_minutes is 1e.30; allowed are numbers"),
        ({"cache_dir": "nowhere://x/y"}, "the cache folder nowhere://x/y cannot be reached"),
        ({"mode": "quick"}, "mode is 'quick'; allowed are dedicated, amortised, linear"),
        (
            {"mode": "linear", "scoring_images": 2, "examples": 3},
            "scoring_images is 2; allowed are at least as many as examples, 3",
        ),
        ({"mode": "linear", "compute_dtype": "bfloat16"}, "compute_dtype is bfloat16 in mode li"),
        ({"attackers": ("weak", "strong")}, "attackers names weak; allowed are mean image, "),
        (
            {"attackers": ("strong", "strong")},
            "attackers names strong, strong; allowed .* each once",
        ),
        ({"only": ("m02_d008_r02",)}, "only names m02_d008_r02; .* m02_d008_r00 to m10_d032_r01"),
        ({"mode": "amortised", "attackers": ("paper",)}, "paper in mode amortised, which has"),
    ],
)
def test_modes_that_make_no_sense_are_refused(tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        characterise(Config(tmp_path / "run", **changed))
    assert list(tmp_path.iterdir()) == []


def test_some_cells_alone_are_other_settings_and_the_same_cells(tmp_path):
    whole = Config(tmp_path)
    some = dataclasses.replace(whole, only=("m10_d032_r01", "m04_d008_r00"))
    assert some.cells() == tuple(cell for cell in whole.cells() if cell.name in some.only)
    about = (SimpleNamespace(name="any", fingerprint="any"),) * 2
    assert "only" not in whole.deciding(*about)  # as of work directories before there was such
    again = Config.of_settings(some.deciding(*about), tmp_path)
    assert again.cells() == some.cells()
    assert Config.of_settings(whole.deciding(*about), tmp_path).cells() == whole.cells()


def test_a_folder_is_recorded_in_one_way(tmp_path):
    config = Config(workdir=tmp_path, dataset="folder:./pictures/")
    parts, weights = (SimpleNamespace(name="folder:pictures", fingerprint="any"),) * 2
    assert config.deciding(parts, weights)["dataset"] == "folder:pictures"
