"""The command that trains the cloud NN: a whole run, a run that is done, and what is refused."""

import re

import pytest
from support.small_release import random_release

from experiments import train_cloud
from privynet_jax.deployment.cloud.classifier import open_classifier
from privynet_jax.errors import UserError

QUICK = ("--steps=3", "--batch_size=8", "--width=4", "--validation_fraction=0.25")


@pytest.fixture
def train(run_command, monkeypatch, tmp_path):
    """Runs the command in usual places; returns status, output and error."""
    monkeypatch.setattr(train_cloud, "open_release", lambda folder: random_release())

    def run(*arguments, release="release", out="classifier"):
        places = {"release": release, "out": out}
        given = [f"--{name}={tmp_path / path}" for name, path in places.items() if path]
        return run_command(train_cloud, *given, *arguments)

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
        **{"width": 4, "validation_fraction": 0.25, "patience": 6, "seed": 7},
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
        r"error: batch_size is 1000000000, but 18 of .* 24 rows .* at most 64 as .*\n", err
    )
    assert not list(tmp_path.iterdir())
    assert train(*QUICK, "--batch_size=65")[0] == 1
    assert not train(*QUICK, "--batch_size=64")[0]


@pytest.mark.parametrize("missing", ["release", "out"])
def test_both_folders_are_needed(train, missing):
    status, _, err = train(*QUICK, **{missing: None})
    assert (status, err) == (1, f"error: no --{missing} is given; name a folder\n")


def test_a_release_that_is_refused(train, monkeypatch, tmp_path):
    def refuse(folder):
        raise UserError(f"{folder} is no release")

    monkeypatch.setattr(train_cloud, "open_release", refuse)
    status, _, err = train(*QUICK)
    assert (status, err) == (1, f"error: {tmp_path / 'release'} is no release\n")
    assert not list(tmp_path.iterdir())
