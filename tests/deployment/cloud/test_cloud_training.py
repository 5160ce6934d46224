"""The cloud NN learns from a release alone, keeps its best, and continues to the same bits."""

import dataclasses
import os
import signal
from collections import Counter

import jax
import numpy as np
import pytest
from support.small_release import random_release, real_releases

from privynet_jax.deployment.cloud.classifier import Validation, open_classifier
from privynet_jax.deployment.cloud.cloud_network import BatchedNetwork, network_for
from privynet_jax.deployment.cloud.cloud_run import best_of, stale
from privynet_jax.deployment.cloud.cloud_training import Settings, data_of, train, train_to_folder
from privynet_jax.errors import UserError
from privynet_jax.platform import signals as termination
from privynet_jax.platform.signals import Terminated
from privynet_jax.training.checkpoints import GroupCheckpoint
from privynet_jax.training.tasks import Schedule

QUICK = Settings(Schedule(steps=30, batch_size=8), width=4, validation_fraction=0.25, patience=30)


def assert_same(one, other):
    assert one.history == other.history
    assert one.best == other.best
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


@pytest.fixture(scope="module")
def undisturbed():
    return train(random_release(), QUICK)


# What is learnt.


@pytest.mark.slow
def test_real_photographs_are_learnt(small_parts, vgg_weights):
    releases = real_releases(small_parts, vgg_weights)
    settings = Settings(Schedule(steps=150, batch_size=32), validation_fraction=0.25, patience=20)
    trained = train(releases["target"], settings)
    found = trained.probabilities(releases["test"].representations).argmax(axis=1)
    accuracy = (found == releases["test"].labels).mean()
    # Chance is 1 of 30; 4 training images of each class give some 30 %.
    assert accuracy > 0.15
    assert trained.history[-1].loss < 0.6 * trained.history[0].loss
    assert trained.best.validation_accuracy > 0.15


def test_what_is_kept_is_the_best_and_no_other(undisturbed):
    release = random_release()
    data = data_of(release, QUICK)
    network = network_for((4, 4, 3), 3, QUICK.width)
    held_out = release.representations[data.validation]
    logits = BatchedNetwork(network, (4, 4, 3)).logits(undisturbed.params, held_out)
    right = (logits.argmax(axis=1) == release.labels[data.validation]).mean()
    assert right == undisturbed.best.validation_accuracy
    assert right == max(moment.validation_accuracy for moment in undisturbed.history)
    assert undisturbed.best == best_of(undisturbed.history)


def test_validations_are_twenty_or_every_step(undisturbed):
    assert [moment.step for moment in undisturbed.history] == list(range(2, 31, 2))
    for steps, expected in ((1, [1]), (3, [1, 2, 3])):
        short = train(random_release(), dataclasses.replace(QUICK, schedule=Schedule(steps, 8)))
        assert [moment.step for moment in short.history] == expected


def test_the_seed_decides(undisturbed):
    assert_same(train(random_release(), QUICK), undisturbed)
    other = train(random_release(), dataclasses.replace(QUICK, seed=1))
    assert other.history != undisturbed.history


@pytest.mark.parametrize(("batch_size", "rows"), [(1, 24), (5, 24), (64, 9)])
def test_any_batch_size(batch_size, rows):
    settings = dataclasses.replace(QUICK, schedule=Schedule(4, batch_size))
    assert len(train(random_release(rows=rows), settings).history) == 4


# Early stopping.


def history_of(*moments):
    return [Validation(step, 1.0, *moment) for step, moment in enumerate(moments, 1)]


def test_best_and_stale_by_hand():
    history = history_of((0.5, 2.0), (0.6, 1.9), (0.6, 1.8), (0.6, 1.8), (0.5, 1.7), (0.4, 1.9))
    assert best_of(history) is history[2]  # of equals, the first
    # The fifth is new, for its loss; before it there was one that brought nothing.
    assert [stale(history[:n]) for n in range(7)] == [0, 0, 0, 0, 1, 0, 1]


def test_training_stops_when_patience_ends():
    release = random_release(rows=60)
    rng = np.random.default_rng(1)
    # Nothing to learn: what is learnt from these labels makes the others worse.
    noise = dataclasses.replace(release, labels=rng.permutation(release.labels))
    settings = dataclasses.replace(QUICK, schedule=Schedule(200, 16, 0.01), patience=3)
    stopped = train(noise, settings)
    assert stopped.history[-1].step < 200
    assert stale(stopped.history) == 3
    assert all(stale(stopped.history[:n]) < 3 for n in range(len(stopped.history)))
    assert stopped.best == best_of(stopped.history)
    # More patience is the same training, for longer.
    longer = train(noise, dataclasses.replace(settings, patience=20))
    assert longer.history[: len(stopped.history)] == stopped.history


# Continuing.


@pytest.mark.parametrize("moments", [(13,), (1, 29)])
def test_a_training_that_was_stopped_ends_with_the_same_bits(tmp_path, undisturbed, moments):
    release = random_release()
    for moment in moments:
        seen = []
        with pytest.raises(Terminated):
            train(
                release,
                QUICK,
                GroupCheckpoint(tmp_path / "kept", 3600),
                lambda step, loss, validation, seen=seen: seen.append(step),
                lambda moment=moment, seen=seen: seen[-1] >= moment,
            )
        assert seen[-1] == moment
    begun = []
    kept = GroupCheckpoint(tmp_path / "kept", 3600)
    again = train(release, QUICK, kept, lambda step, *_: begun.append(step))
    assert begun[0] == moments[-1] + 1
    assert_same(again, undisturbed)


