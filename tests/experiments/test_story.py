"""From private pictures to a classifier: the commands, in a row and on bad input.

Rooms' own tests show that each step is right. Here the steps meet: the whole story in processes of
their own, the cloud's half where nothing but a release exists; and in this process, from artefacts
that the commands made, what every command does with input that something happened to, and how
pictures are withdrawn and others released later.
"""

import csv
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import package_samples as samples
from support import tiny_runs

from experiments import (
    export_local,
    extract,
    keys,
    plan,
    predict,
    revoke,
    train_cloud,
    unseal,
)
from privynet_jax.attacks import registry
from privynet_jax.backbone.topology import Topology
from privynet_jax.deployment.cloud.cloud_training import train_to_folder
from privynet_jax.deployment.cloud.contributions import join_releases
from privynet_jax.deployment.cloud.dealing import ClassifierSettings
from privynet_jax.deployment.device.local_package import open_package
from privynet_jax.deployment.device.package_export import write_package
from privynet_jax.deployment.release.equal_rows import Revocation, digests_of
from privynet_jax.deployment.release.extract_release import write_release
from privynet_jax.deployment.release.release_folder import open_release
from privynet_jax.deployment.release.release_inputs import find_pictures
from privynet_jax.deployment.trust.keys import make_keys
from privynet_jax.deployment.trust.signatures import sign
from privynet_jax.planning.plan import write_plan
from privynet_jax.training.tasks import Schedule

PROJECT = Path(__file__).parents[2]
CLASSES = ("astronaut", "chelsea", "coffee")
SIZE = 16


def save_pictures(folder, part, class_names, per_class, sides=(32,)):
    """Saves real photographs' squares of some classes as PNG, in subfolders; sides take turns."""
    for number, name in enumerate(class_names):
        (folder / name).mkdir(parents=True)
        images = part.images[part.labels == number][:per_class]
        assert len(images) == per_class
        for index, pixels in enumerate(images):
            side = sides[index % len(sides)]
            Image.fromarray(pixels[:side]).save(folder / name / f"{index:03d}.png")


def contents(folder):
    """Path -> bytes of every file, and None for every folder."""
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# The whole story.


