"""Trains the cloud NN on releases alone: no images, no VGG16, no plan, as the cloud has it.

    settings = ClassifierSettings(Schedule(steps=2000, batch_size=64), patience=6)
    data = join_releases([open_release(source)])
    classifier = train_to_folder(data, settings, Path("runs/classifier"))

The learning rate falls along a cosine that ends at `Schedule.steps`, even where training stops
before: after so many validations in a row, on rows held out, in which neither accuracy nor loss was
better than ever. Kept are the parameters of the validation with the highest accuracy (of equals,
the lowest loss), not the last ones.
"""

import contextlib
import dataclasses
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from privynet_jax.deployment.cloud.classifier import (
    Classifier,
    Validation,
    is_classifier,
    open_classifier,
    save_classifier,
    sign_classifier,
)
from privynet_jax.deployment.cloud.contributions import Contributions
from privynet_jax.deployment.cloud.held_out import bounds_of, chances_of
from privynet_jax.deployment.cloud.learning_on import (
    begun_from,
    bounds_as_before,
    check_start,
)
from privynet_jax.deployment.trust.keys import PrivateKey
from privynet_jax.errors import UserError
from privynet_jax.platform import signals
from privynet_jax.platform.documents import Text, read_document, write_document
from privynet_jax.platform.files import check_is_new
from privynet_jax.platform.resuming import check_same_settings
from privynet_jax.platform.rows.row_views import ChosenRows
from privynet_jax.results.statistics import accuracies, accuracies_of_several
from privynet_jax.training.checkpoints import Checkpoint
from privynet_jax.training.courses.release_training import ReleaseTraining, check_counts
from privynet_jax.training.models.networks import CloudNN, network_for
from privynet_jax.training.prediction import predicted
from privynet_jax.training.session import session
from privynet_jax.training.tasks import cloud_task, labels_task
from privynet_jax.training.trainer import train

_MOST_EVENED = 2**24  # numbers of rows
_SETTINGS, _VERSION = "settings.json", 2
_AS_BEFORE = ("width", "validation_fraction", "seed")  # of a classifier that learns on
_OTHERWISE = "or a new folder, or delete that one first"


@dataclasses.dataclass(frozen=True)
class ClassifierSettings(ReleaseTraining):
    """What decides a training, besides the releases.

    Attributes:
        schedule: steps, batch size and learning rate.
        validation_fraction: of each class's rows, held out.
        patience: validations in a row without anything better, after which training stops.
        width: channels of the cloud NN.
        balanced: whether every class counts alike, however many rows it has: those of rarer ones
            are met more often, in validations, too, whose accuracy then is the balanced one (but
            for a row of a class, at most, that counts once more than its others).
        seed: of the part held out, the initial parameters and the mini-batches.

    Raises:
        UserError: a number is out of its range.
    """

    width: int = 64
    balanced: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(width=self.width)
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed is {self.seed}; allowed are whole numbers from 0 to 2**32 - 1")

    def by_name(self) -> dict[str, int | float]:
        """Returns all numbers by the names that commands and files use."""
        values = dataclasses.asdict(self)
        return values.pop("schedule") | values | {"balanced": int(self.balanced)}


class Dealt(NamedTuple):
    """Which rows are learnt from, which are held out, and the network that suits them."""

    training: np.ndarray
    validation: np.ndarray
    bounds: np.ndarray  # of each class, see `held_out`
    network: CloudNN


@dataclasses.dataclass(frozen=True)
class _Begun:
    """settings.json: what a working folder is of, and that it is one."""

    settings: dict[Text, int | float | Text]


