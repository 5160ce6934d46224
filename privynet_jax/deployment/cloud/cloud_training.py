"""Trains the cloud NN on releases alone: no images, no VGG16, no plan, as the cloud has it.

    settings = ClassifierSettings(Schedule(steps=2000, batch_size=64), patience=6)
    data = join_releases([open_release(source)])
    classifier = train_to_folder(data, settings, Path("runs/classifier"))

The learning rate falls along a cosine that ends at `Schedule.steps`, even where training stops
before: after so many validations in a row, on rows held out, in which neither accuracy nor loss was
better than ever. Kept are the parameters of the validation with the highest accuracy (of equals,
the lowest loss), or, where rows have several labels, with the lowest loss; not the last ones.
"""

import contextlib
import dataclasses
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
from privynet_jax.deployment.cloud.dealing import ClassifierSettings, deal, evened, shares_of
from privynet_jax.deployment.cloud.learning_on import begun_from
from privynet_jax.deployment.trust.keys import PrivateKey
from privynet_jax.errors import UserError
from privynet_jax.platform import signals
from privynet_jax.platform.documents import Text, read_document, write_document
from privynet_jax.platform.files import check_is_new
from privynet_jax.platform.resuming import check_same_settings
from privynet_jax.platform.rows.row_views import ChosenRows
from privynet_jax.results.accuracies import accuracies, accuracies_of_several
from privynet_jax.training.checkpoints import Checkpoint, by_path
from privynet_jax.training.prediction import predicted
from privynet_jax.training.session import session
from privynet_jax.training.tasks import task_of
from privynet_jax.training.trainer import train

_SETTINGS, _VERSION = "settings.json", 2
_OTHERWISE = "or a new folder, or delete that one first"


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
    several, shares = data.labels.ndim == 2, None
    if settings.balanced and several:
        shares = shares_of(data.labels[dealt.training])
    elif settings.balanced:
        rows = (evened(each, data.labels) for each in rows)
    given = data.representations, data.labels, *rows
    member = settings.member(jax.random.key(settings.seed), *given)
    task = task_of(dealt.network, several, shares)
    if start:
        task = begun_from(task, start, data.classes)
    # SIGTERM and Ctrl-C wait until a step is done, so that the checkpoint can be saved.
    with signals.deferred():
        [trained] = train(task, [member], settings.course)
    if trained.diverged:
        raise UserError(
            f"training diverged before step {trained.steps}: its loss is no number; give a lower "
            f"--learning_rate than {schedule.learning_rate:g}, and look whether the release holds "
            "infinite values"
        )
    rows = ChosenRows(data.representations, dealt.validation)
    logits = predicted(task, trained.params, (), rows)
    figures = _figures(logits, data.labels[dealt.validation])
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


def _figures(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    if labels.ndim == 2:
        return accuracies_of_several(logits, labels, threshold=0)
    return accuracies(np.float64(logits.argmax(axis=-1) == labels), labels)


def _discard(working: Path, checkpoint: Checkpoint) -> None:
    """Removes what a training wrote into its folder, and the folder where nothing else is in it."""
    checkpoint.discard()
    for path in (working / "classifier", *working.glob(".classifier-*")):
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        (working / _SETTINGS).unlink()
        working.rmdir()
