"""The command that trains the cloud NN: a whole run, a run that is done, and what is refused."""

import csv
import dataclasses
import re

import numpy as np
import pytest
from support.small_release import random_release

from experiments import train_cloud
from privynet_jax.deployment.cloud.classifier import open_classifier
from privynet_jax.deployment.release.equal_rows import Revocation, row_digests
from privynet_jax.errors import UserError

QUICK = ("--steps=3", "--batch_size=8", "--width=4", "--validation_fraction=0.25")


@pytest.fixture
def train(run_command, monkeypatch, tmp_path):
    """Runs the command in usual places; returns status, output and error."""
    monkeypatch.setattr(
        train_cloud, "open_releases", lambda paths, **_: {"release": random_release()}
    )

    def run(*arguments, release="release", out="classifier"):
        places = {"release": release, "out": out}
        given = [f"--{name}={tmp_path / path}" for name, path in places.items() if path]
        return run_command(train_cloud, *given, "--unsigned", *arguments)

    return run


def test_a_run_and_the_same_again(train, tmp_path):
    status, out, _ = train(*QUICK, "--seed=7")
    assert not status
    trained = open_classifier(tmp_path / "classifier")
    accuracy = f"{100 * trained.best.validation_accuracy:.1f} %"
    balanced = f"{100 * trained.balanced_accuracy:.1f} %"
    assert f"Validation accuracy {accuracy}, balanced over classes {balanced}, where" in out
    assert f"; of the parameters after {trained.best.step} steps" in out
    assert trained.settings == {
        **{"steps": 3, "batch_size": 8, "learning_rate": 0.002},
        **{"width": 4, "validation_fraction": 0.25, "patience": 6, "seed": 7, "balanced": 0},
    }
    assert [path.name for path in tmp_path.iterdir()] == ["classifier"]
    status, out, _ = train(*QUICK, "--seed=7")
    assert not status
    assert "is finished already" in out
    status, out, err = train(*QUICK, "--seed=8")
    assert (status, out) == (1, "")
    assert re.fullmatch(r"error: [^\n]*seed was 7 and is now 8[^\n]*\n", err)


def test_stopping_early_is_told(train, monkeypatch):
    monkeypatch.setattr(
        "privynet_jax.training.members.without_progress", lambda scores: len(scores) - 1
    )
    _, out, _ = train(*QUICK, "--patience=2")
    assert "stopped early after 2 steps" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steps=0",), "--steps=0"),
        (("--width=100000000",), "--width=100000000"),
        (("--learning_rate=0",), "learning rate 0.0"),
        (("--learning_rate=nan",), "--learning_rate=nan: allowed are finite numbers"),
        (("--checkpoint_minutes=inf",), "--checkpoint_minutes=inf"),
        (("--validation_fraction=1",), "validation_fraction is 1.0"),
        (("--seed=-1",), "--seed=-1"),
    ],
)
def test_bad_flags_are_one_line(train, tmp_path, arguments, message):
    status, out, err = train(*QUICK, *arguments)
    assert (status, out) == (1, "")
    assert re.fullmatch(rf"error: [^\n]*{message}[^\n]*\n", err)
    assert not list(tmp_path.iterdir())


def test_batches_that_only_repeat_rows_are_refused(train, tmp_path):
    """Of 24 rows in three classes, 18 are trained on; the usual 64 repeat them."""
    status, out, err = train(*QUICK, "--batch_size=1000000000")
    assert (status, out) == (1, "")
    assert re.fullmatch(
        r"error: batch_size is 1000000000, but 18 of the 24 released rows .* at most 64 .*\n",
        err,
    )
    assert not list(tmp_path.iterdir())
    assert train(*QUICK, "--batch_size=65")[0] == 1
    assert not train(*QUICK, "--batch_size=64")[0]


@pytest.mark.parametrize(
    ("missing", "advice"), [("release", "name what was handed over"), ("out", "name a folder")]
)
def test_both_are_needed(train, missing, advice):
    status, _, err = train(*QUICK, **{missing: None})
    assert (status, err) == (1, f"error: no --{missing} is given; {advice}\n")


