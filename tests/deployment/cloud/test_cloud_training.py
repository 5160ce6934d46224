"""The cloud NN learns from a release alone, keeps its best, and continues to the same bits."""

import dataclasses
import os
import signal
from collections import Counter

import jax
import numpy as np
import pytest
from support.small_release import class_ids, random_release, real_releases

from privynet_jax.deployment.cloud.classifier import open_classifier
from privynet_jax.deployment.cloud.cloud_training import train_classifier, train_to_folder
from privynet_jax.deployment.cloud.contributions import join_releases
from privynet_jax.deployment.cloud.dealing import ClassifierSettings, deal, evened
from privynet_jax.errors import UserError
from privynet_jax.platform import signals as termination
from privynet_jax.platform.signals import HANDLED, Terminated
from privynet_jax.training.checkpoints import Checkpoint
from privynet_jax.training.session import session
from privynet_jax.training.tasks import Schedule

QUICK = ClassifierSettings(
    Schedule(steps=30, batch_size=8), width=4, validation_fraction=0.25, patience=30
)


def random_data(**options):
    return join_releases([random_release(**options)])


def assert_same(one, other):
    assert one.history == other.history
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


@pytest.fixture(scope="module")
def undisturbed():
    return train_classifier(random_data(), QUICK)


def steps(classifier):
    return [moment.step for moment in classifier.history]


# What is learnt.


@pytest.mark.slow
def test_real_photographs_are_learnt(small_parts, vgg_weights):
    releases = real_releases(small_parts, vgg_weights)
    settings = ClassifierSettings(
        Schedule(steps=150, batch_size=32), validation_fraction=0.25, patience=20
    )
    trained = train_classifier(join_releases([releases["target"]]), settings)
    found = trained.probabilities(releases["test"].representations).argmax(axis=1)
    accuracy = (found == releases["test"].labels).mean()
    # Chance is 1 of 30; 4 training images of each class give some 30 %.
    assert accuracy > 0.15
    assert trained.history[-1].loss < 0.6 * trained.history[1].loss
    assert trained.best.validation_accuracy > 0.15


def test_what_is_kept_is_the_best_and_no_other(undisturbed):
    release = random_data()
    held_out = deal(release, QUICK).validation
    found = undisturbed.probabilities(release.representations[held_out]).argmax(axis=1)
    right = (found == release.labels[held_out]).mean()
    assert right == undisturbed.best.validation_accuracy
    assert right == max(moment.validation_accuracy for moment in undisturbed.history)
    labels = release.labels[held_out]
    by_class = [(found == labels)[labels == label].mean() for label in np.unique(labels)]
    assert undisturbed.balanced_accuracy == pytest.approx(np.mean(by_class))
    assert undisturbed.commonest_class_share == np.bincount(labels).max() / len(labels)


def test_validations_are_twenty_or_every_step_after_the_first(undisturbed):
    assert steps(undisturbed) == list(range(0, 31, 2))
    assert undisturbed.history[0].loss is None
    short = dataclasses.replace(QUICK, schedule=Schedule(3, 8))
    assert steps(train_classifier(random_data(), short)) == [0, 1, 2, 3]


def test_the_seed_decides(undisturbed):
    assert_same(train_classifier(random_data(), QUICK), undisturbed)
    other = train_classifier(random_data(), dataclasses.replace(QUICK, seed=1))
    assert other.history[1:] != undisturbed.history[1:]


@pytest.mark.parametrize(("batch_size", "rows"), [(5, 24), (64, 9)])
def test_any_batch_size(batch_size, rows):
    """Devices that do not divide it; more than there are rows."""
    settings = dataclasses.replace(QUICK, schedule=Schedule(2, batch_size))
    assert steps(train_classifier(random_data(rows=rows), settings)) == [0, 1, 2]


def test_training_stops_when_patience_ends():
    release = random_data(rows=60)
    rng = np.random.default_rng(1)
    # Nothing to learn: what is learnt from these labels makes the others worse.
    noise = dataclasses.replace(release, labels=rng.permutation(release.labels))
    settings = dataclasses.replace(QUICK, schedule=Schedule(200, 16, 0.01), patience=3)
    stopped = train_classifier(noise, settings)
    assert stopped.history[-1].step < 200
    last = stopped.history[-3:]
    assert max(now.validation_accuracy for now in last) <= stopped.best.validation_accuracy
    lowest = min(now.validation_loss for now in stopped.history[:-3])
    assert min(now.validation_loss for now in last) >= lowest
    # More patience is the same training, for longer.
    longer = train_classifier(noise, dataclasses.replace(settings, patience=20))
    count = len(stopped.history)
    assert len(longer.history) > count
    assert longer.history[:count] == stopped.history


