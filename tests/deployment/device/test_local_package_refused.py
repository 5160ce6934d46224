"""Packages that are refused, and what writing one refuses: in one line, and nothing is left."""

import hashlib
import json
import re

import numpy as np
import pytest
from support import package_samples as samples

from privynet_jax.backbone.topology import Topology
from privynet_jax.deployment.device import package_export
from privynet_jax.deployment.device.local_package import NETWORK, SETTINGS, open_package
from privynet_jax.deployment.device.package_export import write_package
from privynet_jax.errors import UserError
from privynet_jax.platform.digests import sealed


def test_images_that_do_not_fit_are_refused(folders):
    represent = open_package(folders[32, "float32"]).represent
    good = samples.images(2, 32)
    for bad in (good[0], good[:, :31], good[..., :1], good / np.float32(255)):
        message = re.escape(f"images are {bad.dtype} {list(bad.shape)}; expected uint8 [N, 32, 32")
        with pytest.raises(UserError, match=message):
            represent(bad)


def test_an_existing_folder_is_left_alone_and_an_empty_one_is_used(vgg_weights, plans, tmp_path):
    taken, file, empty = tmp_path / "taken", tmp_path / "file", tmp_path / "empty"
    for folder in (taken, empty):
        folder.mkdir()
    (taken / "mine").write_text("kept")
    file.write_text("kept")
    for target in (taken, file):
        with pytest.raises(UserError, match="exists already; give a new folder"):
            write_package(target, plans[32], vgg_weights.params)
    assert [path.name for path in taken.iterdir()] == ["mine"]
    write_package(empty, plans[32], vgg_weights.params)
    assert open_package(empty).image_size == 32


def test_a_package_appears_whole_or_not_at_all(vgg_weights, plans, tmp_path, monkeypatch):
    def fail(path, *_, **__):
        assert path.name == SETTINGS
        raise OSError("no space")

    monkeypatch.setattr(package_export, "write_document", fail)
    with pytest.raises(OSError, match="no space"):
        write_package(tmp_path / "device", plans[32], vgg_weights.params)
    assert not list(tmp_path.iterdir())


def test_weights_that_float16_cannot_hold_are_refused(vgg_weights, plans, tmp_path):
    for factor in (1e6, 1e-9):
        layer = {kind: array * factor for kind, array in vgg_weights.params["conv1_2"].items()}
        params = {**vgg_weights.params, "conv1_2": layer}
        with pytest.raises(UserError, match=r"conv1_2/.* too large or too small for float16"):
            write_package(tmp_path / "device", plans[32], params, dtype="float16")
    with pytest.raises(UserError, match="cannot be stored as 'int8'; allowed are float32, float16"):
        write_package(tmp_path / "device", plans[32], vgg_weights.params, dtype="int8")
    assert not list(tmp_path.iterdir())


def changed_settings(folder, *, digest=True, **changes):
    path = folder / SETTINGS
    settings = json.loads(path.read_text(encoding="utf-8")) | changes
    settings = {name: value for name, value in settings.items() if value is not None}
    if digest:
        settings.pop("sha256")
    path.write_text(sealed(settings) if digest else json.dumps(settings), encoding="utf-8")


def flipped(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def replaced(folder, content):
    """Another network, all checksums in order."""
    (folder / NETWORK).write_bytes(content)
    files = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["files"]
    changed_settings(folder, files={**files, NETWORK: hashlib.sha256(content).hexdigest()})


DAMAGED = f"{NETWORK} is damaged: expected sha256"
NONE = "is no package for a device"


REFUSED = {
    "no network": (lambda f: (f / NETWORK).unlink(), f"is incomplete: {NETWORK} is missing"),
    "no settings": (lambda f: (f / SETTINGS).unlink(), f"{SETTINGS} cannot be read: No such file"),
    "flipped bit in the weights": (lambda f: flipped(f / NETWORK, -9), DAMAGED),
    "flipped bit in the header": (lambda f: flipped(f / NETWORK, 12), DAMAGED),
    "cut weights": (
        lambda f: (f / NETWORK).write_bytes((f / NETWORK).read_bytes()[:1000]),
        DAMAGED,
    ),
    "other program": (lambda f: (f / "privynet.pyz").write_text("1"), "privynet.pyz is damaged"),
    "other classifiers": (lambda f: flipped(f / "cloud_nn.onnx", 99), "cloud_nn.onnx is damaged"),
    "edited settings": (
        lambda f: changed_settings(f, digest=False, image_size=64),
        f"{SETTINGS} was changed after it was written",
    ),
    "cut settings": (
        lambda f: (f / SETTINGS).write_bytes((f / SETTINGS).read_bytes()[:99]),
        NONE,
    ),
    "other version": (lambda f: changed_settings(f, version=4), "version 4 .* expected 7"),
    "no peaks": (lambda f: changed_settings(f, peaks=None), f"{NONE}: .*peaks"),
    "strange shape": (lambda f: changed_settings(f, shape=3), f"{NONE}: .*shape"),
    "another shape": (
        lambda f: changed_settings(f, shape=[16, 15, 3]),
        f"is not the network that .*{SETTINGS} describes",
    ),
    "a channel less": (lambda f: changed_settings(f, peaks=[1.0] * 2), "one number per channel"),
    "an image size beyond all": (lambda f: changed_settings(f, image_size=2**40), "image_size"),
    "no ONNX": (lambda f: replaced(f, b"no network"), f"{NETWORK} cannot be run: "),
    "something more": (lambda f: changed_settings(f, more=1), "more is unknown"),
    "no networks listed": (lambda f: changed_settings(f, files={}), "lists no networks"),
    "a file elsewhere": (
        lambda f: changed_settings(
            f, files=dict.fromkeys((NETWORK, "cloud_nn.onnx", "../other"), "0" * 64)
        ),
        "lists '../other', no file of the folder",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_damaged_or_foreign_is_refused_in_one_line(folders, tmp_path, case):
    damage, message = REFUSED[case]
    folder = tmp_path / "package"
    folder.mkdir()
    for path in folders[32, "float32"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert open_package(folder).image_size == 32
    damage(folder)
    with pytest.raises(UserError, match=message) as raised:
        open_package(folder)
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)
    assert "export it again" in str(raised.value)


def test_no_folder_at_all(tmp_path):
    with pytest.raises(UserError, match=r"none/local_nn\.json cannot be read: No such file"):
        open_package(tmp_path / "none")


def test_the_trial_notices_another_network(folders, vgg_weights, plans, tmp_path):
    """With every checksum in order: what a device would do that computes something else."""
    folder = tmp_path / "package"
    swapped = samples.plan(vgg_weights, Topology(4, (3, 17, 91)), 32)
    write_package(folder, swapped, vgg_weights.params)
    right = json.loads((folders[32, "float32"] / SETTINGS).read_text(encoding="utf-8"))
    changed_settings(folder, trial=right["trial"])
    with pytest.raises(UserError, match=r"the network is off by .* update onnxruntime"):
        open_package(folder).check()