def test_a_release_that_is_refused(train, monkeypatch, tmp_path):
    def refuse(paths, **_):
        raise UserError(f"{paths[0]} is no release")

    monkeypatch.setattr(train_cloud, "open_releases", refuse)
    status, _, err = train(*QUICK)
    assert (status, err) == (1, f"error: {tmp_path / 'release'} is no release\n")
    assert not list(tmp_path.iterdir())


def test_releases_of_many_are_told_side_by_side(train, monkeypatch, tmp_path):
    releases = {f"{place}.tar": random_release(rows=12, seed=place) for place in range(6)}
    # Another's rows a second time, and one channel in place of all.
    copied, strange = releases["2.tar"].representations, releases["4.tar"].representations
    for name, x in {"3.tar": copied, "4.tar": strange[..., [0, 0, 0]]}.items():
        releases[name] = dataclasses.replace(releases[name], representations=x)
    asked = []
    monkeypatch.setattr(
        train_cloud, "open_releases", lambda paths, **_: asked.extend(paths) or releases
    )
    status, out, _ = train(*QUICK, release=f"inbox,{tmp_path}/more.tar")
    assert not status
    assert asked == [tmp_path / "inbox", tmp_path / "more.tar"]
    assert f"6 releases with 60 rows and 12 copies: see {tmp_path / 'classifier'}" in out
    assert "4.tar has rows unlike the others'." in out
    rows = list(csv.DictReader((tmp_path / "classifier.contributors.csv").open()))
    assert [row["name"] for row in rows] == sorted(releases)
    assert sorted(int(row["rows"]) for row in rows) == [0, 12, 12, 12, 12, 12]
    assert sum(int(row["repeated"]) for row in rows) == 12
    assert {row["name"]: row["release"] for row in rows} == {n: r.id for n, r in releases.items()}
    assert "rows unlike" in next(row["strange"] for row in rows if row["name"] == "4.tar")
    # What goes back to everybody names none of them, and says nothing of one alone.
    for path in (tmp_path / "classifier").iterdir():
        assert b".tar" not in path.read_bytes()


def test_several_labels_of_each_row(train, monkeypatch, tmp_path):
    releases = {}
    for place in range(2):
        plain = random_release(rows=30, seed=place)
        labels = np.int32(np.random.default_rng(place).random((30, 3)) < 0.5)
        releases[f"{place}.tar"] = dataclasses.replace(plain, labels=labels)
    monkeypatch.setattr(train_cloud, "open_releases", lambda paths, **_: releases)
    status, out, _ = train(*QUICK)
    assert not status
    trained = open_classifier(tmp_path / "classifier")
    precision = f"{100 * trained.average_precision:.1f} %"
    assert f"Mean average precision on rows held out {precision}, balanced over classes" in out
    assert f"of the parameters after {trained.best.step} steps, whose loss is the least" in out
    rows = list(csv.DictReader((tmp_path / "classifier.contributors.csv").open()))
    assert [row["classes"] for row in rows] == ["3", "3"]
    assert all(0 <= float(row["accuracy"]) <= 1 and not row["strange"] for row in rows)
    assert not train(*QUICK, "--balanced", out="other")[0]
    # Other weights of the loss, so other parameters.
    both = (open_classifier(tmp_path / name).params for name in ("classifier", "other"))
    assert any(not np.array_equal(*pair) for pair in zip(*(p.values() for p in both), strict=True))


def test_it_learns_on_from_what_heeded_the_same_revocations(train, tmp_path):
    assert not train(*QUICK).status
    again = [f"--start={tmp_path / 'classifier'}", *QUICK]
    status, _, err = train(*again, out="later")
    assert not status, err
    assert open_classifier(tmp_path / "later").start == open_classifier(tmp_path / "classifier").id
    gone = tmp_path / "gone.json"
    rows = tuple(row_digests(random_release().representations[:1]))
    Revocation("1d" * 32, "float16", (random_release().id,), rows).write(gone)
    status, _, err = train(*again, f"--revoked={gone}", out="third")
    assert (status, err.count("\n")) == (1, 1)
    assert "may have learnt what 1 of 1 revocations withdraw" in err
    assert not train(*QUICK, f"--revoked={gone}", out="anew").status
    again = [f"--start={tmp_path / 'anew'}", *QUICK]
    assert not train(*again, f"--revoked={gone}", out="third").status
    status, _, err = train(*again, out="fourth")
    assert "was trained without what 1 further revocations withdraw" in err