# Continuing.


class StopAt:
    """Requests a stop at so many moments at which training looks whether one was."""

    def __init__(self, *moments):
        self.moments, self.asked = moments, 0

    def __call__(self):
        self.asked += 1
        return self.asked in self.moments


# Training looks before its first step, after every step and in every validation, of which each
# second step has one: after 1 and 30 steps that is 2 and 45.
@pytest.mark.parametrize("moments", [(2, 20), (45, 1)])
def test_a_training_that_was_stopped_ends_with_the_same_bits(tmp_path, undisturbed, moments):
    for moment in moments:
        kept = Checkpoint(tmp_path / "kept", 3600)
        with (
            session(checkpoint=kept, stop_requested=StopAt(moment)),
            pytest.raises(Terminated),
        ):
            train_classifier(random_data(), QUICK)
    told = []
    with session(checkpoint=Checkpoint(tmp_path / "kept", 3600), progress=told.append):
        again = train_classifier(random_data(), QUICK)
    assert_same(again, undisturbed)
    assert sum(told) == pytest.approx(1)  # what was done before is told at once


@pytest.fixture
def signals():
    before = {n: signal.getsignal(n) for n in HANDLED}
    termination.handle_signals()
    yield
    termination.handle_signals()  # forgets what was requested
    for number, former in before.items():
        signal.signal(number, former)


def test_a_signal_saves_and_the_same_call_continues(tmp_path, undisturbed, signals):
    release, folder, told = random_data(), tmp_path / "classifier", []

    def send(share):
        told.append(share)
        if len(told) == 8:  # the first tells of nothing yet
            os.kill(os.getpid(), signal.SIGTERM)

    with session(progress=send), pytest.raises(Terminated):
        train_to_folder(release, QUICK, folder, every_seconds=0)  # saves after each step, too
    assert [path.name for path in tmp_path.iterdir()] == ["classifier.training"]
    termination.handle_signals()
    told = []
    with session(progress=lambda share: told.append(share)):
        trained = train_to_folder(release, QUICK, folder)
    assert told[0] == pytest.approx(7 / 30)
    assert_same(trained, undisturbed)
    assert_same(open_classifier(folder), undisturbed)
    assert [path.name for path in tmp_path.iterdir()] == ["classifier"]


def test_larger_releases_allow_larger_batches():
    release = random_data(rows=200)
    rows = len(deal(release, QUICK).training)
    assert rows > 64
    for batch in (rows, rows + 1):
        settings = dataclasses.replace(QUICK, schedule=Schedule(30, batch))
        if batch == rows:
            assert len(deal(release, settings).training) == rows
        else:
            with pytest.raises(UserError, match=f"batch_size is {batch}, but {rows} of the "):
                deal(release, settings)


# The folder.


@pytest.fixture
def finished(tmp_path):
    folder = tmp_path / "classifier"
    settings = dataclasses.replace(QUICK, schedule=Schedule(2, 8))
    train_to_folder(random_data(), settings, folder)
    return folder, settings


