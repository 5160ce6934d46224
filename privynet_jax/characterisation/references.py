"""What every cell is to be compared with: no split at all, and no attack at all.

`run` writes both to a table, and keeps what the second does to each test image.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from privynet_jax.attacks.closed_form import MEAN_IMAGE
from privynet_jax.backbone.features.layer_features import image_features
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.grid_run import cloud_of
from privynet_jax.characterisation.measure import REPORTED, check_converges, cloud_accuracies
from privynet_jax.images.metrics import image_quality
from privynet_jax.images.parts import Part, Parts, as_float
from privynet_jax.platform.progress import progress_bar
from privynet_jax.results.accuracies import of_images
from privynet_jax.results.cell_results import AttackResult, accuracy_columns
from privynet_jax.results.cells import reference_key
from privynet_jax.results.statistics import bootstrap, mean_of
from privynet_jax.training.session import session
from privynet_jax.training.tasks import CLOUD

_BATCH = 256
_quality = jax.jit(image_quality)


def reference_rows(config: Config, parts: Parts) -> list[dict[str, Any]]:
    """Returns the rows of `reference.csv`; what a row has no value for is empty.

    `no_split` is the accuracy of a cloud NN that a cell's schedule trained on the images
    themselves. `mean_image` is the privacy loss by an attacker who always answers the mean of the
    auxiliary images: what knowing nothing about an image achieves. The test images' accuracy and
    mean PSNR have 95 % intervals over sources (`_low` and `_high`).

    Raises:
        UserError: training diverged.
    """
    with progress_bar(1, "training without a split") as advance, session(progress=advance):
        [right] = cloud_accuracies(
            cloud_of(config, parts),
            config.cloud,
            [reference_key(config.seed)],
            [image_features(parts).parts],
            [parts],
        )
    check_converges("the reference without a split", CLOUD, bool(right))
    known = {"knowledge": "auxiliary images"}
    guessed, sources = _guessed(parts), parts.test.clusters()
    guessing = AttackResult.of_images(MEAN_IMAGE, guessed, known).columns()
    psnr = bootstrap(guessed["test"]["psnr_db"], mean_of, sources)
    guessing |= psnr.columns("psnr_db_mean")
    accuracy = accuracy_columns(right, {part: getattr(parts, part).answers for part in REPORTED})
    accuracy |= bootstrap(of_images(right["test"]), mean_of, sources).columns("accuracy")
    return [
        {"reference": "no_split", **accuracy, **dict.fromkeys(guessing, "")},
        {"reference": "mean_image", **dict.fromkeys(accuracy, ""), **guessing},
    ]


def attacked_pictures(parts: Parts) -> dict[str, np.ndarray]:
    """Returns what is known of the test images before anybody attacks them (`ResultStore`)."""
    known = {
        "labels": parts.test.labels,
        "class_names": np.array(parts.class_names),
        "sources": parts.test.clusters(),
        "label_names": np.array(parts.label_names, str),
    }
    guessed = _guessed(parts)["test"]
    return known | {f"mean_image_{name}": values for name, values in guessed.items()}


def _guessed(parts: Parts) -> dict[str, dict[str, np.ndarray]]:
    """Part -> metric -> how good an answer the auxiliary mean image is to each image."""
    total = sum(batch.sum(axis=0, dtype=np.float64) for batch in _batches(parts.auxiliary))
    guess, found = np.float32(total / len(parts.auxiliary)), {}
    for part in REPORTED:
        batches = _batches(getattr(parts, part))
        values = [_quality(np.broadcast_to(guess, batch.shape), batch) for batch in batches]
        found[part] = {name: np.concatenate([v[name] for v in values]) for name in values[0]}
    return found


def _batches(part: Part) -> Iterator[np.ndarray]:
    # As floats, all images may not fit into memory.
    starts = range(0, len(part), _BATCH)
    return (as_float(part.images[start : start + _BATCH]) for start in starts)
