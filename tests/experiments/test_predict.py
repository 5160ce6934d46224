"""Predictions on both sides of the split: the same numbers, by row, by picture, by either way."""

import csv
import dataclasses
import os
import re
import shutil
import stat
import types

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score
from support.commands import refused
from support.handmade_classifier import handmade_classifier
from support.small_release import class_ids, random_release

from experiments import predict
from privynet_jax.deployment.cloud.classifier import save_classifier
from privynet_jax.deployment.cloud.cloud_graph import cloud_graph
from privynet_jax.deployment.cloud.contributions import join_releases
from privynet_jax.deployment.device import device_commands
from privynet_jax.deployment.release.row_order import mark_of, read_order
from privynet_jax.deployment.release.row_order import write_order as write_real_order
from privynet_jax.images.pixels.reading import Reading

SHAPE, NAMES = (4, 4, 3), ("cat", "dog, wet", "picture")
SCALES = np.float32([2.0, 0.5, 1.0])


def made_classifier(data="b" * 64):
    return handmade_classifier(SHAPE, data=data)


# The id of the release in `world`.
RELEASE = random_release(rows=30).id


def represent(images):
    """A local NN that anybody can follow: means of 2 x 2 pixels, scaled."""
    means = (images / np.float32(255)).reshape(-1, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    return means * SCALES


@pytest.fixture
def world(tmp_path, monkeypatch):
    """What the command opens, to be changed by tests."""
    found = types.SimpleNamespace(
        release=random_release(rows=30),
        package=types.SimpleNamespace(
            image_size=8,
            shape=SHAPE,
            names_of=lambda classes: [NAMES[class_ids(3).index(one)] for one in classes],
            represent=represent,
            cloud_network=cloud_graph(SHAPE),
            plan_id="1d" * 32,
            reading=Reading(),
        ),
    )
    monkeypatch.setattr(predict, "open_release", lambda folder, **_: found.release)
    for module in (predict, device_commands):
        monkeypatch.setattr(module, "open_package", lambda folder, **_: found.package)
    monkeypatch.setattr(predict, "_ROWS", 8)  # so that the last batch is a smaller one
    monkeypatch.setattr(device_commands, "_AT_ONCE", 2)
    save_classifier(tmp_path / "classifier", made_classifier())
    return found


@pytest.fixture
def run(world, run_command, tmp_path):
    """Runs the command with usual arguments and more; returns status, output and error."""

    def run(*arguments, out="out.csv"):
        given = [f"--classifier={tmp_path / 'classifier'}", f"--out={tmp_path / out}"]
        return run_command(predict, *given, "--unsigned", *arguments)

    return run


def read(path):
    with open(path, newline="") as file:
        head, *rows = csv.reader(file)
    return head, rows


def assert_probabilities(rows, start, expected):
    # Written with seven digits.
    np.testing.assert_allclose(
        np.array([row[start:] for row in rows], float), expected, rtol=2e-6, atol=1e-9
    )


@pytest.mark.parametrize("trained_on", ["another", "this one"])
def test_rows_of_a_release(run, world, tmp_path, trained_on):
    if trained_on != "another":
        (tmp_path / "classifier").rename(tmp_path / "away")
        data = join_releases([world.release]).id
        save_classifier(tmp_path / "classifier", made_classifier(data))
    status, out, err = run(f"--release={tmp_path}")
    assert (status, "error" in err) == (0, False)
    head, rows = read(tmp_path / "out.csv")
    ids = class_ids(3)
    assert head == ["row", "class", *(f"probability_{one}" for one in ids)]
    expected = made_classifier().probabilities(world.release.representations)
    assert [row[0] for row in rows] == list(map(str, range(30)))
    assert [ids.index(row[1]) for row in rows] == expected.argmax(axis=1).tolist()
    assert_probabilities(rows, 2, expected)
    accuracy = 100 * (expected.argmax(axis=1) == world.release.labels).mean()
    assert f"{accuracy:.1f} %" in out
    assert "always answering the commonest class gives 33.3 %" in out
    assert ("trained on most" in out) == (trained_on != "another")


def test_rows_with_several_labels(run, world, tmp_path):
    labels = np.int32(np.random.default_rng(0).random((30, 3)) < 0.5)
    world.release = dataclasses.replace(world.release, labels=labels)
    assert "labels are of another kind" in run(f"--release={tmp_path}").output
    several = dataclasses.replace(made_classifier(), several=True, average_precision=0.5)
    shutil.rmtree(tmp_path / "classifier")
    save_classifier(tmp_path / "classifier", several)
    status, out, _ = run(f"--release={tmp_path}", out="several.csv")
    assert not status
    head, rows = read(tmp_path / "several.csv")
    assert head[1] == "classes"
    found = several.probabilities(world.release.representations)
    assert_probabilities(rows, 2, found)
    ids = class_ids(3)
    assert rows[0][1] == "; ".join(ids[n] for n in np.flatnonzero(found[0] >= 0.5))
    precision = np.mean([average_precision_score(labels[:, n], found[:, n]) for n in range(3)])
    assert "Mean average precision on the release's 30 rows" in out
    assert f": {100 * precision:.1f} %; {100 * ((found >= 0.5) == labels).mean():.1f} % of" in out
    world.release = dataclasses.replace(world.release, classes=("ee" * 32, "ef" * 32, "ff" * 32))
    assert "no class in common" in run(f"--release={tmp_path}", out="none.csv").output


def test_predictions_are_the_user_s_alone_and_replace_nothing(run, tmp_path):
    assert run(f"--release={tmp_path}").status == 0
    out = tmp_path / "out.csv"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    before = out.read_bytes()
    refused(run(f"--release={tmp_path}"), f"--out={out} exists already, and nothing is replaced")
    assert out.read_bytes() == before


def test_what_appears_meanwhile_is_not_replaced(run, world, tmp_path, monkeypatch):
    def meanwhile(*_, **__):
        (tmp_path / "out.csv").write_text("mine")
        return world.release

    monkeypatch.setattr(predict, "open_release", meanwhile)
    told = f"{tmp_path / 'out-1.csv'}, as something else is at {tmp_path / 'out.csv'} by now"
    assert told in run(f"--release={tmp_path}").output
    assert (tmp_path / "out.csv").read_text() == "mine"
    assert read(tmp_path / "out-1.csv")[0][0] == "row"


def test_a_release_without_labels_has_no_accuracy(run, world, tmp_path):
    world.release = dataclasses.replace(world.release, labels=None, classes=None)
    status, out, _ = run(f"--release={tmp_path}")
    assert not status
    assert "Accuracy" not in out
    assert len(read(tmp_path / "out.csv")[1]) == 30


@pytest.fixture
def pictures(tmp_path):
    """Five pictures of random pixels, two folders deep, and what they are."""
    rng, found = np.random.default_rng(0), {}
    for name in ("b.png", "a/2.png", "a/1.png", "a/deep, er/3.png", "c.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        found[name] = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(found[name]).save(path)
    return found


def expected_of(images):
    return made_classifier().probabilities(represent(np.stack(images)))


def test_pictures_end_to_end(run, tmp_path, pictures):
    status, _, err = run(f"--package={tmp_path}", f"--images=folder:{tmp_path / 'photos'}")
    assert (status, "error" in err) == (0, False)
    head, rows = read(tmp_path / "out.csv")
    assert head == ["picture", "class", *(f"probability_{name}" for name in NAMES)]
    assert [row[0] for row in rows] == sorted(pictures)
    expected = expected_of([pictures[row[0]] for row in rows])
    assert [row[1] for row in rows] == [NAMES[best] for best in expected.argmax(axis=1)]
    assert_probabilities(rows, 2, expected)


def test_unreadable_pictures(run, tmp_path, pictures, caplog):
    asked = (f"--package={tmp_path}", f"--images=folder:{tmp_path / 'photos'}")
    for name in ("a/1.png", "c.png"):
        (tmp_path / "photos" / name).write_bytes(b"not a picture")
    status, _, err = run(*asked)
    assert status == 1
    assert re.fullmatch(r"error: cannot use [^\n]*a/1\.png[^\n]*--skip_unreadable\n", err)
    assert not (tmp_path / "out.csv").exists()
    status, _, _ = run(*asked, "--skip_unreadable")
    assert not status
    assert "skipped 2 unreadable images" in caplog.text
    _, rows = read(tmp_path / "out.csv")
    assert [row[0] for row in rows] == ["a/2.png", "a/deep, er/3.png", "b.png"]
    assert_probabilities(rows, 2, expected_of([pictures[row[0]] for row in rows]))
    for path in (tmp_path / "photos").rglob("*.png"):
        path.write_bytes(b"not a picture")
    (tmp_path / "out.csv").unlink()
    done = run(*asked, "--skip_unreadable")
    assert (done.status, "no picture that can be read" in done.error) == (1, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classifier", "photos"]


def marked(row, release=RELEASE):
    return (*row, mark_of(release, *row)) if len(row) == 2 else row


def write_order(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("row", "picture", "mark"), *map(marked, rows)])
    return path


def test_rows_by_their_pictures(run, tmp_path, world):
    names = {row: f"photo, {7 * row % 30}.png" for row in range(30)}
    order = write_order(tmp_path / "order.csv", sorted(names.items(), reverse=True))
    status, _, _ = run(f"--release={tmp_path}", f"--package={tmp_path}", f"--order={order}")
    assert not status
    head, rows = read(tmp_path / "out.csv")
    assert head == ["row", "picture", "class", *(f"probability_{name}" for name in NAMES)]
    assert {int(row): picture for row, picture, *_ in rows} == names
    expected = made_classifier().probabilities(world.release.representations)
    assert [row[2] for row in rows] == [NAMES[best] for best in expected.argmax(axis=1)]
    assert_probabilities(rows, 3, expected)


def test_a_release_of_another_plan_than_the_package(run, tmp_path, world):
    world.package.plan_id = "2e" * 32
    order = write_order(tmp_path / "order.csv", [(n, "a") for n in range(30)])
    _, _, err = run(f"--release={tmp_path}", f"--package={tmp_path}", f"--order={order}")
    assert "the classifier is of another plan than the package; give" in err


def test_names_that_are_no_utf_8_are_kept(run, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    order = tmp_path / "order.csv"
    write_real_order(order, RELEASE, [name] * 30)
    assert order.read_bytes().count(b",caf\xe9.png,") == 30
    assert read_order(order, RELEASE, 30) == [name] * 30
    status, _, _ = run(f"--release={tmp_path}", f"--package={tmp_path}", f"--order={order}")
    assert not status
    assert (tmp_path / "out.csv").read_bytes().count(b",caf\xe9.png,") == 30


@pytest.mark.parametrize(
    "rows",
    [
        [(n, "a") for n in range(29)],
        [(0, "a")] * 30,
        [marked((n, "a"), "another release") for n in range(30)],
        [(n, "b", marked((n, "a"))[2]) for n in range(30)],
        [],
        [()],
    ],
    ids=["too few", "one row often", "another release", "another name", "empty", "no columns"],
)
def test_an_order_of_another_release(run, tmp_path, rows):
    order = write_order(tmp_path / "order.csv", rows)
    status, _, err = run(f"--release={tmp_path}", f"--package={tmp_path}", f"--order={order}")
    assert status == 1
    assert re.fullmatch(
        r"error: --order=[^\n]* is no list of the pictures of this release's 30 rows[^\n]*\n", err
    )
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("given", ["--release={}", "--package={} --images=folder:{}"])
@pytest.mark.parametrize("what", ["shape", "plan"])
def test_what_does_not_fit_is_one_line(run, tmp_path, world, pictures, given, what):
    if what == "shape":
        world.package.shape = (4, 4, 5)
        world.release.representations = np.zeros((30, 4, 4, 5), np.float16)
        message = "4 x 4 x 5 do not fit the classifier, which was trained on 4 x 4 x 3"
    else:
        world.package.plan_id = world.release.plan_id = "2e" * 32
        message = "the classifier is of another plan than the "
    status, _, err = run(*given.format(tmp_path, tmp_path / "photos").split())
    assert status == 1
    assert re.fullmatch(rf"error: [^\n]*{message}[^\n]*\n", err)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --release, or --package and --images"),
        (["--release=a", "--images=folder:b"], "give --release, or --package and --images"),
        (["--package=a", "--images=photos"], "give folder:PATH"),
        (["--package=a", "--images=folder:none"], "give folder:PATH"),
    ],
)
def test_flags_that_are_refused(run, arguments, message):
    status, _, err = run(*arguments)
    assert status == 1
    assert re.fullmatch(rf"error: [^\n]*{message}[^\n]*\n", err)


def test_where_nothing_can_be_written(run, tmp_path):
    status, _, err = run(f"--release={tmp_path}", out="classifier")
    assert (status, "must be a file in a folder" in err, err.count("\n")) == (1, True, 1)
    status, _, err = run(f"--release={tmp_path}", out="none/out.csv")
    assert (status, "must be a file in a folder" in err, err.count("\n")) == (1, True, 1)