def test_a_finished_folder_is_left_alone(finished):
    folder, settings = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert train_to_folder(random_data(), settings, folder) is None
    changed = dataclasses.replace(settings, width=5, seed=3)
    with pytest.raises(UserError, match="seed was 0 and is now 3; width was 4 and is now 5"):
        train_to_folder(random_data(), changed, folder)
    with pytest.raises(UserError, match=r"data was '[0-9a-f]{64}' and is now '[0-9a-f]{64}'"):
        train_to_folder(random_data(seed=1), settings, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_an_unfinished_folder_belongs_to_its_settings(tmp_path):
    with session(stop_requested=lambda: True), pytest.raises(Terminated):
        train_to_folder(random_data(), QUICK, tmp_path / "classifier")
    changed = dataclasses.replace(QUICK, patience=5)
    with pytest.raises(UserError, match=r"classifier\.training .* patience was 30 and is now 5"):
        train_to_folder(random_data(), changed, tmp_path / "classifier")


def test_other_folders_are_kept(tmp_path):
    (tmp_path / "precious").write_text("kept")
    with pytest.raises(UserError, match="exists already"):
        train_to_folder(random_data(), QUICK, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("name", ["thesis.tex", "settings.json", "checkpoints/mine"])
def test_a_folder_of_the_working_folders_name_is_left_alone(tmp_path, name):
    path = tmp_path / "classifier.training" / name
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(UserError, match=r"classifier\.training.*; .*move it, or a new folder"):
        train_to_folder(random_data(), QUICK, tmp_path / "classifier")
    assert [p.read_text() for p in tmp_path.rglob("*") if p.is_file()] == ["{}"]


def test_what_others_put_into_the_working_folder_is_kept(tmp_path):
    settings = dataclasses.replace(QUICK, schedule=Schedule(2, 8))
    with session(stop_requested=lambda: True), pytest.raises(Terminated):
        train_to_folder(random_data(), settings, tmp_path / "classifier")
    (tmp_path / "classifier.training" / "notes").write_text("kept")
    train_to_folder(random_data(), settings, tmp_path / "classifier")
    assert [p.name for p in (tmp_path / "classifier.training").iterdir()] == ["notes"]


def test_a_place_that_was_taken_meanwhile_does_not_cost_the_training(tmp_path):
    settings = dataclasses.replace(QUICK, schedule=Schedule(2, 8))
    folder, told = tmp_path / "classifier", []

    def take(share):
        told.append(share)
        folder.mkdir(exist_ok=True)
        (folder / "mine").write_text("kept")

    message = "was taken during the training .* is kept: free that place"
    with session(progress=take), pytest.raises(UserError, match=message):
        train_to_folder(random_data(), settings, folder)
    assert [path.name for path in folder.iterdir()] == ["mine"]
    folder.rename(tmp_path / "elsewhere")
    told.clear()
    with session(progress=told.append):
        trained = train_to_folder(random_data(), settings, folder)
    assert not told  # nothing was trained
    assert trained.history == open_classifier(folder).history
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classifier", "elsewhere"]


# What cannot be trained.


def with_labels(labels, num_classes=3):
    release = random_data(rows=len(labels))
    return dataclasses.replace(release, labels=np.int32(labels), classes=class_ids(num_classes))


def no_numbers():
    found = np.random.default_rng(0).random((24, 4, 4, 3))
    found[:, 0, 0, 0] = np.nan
    return found


REFUSED = {
    "one class": (with_labels([1] * 9), "rows of 1 class; at least 2"),
    "too few rows": (with_labels([0, 1, 2]), "3 rows and no class with two that differ"),
    "no rows": (with_labels(np.zeros(0)), "rows of 0 class"),
    "no square": (
        dataclasses.replace(random_data(), representations=np.ones((24, 4, 2, 3))),
        "allowed are squares",
    ),
    "no numbers": (
        dataclasses.replace(random_data(), representations=no_numbers()),
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
        ({"schedule": Schedule(9, learning_rate=None)}, "learning rate None; allowed are"),
        ({"patience": 0}, "patience is 0"),
        ({"validation_fraction": 0.0}, "validation_fraction is 0.0"),
        ({"validation_fraction": float("nan")}, "validation_fraction is nan"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        ClassifierSettings(**wrong)


def test_every_class_is_held_out():
    release = random_data(rows=3000)
    data = deal(release, dataclasses.replace(QUICK, validation_fraction=0.1))
    assert sorted([*data.training, *data.validation]) == list(range(3000))
    assert Counter(release.labels[data.validation].tolist()) == {0: 100, 1: 100, 2: 100}
    few = deal(random_data(rows=6), dataclasses.replace(QUICK, validation_fraction=1e-9))
    assert len(few.validation) == 3
    most = deal(random_data(rows=6), dataclasses.replace(QUICK, validation_fraction=1 - 1e-9))
    assert len(most.validation) == 3


def test_rows_of_rarer_classes_are_repeated_until_all_have_as_many():
    labels = np.array([5, 5, 5, 5, 0, 7, 7, 5])
    rows = np.array([7, 0, 2, 4, 6, 5, 3])
    found = evened(rows, labels)
    assert Counter(labels[found].tolist()) == {0: 4, 5: 4, 7: 4}
    assert Counter(found.tolist()) == {0: 1, 2: 1, 3: 1, 7: 1, 4: 4, 5: 2, 6: 2}


def test_balanced_training_cares_for_a_rare_class():
    """Of two classes that overlap, one is twelve times as frequent."""
    rng = np.random.default_rng(2)
    labels = np.int32(rng.random(260) < 1 / 13)
    strength = rng.normal(2 + labels, 0.7).clip(0)[:, None, None, None]
    x = np.float16(strength * rng.uniform(0.9, 1.1, (260, 4, 4, 3)))
    changed = {"representations": x, "labels": labels, "classes": class_ids(2)}
    data = dataclasses.replace(random_data(rows=260), **changed)
    settings = dataclasses.replace(QUICK, schedule=Schedule(150, 32), validation_fraction=0.4)
    usual = train_classifier(data, settings)
    balanced = train_classifier(data, dataclasses.replace(settings, balanced=True))
    assert balanced.balanced_accuracy > usual.balanced_accuracy + 0.05
    assert balanced.commonest_class_share == usual.commonest_class_share
    assert balanced.best.validation_accuracy == pytest.approx(balanced.balanced_accuracy, abs=0.03)