def train_to_folder(
    data: Contributions,
    settings: ClassifierSettings,
    folder: Path,
    every_seconds: float = 300.0,
    key: PrivateKey | None = None,
    start: Classifier | None = None,
) -> Classifier | None:
    """Trains and writes a classifier's folder, new or left by an earlier call, whole at the end.

    Returns it, or None where an earlier call with the same settings finished it. Checkpoints, one
    per `every_seconds`, lie in a working folder beside it, and so does the classifier where its
    place was taken meanwhile: the same call then finishes at once. A key signs it; it learns on
    from the classifier `start`, if there is one.

    Raises:
        Terminated: a stop was requested; the same call continues.
        UserError: the rows cannot be trained on, training diverged, or a folder is taken,
            damaged, or of other releases or other settings.
    """
    data = data.with_classes(start.classes) if start else data
    begun = {"data": data.id, "start": start.id if start else ""}
    folder, described = folder.resolve(), {**begun, **settings.by_name()}
    if is_classifier(folder):
        found = open_classifier(folder)
        before = {"data": found.data, "start": found.start or "", **found.settings}
        check_same_settings(f"{folder} was made", before, described, _OTHERWISE)
        sign_classifier(folder, key)
        return None
    check_is_new(folder)
    deal(data, settings, start)  # complains before anything is written
    working = folder.with_name(f"{folder.name}.training")
    _begin(working, described)
    kept, checkpoint = working / "classifier", Checkpoint(working / "checkpoints", every_seconds)
    try:
        if not is_classifier(kept):
            with session(checkpoint=checkpoint):
                save_classifier(kept, train_classifier(data, settings, start))
        sign_classifier(kept, key)
        classifier = open_classifier(kept)
    except UserError:
        _discard(working, checkpoint)  # it diverged, and would again
        raise
    try:
        os.replace(kept, folder)
    except OSError as error:
        raise UserError(
            f"{folder} was taken during the training ({error.strerror}); the classifier is kept: "
            "free that place and give the same command again"
        ) from None
    _discard(working, checkpoint)
    return classifier


def _begin(working: Path, described: Mapping[str, Any]) -> None:
    """Makes a working folder, or takes the one of the same training; UserError for any other."""
    path = working / _SETTINGS
    if not working.exists() or (working.is_dir() and not any(working.iterdir())):
        working.mkdir(parents=True, exist_ok=True)
        write_document(path, _Begun(dict(described)), _VERSION)
        return
    try:
        what = "list of a training's settings"
        remedy = f"move it, {_OTHERWISE}"
        before = read_document(path, _Begun, _VERSION, remedy, what=what).settings
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{working} is needed to work in, and is of something else; move it, {_OTHERWISE}"
        ) from None
    check_same_settings(f"{working} was made", before, described, _OTHERWISE)


def train_classifier(
    data: Contributions, settings: ClassifierSettings, start: Classifier | None = None
) -> Classifier:
    """Trains a cloud NN, from a classifier on if one is given.

    The session says where that is kept, and who is told.

    Raises:
        Terminated: a stop was requested.
        UserError: the rows cannot be trained on, or training diverged.
    """
    data = data.with_classes(start.classes) if start else data
    dealt, schedule = deal(data, settings, start), settings.schedule
    rows = dealt.training, dealt.validation
    if settings.balanced:
        rows = (evened(each, data.labels) for each in rows)
    given = data.representations, data.labels, *rows
    member = settings.member(jax.random.key(settings.seed), *given)
    several = data.labels.ndim == 2
    task = (labels_task if several else cloud_task)(dealt.network)
    if start:
        task = begun_from(task, start, data.classes)
    # SIGTERM and Ctrl-C wait until a step is done, so that the checkpoint can be saved.
    with signals.deferred():
        [trained] = train(task, [member], settings.course)
    if trained.diverged:
        raise UserError(
            f"training diverged before step {trained.steps}: its loss is no number; give a lower "
            f"--learning_rate than {schedule.learning_rate:g}, and look whether the release holds "
            "negative or infinite values"
        )
    rows = ChosenRows(data.representations, dealt.validation)
    logits = predicted(task, trained.params, (), rows)
    labels = data.labels[dealt.validation]
    if several:
        figures = accuracies_of_several(logits, labels, threshold=0)
    else:
        figures = accuracies(np.float64(logits.argmax(axis=-1) == labels), labels)
    return Classifier(
        params=by_path(trained.params),
        shape=tuple(data.representations.shape[1:]),
        classes=data.classes,
        width=settings.width,
        data=data.id,
        plan_id=data.plan_id,
        start=start.id if start else None,
        held_out=tuple(dealt.bounds.tolist()),
        settings=settings.by_name(),
        several=several,
        average_precision=figures.get("average_precision"),
        balanced_accuracy=figures["balanced_accuracy"],
        commonest_class_share=figures["commonest_class_share"],
        history=tuple(
            Validation(
                now.step,
                None if math.isnan(now.training_loss) else now.training_loss,
                now.means["accuracy"],
                now.means["loss"],
            )
            for now in trained.history
        ),
    )