class Side:
    """One of the two parties: a folder that its commands start in, which is their HOME as well."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def run(self, experiment, **given):
        """Runs a command that must succeed; returns what it printed."""
        arguments = [f"--{name}={value}" for name, value in given.items()]
        environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if name != "PRIVYNET_TEST_DATA_DIR"
            },
            "HOME": str(self.folder),
            "PYTHONPATH": str(PROJECT),
        }
        done = subprocess.run(
            [sys.executable, "-m", f"experiments.{experiment}", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{experiment}: {done.stderr}"
        return done.stdout


def probabilities(row):
    return np.array([float(value) for name, value in row.items() if name.startswith("prob")])


@pytest.mark.slow
def test_the_whole_story(tmp_path, test_data_dir, photo_parts, tiny_run, planned):
    device, cloud = Side(tmp_path / "device"), Side(tmp_path / "cloud")
    classes = photo_parts.class_names[:4]
    # Neither size nor shape of a picture needs to be that of the plan.
    save_pictures(device.folder / "pictures", photo_parts.test, classes, 50, sides=(32, 20, 28))
    tiny_runs.linked_weights(device.folder, test_data_dir)  # so that nothing is fetched
    shutil.copytree(tiny_run.workdir, device.folder / "runs" / "public")
    planned(device.folder)
    device.run("keys", out="me")
    device.run("export_local", plan="plan.json", cache_dir="cache", out="package", key="me.key")
    device.run("extract", **ON_DEVICE | {"trusted": "me.pub"}, out="release", key="me.key")

    # The release is all that the cloud ever sees.
    shutil.copy(device.folder / "release.tar", cloud.folder)
    shutil.copy(device.folder / "me.pub", cloud.folder)
    make_keys(cloud.folder / "cloud")
    shutil.copy(cloud.folder / "cloud.pub", device.folder)
    told = cloud.run(
        "train_cloud", release="release.tar", out="classifier", steps=40, width=16, **SIGNED
    )
    assert "Validation accuracy" in told
    names = {path.name for path in cloud.folder.iterdir()} - {".cache", "cloud.key", "cloud.pub"}
    assert names == {"release.tar", "me.pub", "classifier"}
    shutil.copytree(cloud.folder / "classifier", device.folder / "classifier")
    end_to_end = predicted_on_the_device(device, classes, per_class=50)
    assert_the_cloud_predicts_the_same(device, cloud, end_to_end)


SIGNED = {"trusted": "me.pub", "key": "cloud.key"}
FROM_BOTH = {"trusted": "me.pub,cloud.pub"}
ON_DEVICE = {"package": "package", "images": "folder:pictures", **FROM_BOTH}


@pytest.fixture
def planned(command, monkeypatch, small_strong):
    """Plans in a folder, in this process: with a real attack, which is short here."""
    short = functools.partial(registry.PublicAttack, steps=2, tuning_images=1)
    monkeypatch.setattr(registry, "PublicAttack", short)

    def run(folder):
        monkeypatch.chdir(folder)
        given = {"workdir": "runs/public", "cache_dir": "cache", "out": "plan.json"}
        given |= {"sample": "folder:pictures", "sample_images": "32", "fit": "pad"}
        given |= {"max_psnr_db": "60", "max_local_mmacs": "100", "attacked_images": "4"}
        given["training"] = "0.1"  # the least, 100 steps of 32
        status, told, error = command(plan, given)
        assert status == 0, error
        assert "measured on 4 pictures of the sample, of the very channels, the first of" in told
        assert "Keep the file as secret as the pictures" in told

    return run


def predicted_on_the_device(device, classes, per_class):
    """The sixth command; returns picture -> probabilities."""
    device.run("predict", **ON_DEVICE, classifier="classifier", out="pictures.csv")
    rows = rows_of(device.folder / "pictures.csv")
    names = {f"{name}/{index:03d}.png" for name in classes for index in range(per_class)}
    assert {row["picture"] for row in rows} == names
    assert len(rows) == len(names)
    # Columns are in the order of the classes' secret ids.
    ordered = [name.removeprefix("probability_") for name in list(rows[0])[2:]]
    assert sorted(ordered) == sorted(classes)
    for row in rows:
        assert probabilities(row).sum() == pytest.approx(1, abs=1e-5)
        assert row["class"] == ordered[probabilities(row).argmax()]
    return {row["picture"]: probabilities(row) for row in rows}


def assert_the_cloud_predicts_the_same(device, cloud, end_to_end):
    """The same pictures, released without labels and predicted from there."""
    given = {"labelled": "false", "order_out": "order.csv", "key": "me.key"}
    device.run("extract", **ON_DEVICE, out="unknown", **given)
    shutil.copytree(device.folder / "unknown", cloud.folder / "unknown")
    given = {"classifier": "classifier", "trusted": "me.pub,cloud.pub"}
    cloud.run("predict", release="unknown", out="rows.csv", **given)
    order = {row["row"]: row["picture"] for row in rows_of(device.folder / "order.csv")}
    rows = rows_of(cloud.folder / "rows.csv")
    assert [row["row"] for row in rows] == [str(number) for number in range(len(end_to_end))]
    assert len(set(order.values())) == len(end_to_end)
    for row in rows:
        # Other batches, other sums: all are float32.
        expected = end_to_end[order[row["row"]]]
        np.testing.assert_allclose(probabilities(row), expected, atol=1e-4)
    # Were all predictions alike, they would agree in any order.
    assert np.ptp(list(end_to_end.values()), axis=0).max() > 0.01


# Bad input.


@pytest.fixture
def command(run_command):
    """Runs a command with these flags, name -> value; returns status, output and error."""

    def run(experiment, given):
        return run_command(experiment, *(f"--{name}={value}" for name, value in given.items()))

    return run


@pytest.fixture(scope="module")
def story(tmp_path_factory, photo_parts, vgg_weights):
    """Pictures, a plan, its package, a release and a cloud NN; to be copied."""
    folder = tmp_path_factory.mktemp("story")
    save_pictures(folder / "pictures", photo_parts.test, CLASSES, 8)
    made = samples.plan(vgg_weights, Topology(2, (1, 5, 60)), SIZE, class_names=CLASSES)
    write_plan(folder / "plan.json", made)
    write_package(folder / "package", made, vgg_weights.params)
    images = f"folder:{folder / 'pictures'}"
    pictures = find_pictures(images, class_names=CLASSES, labelled=True)
    package, order = open_package(folder / "package"), folder / "order.csv"
    write_release(folder / "release", package, pictures, order_out=order)
    settings = ClassifierSettings(Schedule(2, 4), width=4, validation_fraction=0.25)
    data = join_releases([open_release(folder / "release")])
    train_to_folder(data, settings, folder / "classifier")
    return folder


def test_two_pictures_are_withdrawn_and_one_comes_later(story, command, tmp_path, monkeypatch):
    folder = tmp_path / "story"
    shutil.copytree(story, folder)
    monkeypatch.chdir(folder)
    me, rows = make_keys(folder / "me"), len(open_release(folder / "release"))
    make_keys(folder / "cloud")
    sign(folder / "package" / "local_nn.json", "package", me)
    sign(folder / "release" / "release.json", "release", me)
    pictures, withdrawn = folder / "pictures" / CLASSES[0], folder / "withdrawn"
    withdrawn.mkdir()
    for number in (0, 3):
        (pictures / f"{number:03d}.png").rename(withdrawn / f"{number}.png")
    Image.fromarray(np.uint8(np.random.default_rng(1).integers(0, 256, (32, 32, 3)))).save(
        pictures / "late.png"
    )

    def told(experiment, **given):
        status, output, error = command(experiment, given)
        assert status == 0, error
        return output

    mine = {"package": "package", "trusted": "me.pub", "key": "me.key"}
    given = {"images": "folder:withdrawn", "release": "release", "out": "revocation.json"}
    assert "2 rows of 1 releases" in told(revoke, **mine, **given)
    assert (folder / "revocation.json.signature").exists()
    given = {"images": "folder:pictures", "earlier": "release", "encrypt_to": "cloud.pub"}
    assert "has 1 rows" in told(extract, **mine, **given, out="later")
    assert not (folder / "later.tar").exists()
    told(unseal, release="later.sealed", key="cloud.key", out="opened")
    output = told(
        train_cloud,
        **{"release": "release,opened", "revoked": "revocation.json", "out": "classifier-2"},
        **{"steps": 2, "width": 4, "batch_size": 4, "validation_fraction": 0.25, **SIGNED},
    )
    assert "2 rows are revoked, and left out." in output
    assert f"2 releases with {rows - 2 + 1} rows and 0 copies" in output


UNSIGNED = {"unsigned": "true"}
STRANGE = {**UNSIGNED, "trusted": "friend.pub"}
USUAL = {
    export_local: {"plan": "plan.json", "out": "new"},
    extract: {"package": "package", "images": "folder:pictures", "out": "new", **UNSIGNED},
    train_cloud: {"release": "release", "out": "new", "steps": "2", "batch_size": "4", **UNSIGNED},
    predict: {"release": "release", "classifier": "classifier", "out": "new.csv", **UNSIGNED},
    unseal: {"release": "new.sealed", "key": "friend.key", "out": "new"},
    keys: {"out": "friend"},
    revoke: {"package": "package", "images": "folder:pictures", "release": "release", **UNSIGNED}
    | {"out": "new.json"},
}
ON_PICTURES = {"release": "", "package": "package", "images": "folder:pictures"}
WITH_ORDER = {"package": "package", "order": "order.csv"}


def in_json(name, *, resign=False, **changes):
    """Changes fields of a JSON file, one level down too; computes its checksum anew if asked to."""

    def damage(folder):
        path = folder / name
        content = json.loads(path.read_text())
        for field, value in changes.items():
            inner = isinstance(value, dict)
            content[field] = {**content[field], **value} if inner else value
        if resign:
            del content["sha256"]
            text = json.dumps(content, sort_keys=True)
            content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        path.write_text(json.dumps(content))

    return damage


def one_byte(pattern):
    """Changes a byte in the middle of the first file of a pattern."""

    def damage(folder):
        path = max(folder.glob(pattern), key=lambda path: path.stat().st_size)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    return damage


def text_in(name):
    """Something is where the command would write, or a picture is none."""
    return lambda folder: (folder / name).write_text("of somebody else")


def folder_with_a_file(folder):
    (folder / "new").mkdir()
    (folder / "new" / "diary.txt").write_text("of somebody else")


def half_a_picture(folder):
    path = folder / "pictures" / "coffee" / "003.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def signed_by_a_stranger(folder):
    """All that is read, and the key of somebody else to trust."""
    key = make_keys(folder / "stranger")
    make_keys(folder / "friend")
    for kind, name in {"package": "local_nn", "release": "release"}.items():
        sign(folder / kind / f"{name}.json", kind, key)
    sign(folder / "classifier" / "classifier.json", "classifier", key)


def signed_by_a_friend(folder):
    """The release alone; and there is a revocation."""
    sign(folder / "release" / "release.json", "release", make_keys(folder / "friend"))
    release = open_release(folder / "release")
    rows = tuple(sorted(digests_of(release.representations)))[:1]
    Revocation(release.plan_id, release.dtype, (release.id,), rows).write(folder / "gone.json")


def of_friends(folder):
    """All that the cloud reads."""
    key = make_keys(folder / "friend")
    for kind in ("release", "classifier"):
        sign(folder / kind / f"{kind}.json", kind, key)


def package_of_a_friend(folder):
    sign(folder / "package" / "local_nn.json", "package", make_keys(folder / "friend"))


def classifier_of_a_stranger(folder):
    sign(folder / "classifier" / "classifier.json", "classifier", make_keys(folder / "stranger"))
    make_keys(folder / "friend")


def signed_and_changed(folder):
    """The manifest of a release whose signature is sound but of what it said before."""
    sign(folder / "release" / "release.json", "release", make_keys(folder / "friend"))
    in_json("release/release.json", resign=True, plan_id="2e" * 32)(folder)


def a_tar_of_another_folder(folder):
    """Something is where the release's tar, or what one reader can open, shall be."""
    make_keys(folder / "friend")
    for name in ("new.tar", "new.sealed"):
        (folder / name).write_text("of somebody else")