@pytest.fixture
def signals():
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    termination.handle_signals()
    yield
    termination.handle_signals()  # forgets what was requested
    for number, former in before.items():
        signal.signal(number, former)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_call_continues(tmp_path, undisturbed, signals, number):
    release, folder = random_release(), tmp_path / "classifier"

    def send(step, *_):
        if step == 7:
            os.kill(os.getpid(), number)

    with pytest.raises(Terminated):
        train_to_folder(release, QUICK, folder, progress=send)
    assert [path.name for path in tmp_path.iterdir()] == ["classifier.training"]
    termination.handle_signals()
    begun = []
    trained = train_to_folder(
        release, QUICK, folder, every_seconds=0, progress=lambda step, *_: begun.append(step)
    )
    assert begun[0] == 8
    assert_same(trained, undisturbed)
    assert_same(open_classifier(folder), undisturbed)
    assert [path.name for path in tmp_path.iterdir()] == ["classifier"]


def test_a_damaged_checkpoint_costs_the_training_only(tmp_path, undisturbed, caplog):
    folder = tmp_path / "kept"
    with pytest.raises(Terminated):
        train(random_release(), QUICK, GroupCheckpoint(folder, 0), stop_requested=lambda: True)
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.stat().st_size)[-3:]:
        path.write_bytes(path.read_bytes()[:40])
    assert_same(train(random_release(), QUICK, GroupCheckpoint(folder, 0)), undisturbed)
    assert "trained from the beginning" in caplog.text


def test_larger_releases_allow_larger_batches():
    release = random_release(rows=200)
    rows = len(data_of(release, QUICK).training)
    assert rows > 64
    for batch in (rows, rows + 1):
        settings = dataclasses.replace(QUICK, schedule=Schedule(30, batch))
        if batch == rows:
            assert len(data_of(release, settings).training) == rows
        else:
            with pytest.raises(UserError, match=f"batch_size is {batch}, but {rows} of the "):
                data_of(release, settings)


# The folder.


@pytest.fixture
def finished(tmp_path):
    folder = tmp_path / "classifier"
    settings = dataclasses.replace(QUICK, schedule=Schedule(2, 8))
    train_to_folder(random_release(), settings, folder)
    return folder, settings


def test_a_finished_folder_is_left_alone(finished):
    folder, settings = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert train_to_folder(random_release(), settings, folder) is None
    changed = dataclasses.replace(settings, width=5, seed=3)
    with pytest.raises(UserError, match="seed was 0 and is now 3; width was 4 and is now 5"):
        train_to_folder(random_release(), changed, folder)
    with pytest.raises(UserError, match="release was 'random 24 0' and is now 'random 24 1'"):
        train_to_folder(random_release(seed=1), settings, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_an_unfinished_folder_belongs_to_its_settings(tmp_path):
    def stop(*_):
        raise KeyError

    with pytest.raises(KeyError):
        train_to_folder(random_release(), QUICK, tmp_path / "classifier", progress=stop)
    changed = dataclasses.replace(QUICK, patience=5)
    with pytest.raises(UserError, match=r"classifier\.training .* patience was 30 and is now 5"):
        train_to_folder(random_release(), changed, tmp_path / "classifier")


def test_other_folders_are_kept(tmp_path):
    (tmp_path / "precious").write_text("kept")
    with pytest.raises(UserError, match="exists already"):
        train_to_folder(random_release(), QUICK, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


# What cannot be trained.


def with_labels(labels, num_classes=3):
    release = random_release(rows=len(labels))
    return dataclasses.replace(release, labels=np.int32(labels), num_classes=num_classes)


REFUSED = {
    "no labels": (
        dataclasses.replace(random_release(), labels=None, num_classes=None),
        "has no labels",
    ),
    "one class": (with_labels([1] * 9), "rows of 1 class; at least 2"),
    "too few rows": (with_labels([0, 1, 2]), "3 rows and no class with two"),
    "no rows": (with_labels(np.zeros(0)), "rows of 0 class"),
    "no square": (
        dataclasses.replace(random_release(), representations=np.ones((24, 4, 2, 3))),
        "allowed are squares",
    ),
    "no numbers": (
        dataclasses.replace(random_release(), representations=np.full((24, 4, 4, 3), np.nan)),
        "training diverged .* lower --learning_rate than 0.002",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_releases_that_are_refused_leave_nothing(tmp_path, case):
    release, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        train_to_folder(release, QUICK, tmp_path / "classifier")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"schedule": Schedule(0)}, "steps is 0"),
        ({"schedule": Schedule(5, 0)}, "batch_size is 0"),
        ({"width": 0}, "width is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"validation_fraction": 0.0}, "validation_fraction is 0.0"),
        ({"validation_fraction": float("nan")}, "validation_fraction is nan"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        Settings(**wrong)


def test_every_class_is_held_out_alike():
    release = random_release(rows=90)
    data = data_of(release, dataclasses.replace(QUICK, validation_fraction=0.1))
    assert sorted([*data.training, *data.validation]) == list(range(90))
    assert Counter(release.labels[data.validation].tolist()) == {0: 3, 1: 3, 2: 3}