def evened(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns rows, int [n], with those of rarer classes repeated until all have as many."""
    found, counts = np.unique(labels[rows], return_counts=True)
    if len(found) * counts.max() > _MOST_EVENED:
        raise UserError(
            f"{len(found)} classes, of which one has {counts.max()} rows, cannot be balanced by "
            "repeating the others; train without --balanced, or release less of that class"
        )
    return np.concatenate([np.resize(rows[labels[rows] == label], counts.max()) for label in found])


def by_path(params: Any) -> dict[str, np.ndarray]:
    """Returns a tree's arrays by their paths, as a classifier holds them: "params/Dense_0/bias"."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.ascontiguousarray(leaf)
        for path, leaf in leaves
    }


def deal(
    data: Contributions, settings: ClassifierSettings, start: Classifier | None = None
) -> Dealt:
    """Deals rows out, class by class, by what they are and the seed; UserError if that cannot be.

    What a classifier to start from held out is held out again, and nothing that it learnt.
    """
    labels, several = data.labels, data.labels.ndim == 2
    _check_labels(labels, settings)
    network = network_for(data.representations.shape[1:], len(data.classes), settings.width)
    chances = chances_of(data.digests, settings.seed)
    # Of several for each row, the rows are one class.
    strata = np.zeros(len(labels), int) if several else labels
    bounds = bounds_of(chances, strata, len(data.classes), settings.validation_fraction)
    bounds = np.full_like(bounds, bounds[0]) if several else bounds
    if start:
        check_start(start, data, {name: settings.by_name()[name] for name in _AS_BEFORE})
        bounds = bounds_as_before(start, data.classes, bounds)
    held_out = chances < bounds[strata]
    training, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if not len(validation):
        raise UserError(
            f"there are {len(labels)} rows and no class with two that differ, so none can be "
            "held out for validation; release more pictures"
        )
    if several and not _asked(labels[validation]).any():
        raise UserError(
            f"no label is there in some of the {len(validation)} rows held out and missing in "
            "others; release more pictures, or give a larger --validation_fraction"
        )
    batch = settings.schedule.batch_size
    # The usual size repeats the rows of a small release; beyond that, repeating only fills memory.
    most = max(len(training), ClassifierSettings.schedule.batch_size)
    if batch > most:
        raise UserError(
            f"batch_size is {batch}, but {len(training)} of the {len(labels)} released "
            f"rows are there to train on; give at most {most} as --batch_size"
        )
    return Dealt(training, validation, bounds, network)


def _check_labels(labels: np.ndarray, settings: ClassifierSettings) -> None:
    if labels.ndim == 1:
        if len(present := np.unique(labels)) < 2:
            raise UserError(
                f"there are rows of {len(present)} class; at least 2 are needed; release pictures "
                "of more classes"
            )
        return
    if settings.balanced:
        raise UserError(
            "--balanced is for one class of each picture, and these may have several, which are "
            "asked one by one; leave it out"
        )
    if not _asked(labels).any():
        raise UserError(
            "no label is there in some rows and missing in others, so there is nothing to learn; "
            "release pictures of both kinds"
        )


def _asked(labels: np.ndarray) -> np.ndarray:
    """Which labels, of int [N, K], are there in some rows and missing in others, bool [K]."""
    return (labels == 0).any(axis=0) & (labels == 1).any(axis=0)


def _discard(working: Path, checkpoint: Checkpoint) -> None:
    """Removes what a training wrote into its folder, and the folder where nothing else is in it."""
    checkpoint.discard()
    for path in (working / "classifier", *working.glob(".classifier-*")):
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        (working / _SETTINGS).unlink()
        working.rmdir()
