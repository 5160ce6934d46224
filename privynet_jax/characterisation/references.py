"""What every cell is to be compared with: no split at all, and no attack at all.

The trainer makes the one, NumPy is enough for the other, `run` writes both to a table, and
`attacked_pictures` tells what the second does to each test image.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from privynet_jax.attacks.closed_form import MEAN_IMAGE
from privynet_jax.backbone.features.layer_features import image_features
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.grid_run import cloud_of, spread_of
from privynet_jax.characterisation.measure import REPORTED
from privynet_jax.errors import UserError
from privynet_jax.images.metrics import image_quality
from privynet_jax.images.parts import Part, Parts, as_float
from privynet_jax.platform.progress import progress_bar
from privynet_jax.results.cell_results import AttackResult
from privynet_jax.results.cells import reference_key
from privynet_jax.results.risk_tables import AttackedPictures
from privynet_jax.results.statistics import summarise
from privynet_jax.training.models.networks import CloudNN
from privynet_jax.training.prediction import measured
from privynet_jax.training.session import session
from privynet_jax.training.tasks import Schedule, cloud_task
from privynet_jax.training.trainer import Course, Member, train

_BATCH = 256


def reference_rows(config: Config, parts: Parts) -> list[dict[str, Any]]:
    """Returns the rows of `reference.csv`; what a row has no value for is empty.

    `no_split` is the accuracy of a cloud NN that a cell's schedule trained on the images
    themselves. `mean_image` is the privacy loss by an attacker who always answers the mean of the
    auxiliary images: what knowing nothing about an image achieves.

    Raises:
        UserError: training diverged.
    """
    with (
        progress_bar(1, "training without a split") as advance,
        session(spread=spread_of(config), progress=advance),
    ):
        right = accuracy_without_split(cloud_of(config, parts), config.cloud, parts, config.seed)
    guess = _mean_image(parts.auxiliary)
    quality = {part: _quality(guess, getattr(parts, part)) for part in ("validation", "test")}
    guessing = AttackResult.of_images(
        MEAN_IMAGE, quality, {"knowledge": "auxiliary images"}
    ).columns()
    accuracy = {
        "accuracy": summarise(right["test"]).mean,
        "validation_accuracy": summarise(right["validation"]).mean,
    }
    return [
        {"reference": "no_split", **accuracy, **dict.fromkeys(guessing, "")},
        {"reference": "mean_image", **dict.fromkeys(accuracy, ""), **guessing},
    ]


def accuracy_without_split(
    network: CloudNN, schedule: Schedule, parts: Parts, seed: int
) -> dict[str, np.ndarray]:
    """Trains the cloud NN on the images themselves.

    Returns:
        Part name ("validation", "test") -> float32 [N], 1 where it was right.

    Raises:
        UserError: training diverged.
    """
    task, images = cloud_task(network), image_features(parts).parts
    labels = parts.target.labels
    member = Member(
        key=reference_key(seed),
        inputs=images["target"],
        targets=labels,
        rows=np.arange(len(labels)),
        learning_rate=schedule.learning_rate,
    )
    [trained] = train(task, [member], Course(schedule.steps, schedule.batch_size))
    if trained.diverged:
        raise UserError(
            "the cloud NN of the reference without a split diverged; "
            "train with a lower learning rate"
        )
    return {
        part: measured(task, trained.params, (), images[part], getattr(parts, part).labels)[
            "accuracy"
        ]
        for part in REPORTED
    }


def attacked_pictures(parts: Parts) -> AttackedPictures:
    """Returns what is known of the test images before anybody attacks them."""
    quality = _quality(_mean_image(parts.auxiliary), parts.test)
    return AttackedPictures(parts.test.labels, parts.class_names, quality)


def _mean_image(part: Part) -> np.ndarray:
    """float32 [H, W, 3], summed in batches: as floats, all images may not fit into memory."""
    total = sum(batch.sum(axis=0, dtype=np.float64) for batch in _batches(part))
    return np.float32(total / len(part))


def _quality(guess: np.ndarray, part: Part) -> dict[str, np.ndarray]:
    values = [image_quality(np.broadcast_to(guess, batch.shape), batch) for batch in _batches(part)]
    return {metric: np.concatenate([v[metric] for v in values]) for metric in values[0]}


def _batches(part: Part) -> Iterator[np.ndarray]:
    starts = range(0, len(part), _BATCH)
    return (as_float(part.images[start : start + _BATCH]) for start in starts)
