"""Checkpoints: what is saved comes back whole, and everything else is refused in one line."""

import shutil
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from support import weight_samples as samples

from privynet_jax.backbone.weights.checkpoint import open_checkpoint, save_checkpoint
from privynet_jax.backbone.weights.families import TORCHVISION_INPUT
from privynet_jax.backbone.weights.sources import fingerprint_of, load_weights
from privynet_jax.errors import UserError

TITLE = "a layout"


def constant_params(value=0.01):
    """All of VGG16 in a few kilobytes of disk: compression takes one number everywhere."""
    params = {"preprocessing": dict(TORCHVISION_INPUT)}
    for name, (kernel, bias) in samples.constant_layers(value).items():
        params[name] = {"kernel": np.array(kernel), "bias": np.array(bias)}
    return params


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    params = constant_params()
    folder = tmp_path_factory.mktemp("saved") / "vgg16"
    save_checkpoint(folder, params, TITLE, fingerprint_of(params))
    return folder


def load(folder):
    return load_weights(str(folder), cache_dir=Path("unused"))


def refusal(folder):
    with pytest.raises(UserError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    return str(error.value)


def save_other(folder, tree):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(folder, args=ocp.args.PyTreeSave(tree))
    return folder


def save_as_own(folder, params, fingerprint="none"):
    save_checkpoint(folder, params, TITLE, fingerprint)
    return folder


def test_what_was_saved_comes_back(saved):
    loaded = load(saved)
    expected = constant_params()
    assert (loaded.layout, loaded.fingerprint) == (TITLE, fingerprint_of(expected))
    assert fingerprint_of(loaded.params) == loaded.fingerprint
    for group, arrays in expected.items():
        for name, array in arrays.items():
            found = loaded.params[group][name]
            assert isinstance(found, np.ndarray)
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)


def test_shapes_are_known_before_anything_is_read(saved):
    checkpoint = open_checkpoint(saved)
    assert checkpoint.tensors["conv3_1/kernel"].shape == (3, 3, 128, 256)
    assert checkpoint.tensors["preprocessing/channel_order"].dtype == "int32"


def test_nothing_is_overwritten_and_nothing_stays_behind(saved, tmp_path):
    before = sorted(saved.rglob("*"))
    with pytest.raises(UserError, match="exists already; give a new folder"):
        save_checkpoint(saved, constant_params(), TITLE, "")
    assert sorted(saved.rglob("*")) == before
    assert list(saved.parent.iterdir()) == [saved]
    (tmp_path / "empty").mkdir()
    params = constant_params()
    save_checkpoint(tmp_path / "empty", params, TITLE, fingerprint_of(params))
    save_checkpoint(tmp_path / "deep" / "er", params, TITLE, fingerprint_of(params))
    assert load(tmp_path / "empty").fingerprint == load(tmp_path / "deep/er").fingerprint


def test_a_save_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(Exception, match="object"):
        save_checkpoint(tmp_path / "a", {"x": {"y": object()}}, TITLE, "")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_no_checkpoint(tmp_path):
    assert "is a mere folder, it has no weights.json" in refusal(tmp_path)
    for text in (
        "",
        "{",
        "[]",
        "[" * 10**5,
        "7",
        "{}",
        '{"format": "other"}',
        '{"format": "x", "files": 3}',
    ):
        (tmp_path / "weights.json").write_text(text)
        assert "weights.json is no readable description of weights" in refusal(tmp_path)


def test_checkpoints_of_something_else(tmp_path):
    other = save_other(tmp_path / "other", {"params": [np.ones(3), np.ones(2)], "step": 3})
    assert "is a checkpoint of something else" in refusal(other)
    params = {"params": [np.ones(3), np.ones(2)], "step": {"count": np.array(3)}}
    save_as_own(tmp_path / "odd", {"params": {"list": params["params"]}, "step": params["step"]})
    message = refusal(tmp_path / "odd")
    assert message.count("missing conv") == 26
    assert "unknown params/list/0; unknown params/list/1; unknown step/count" in message


def test_every_wrong_array_is_named_at_once(tmp_path):
    params = constant_params()
    del params["conv1_1"]["bias"]
    params["conv1_2"]["kernel"] = np.ones((3, 3, 64, 32), np.float32)
    params["conv2_1"]["bias"][:] = np.nan
    params["head"] = {"kernel": np.ones(2, np.float32)}
    message = refusal(save_as_own(tmp_path / "a", params))
    assert "missing conv1_1/bias; unknown head/kernel; " in message
    assert "conv1_2/kernel has shape (3, 3, 64, 32), expected (3, 3, 64, 64)" in message
    assert "conv2_1/bias holds NaN" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale", None),
        ("scale", np.ones(4, np.float32)),
        ("shift", np.ones(3, np.float64)),
        ("shift", np.array([0, np.inf, 0], np.float32)),
        ("channel_order", np.array([0, 1, 3], np.int32)),
    ],
)
def test_the_input_transform_must_make_sense(name, value, tmp_path):
    params = constant_params()
    params["preprocessing"][name] = value
    if value is None:
        del params["preprocessing"][name]
    folder = save_as_own(tmp_path / "a", params, fingerprint_of(params))
    assert f"preprocessing/{name}" in refusal(folder)


def test_other_numbers_than_were_saved_are_noticed(tmp_path):
    params = constant_params(0.02)
    folder = save_as_own(tmp_path / "a", params, fingerprint_of(constant_params()))
    assert "is damaged: its parameters have fingerprint" in refusal(folder)


def test_lost_and_cut_files_are_named(saved, tmp_path):
    files = [path.relative_to(saved) for path in saved.rglob("*") if path.is_file()]
    assert len(files) >= 5
    for index, file in enumerate(files):
        copy = tmp_path / str(index)
        shutil.copytree(saved, copy)
        content = (copy / file).read_bytes()
        (copy / file).write_bytes(content[: len(content) // 2] + b"?")
        assert file.name in refusal(copy)
        (copy / file).unlink()
        assert file.name in refusal(copy)