def nothing(folder):
    """What is wrong are the flags."""


BAD = {
    "a plan by hand": (
        export_local,
        in_json("plan.json", limits={"psnr_db": 15.0}),
        {},
        "plan.json was changed after it was written",
    ),
    "other local weights": (
        extract,
        one_byte("package/local_nn.onnx"),
        {},
        "local_nn.onnx is damaged",
    ),
    "half a picture": (extract, half_a_picture, {}, "coffee/003.png: it is damaged"),
    "a switch with a value": (extract, nothing, {"nolabelled": "yes"}, "--nolabelled=yes does"),
    "no release": (
        train_cloud,
        nothing,
        {"release": "package"},
        "package holds README.md, which is",
    ),
    "a shard is damaged": (
        train_cloud,
        one_byte("release/representations-00000.npy"),
        {},
        "representations-00000.npy does not match its checksum",
    ),
    "a classifier in the way": (train_cloud, folder_with_a_file, {}, "new exists already"),
    "a damaged classifier": (
        predict,
        one_byte("classifier/params.safetensors"),
        {},
        "is damaged: exp",
    ),
    "nobody signed the package": (extract, nothing, {"unsigned": "false"}, "local_nn.json is not"),
    "nobody signed the release": (train_cloud, nothing, {"unsigned": "false"}, "is not signed"),
    "nobody signed the classifier": (
        predict,
        signed_by_a_friend,
        {"trusted": "friend.pub", "unsigned": "false"},
        "the classifier classifier/classifier.json is not signed",
    ),
    "nobody signed the package on the device": (
        predict,
        nothing,
        {**ON_PICTURES, "unsigned": "false"},
        "the package package/local_nn.json is not signed",
    ),
    "nobody signed the package of an order": (
        predict,
        of_friends,
        {**WITH_ORDER, "trusted": "friend.pub", "unsigned": "false"},
        "the package package/local_nn.json is not signed",
    ),
    "a classifier's signer is nobody for releases": (
        train_cloud,
        signed_by_a_friend,
        {"trusted": "classifier:friend.pub", "unsigned": "false"},
        "is signed by",
    ),
    "nobody signed the earlier release": (
        extract,
        package_of_a_friend,
        {"trusted": "friend.pub", "unsigned": "false", "earlier": "release"},
        "the release release/release.json is not signed",
    ),
    "nobody signed the revocation": (
        train_cloud,
        signed_by_a_friend,
        {"trusted": "friend.pub", "unsigned": "false", "revoked": "gone.json"},
        "the revocation gone.json is not signed",
    ),
    "nobody signed the package of who revokes": (
        revoke,
        nothing,
        {"unsigned": "false"},
        "local_nn.json is not signed",
    ),
    "a revocation in the way": (revoke, text_in("new.json"), {}, "new.json exists already"),
    "a signature in the way": (revoke, text_in("new.json.signature"), {}, "signature exists alr"),
    "a key that is not named": (extract, nothing, {"key": None}, "no --key is given"),
    "a reader who is not named": (extract, nothing, {"encrypt_to": None}, "no --encrypt_to is"),
    "nobody to trust": (extract, nothing, {"trusted": ",a.pub"}, "has '', which names no key"),
    "keys of nobody": (keys, nothing, {"out": "", "show": "none.pub"}, "none.pub does not exist"),
    "a stranger's package": (extract, signed_by_a_stranger, STRANGE, "is signed by"),
    "a stranger's release": (train_cloud, signed_by_a_stranger, STRANGE, "is signed by"),
    "a stranger's classifier": (
        predict,
        classifier_of_a_stranger,
        STRANGE,
        "the classifier classifier/classifier.json is signed by",
    ),
    "a signature of something else": (
        train_cloud,
        signed_and_changed,
        {"trusted": "friend.pub", "unsigned": "false"},
        "it was changed since then",
    ),
    "a private key to trust": (
        train_cloud,
        signed_by_a_stranger,
        {"trusted": "friend.key"},
        "friend.key holds a private key; give the .pub",
    ),
    "a public key to sign with": (
        extract,
        signed_by_a_stranger,
        {"key": "friend.pub"},
        "friend.pub holds a public key; give the .key",
    ),
    "a key that is a picture": (
        extract,
        nothing,
        {"encrypt_to": "pictures/coffee/003.png"},
        "003.png holds no pair of keys",
    ),
    "a tar in the way": (extract, a_tar_of_another_folder, {}, "new.tar is there already"),
    "a sealed release in the way": (
        extract,
        a_tar_of_another_folder,
        {"encrypt_to": "friend.pub"},
        "new.sealed is there already",
    ),
    "nothing to unseal": (unseal, a_tar_of_another_folder, {"release": "release"}, "holds no *.se"),
    "no sealed release": (unseal, a_tar_of_another_folder, {}, "new.sealed is no sealed release"),
    "keys in the way": (keys, a_tar_of_another_folder, {}, "friend.key exists already"),
}

# What the same command goes on with, once the picture is repaired or to be skipped.
UNFINISHED = {"half a picture": {"new", ".new.extracting"}}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, command, story, test_data_dir, tmp_path, monkeypatch):
    experiment, damage, changes, expected = BAD[name]
    folder = tmp_path / "story"
    shutil.copytree(story, folder)
    damage(folder)
    monkeypatch.chdir(folder)
    before = contents(folder)
    given = {**USUAL[experiment], **changes}
    if experiment is export_local:
        given["cache_dir"] = test_data_dir / "weights"
    given = {flag: value for flag, value in given.items() if value != ""}
    given = {flag: "" if value is None else value for flag, value in given.items()}
    status, _, errors = command(experiment, given)
    *progress, last = errors.splitlines()
    assert status == 1
    assert last.startswith("error: ")
    assert expected in last
    assert errors.endswith(f"{last}\n")
    # Nothing else is on standard error but the progress of what went well until then.
    assert all("%|" in line for line in progress if line)
    after = contents(folder)
    assert {path: after.get(path) for path in before} == before
    left = {path.name for path in after.keys() - before.keys()}
    assert left <= UNFINISHED.get(name, set())
