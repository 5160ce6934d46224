"""Attribute inference: a label that nobody released, told from representations.

The attacker owns auxiliary images with their representations, so it knows the attribute of each,
trains a classifier, and asks it about test images (Song and Raghunathan 2020, arXiv:2004.00053, do
the same to embeddings of text). Some attributes follow from the picture itself, some come with the
data set, such as photo_patches' scale: `feature:scale`.

    values = attribute_values("brightness", parts, data_dir=None)  # "test" -> int [N]
    own, attacked = Labelled(x, values["auxiliary"]), Labelled(x_test, values["test"])
    answering = learn(own, CloudNN(3, image_size=32), schedule, key)
    share_right(answering, attacked).mean()
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from privynet_jax.attacks.inference.classifiers import Labelled, logits_of, train_classifiers
from privynet_jax.errors import UserError
from privynet_jax.estimates.linear_probe import (
    fit_probe,
    gather_probe_sums,
    pool_rows,
    probe_scores,
)
from privynet_jax.images.decoding import decode_or_skip
from privynet_jax.images.folders import FOLDER_PREFIX
from privynet_jax.images.parts import Parts
from privynet_jax.images.sample import digest_of
from privynet_jax.platform.progress import Bar
from privynet_jax.training.models.networks import CloudNN
from privynet_jax.training.tasks import Schedule

FEATURE_PREFIX = "feature:"
# Of labels, as in "classes:0+2+3/1/4+5".
CLASSES_PREFIX, _BETWEEN_GROUPS, _BETWEEN_CLASSES = "classes:", "/", "+"
PARTS = ("auxiliary", "test")
_LEVELS = 3
# Attributes that follow from the picture itself -> how many values each has.
COUNTS = {"brightness": _LEVELS, "contrast": _LEVELS, "colour": 3}
REPEATS = 2
# Representations [N, h, w, D], or what reads their rows -> int [classifiers, N], their answers.
Answering = Callable[[Any], np.ndarray]


def learn(
    own: Labelled, network: CloudNN, schedule: Schedule, key: jax.Array, repeats: int = REPEATS
) -> Answering:
    """Trains so many classifiers on the attacker's images, each for a schedule."""
    everything = [np.arange(len(own.labels))] * repeats
    trained = train_classifiers(own, everything, network, schedule, key)
    return lambda asked: logits_of(trained, network, asked).argmax(axis=-1)


def learn_probe(own: Labelled, num_values: int) -> Answering:
    """Fits a linear classifier (`linear_probe`) on the attacker's images.

    It finds at once what a network trained for seconds may not have begun to: how strongly
    channels respond over the whole picture.
    """
    channels = own.representations.shape[-1]
    sums = gather_probe_sums(own.representations, own.labels, num_values)
    probe = fit_probe(sums, range(channels), channels)
    return lambda asked: probe_scores(probe, pool_rows(asked)).argmax(axis=1)[None]


def share_right(answering: Answering, attacked: Labelled) -> np.ndarray:
    """Returns float64 [N], the share of the classifiers that are right about an attacked image."""
    return (answering(attacked.representations) == attacked.labels).mean(axis=0)


def majority_right(own_values: np.ndarray, attacked_values: np.ndarray) -> np.ndarray:
    """Returns float64 [N]: who is right that always answers the attacker's most frequent value."""
    return np.float64(attacked_values == np.bincount(own_values).argmax())


def attribute_values(
    attribute: str, parts: Parts, data_dir: Path | str | None
) -> dict[str, np.ndarray]:
    """Returns auxiliary and test images' values of an attribute: int [N] each, from 0.

    "brightness" and "contrast" are in thirds of the auxiliary images; "colour" is which of red,
    green and blue stands out most against their mean, "class" the label itself, for comparison,
    "classes:0+2/1" the group that it is in, and "feature:NAME" a whole number of a TFDS data set.

    Raises:
        UserError: the attribute is unknown, or the same for all images.
    """
    check_attributes([attribute])
    if attribute.startswith(FEATURE_PREFIX):
        found = _feature_values(attribute.removeprefix(FEATURE_PREFIX), parts, data_dir)
    elif attribute.startswith(CLASSES_PREFIX):
        group_of = _groups(attribute, parts.num_classes)
        found = {name: group_of[getattr(parts, name).labels] for name in PARTS}
    elif attribute == "class":
        found = {name: getattr(parts, name).labels.astype(int) for name in PARTS}
    else:
        numbers = {name: _MEASURES[attribute](getattr(parts, name).images) for name in PARTS}
        found = _as_classes(numbers)
    if len(np.unique(found["auxiliary"])) < 2:
        raise UserError(f"{attribute} is the same for all auxiliary images: nothing to infer")
    return found


def check_attributes(attributes: Sequence[str]) -> None:
    """Raises UserError where there is no attribute, one is given twice, or one is unknown.

    Which features there are, only the images tell.
    """
    if not attributes or len(set(attributes)) < len(attributes):
        raise UserError(f"attributes {','.join(attributes)!r}; give one or more, each once")
    for attribute in attributes:
        named = attribute.startswith((FEATURE_PREFIX, CLASSES_PREFIX))
        if not named and attribute not in ("class", *_MEASURES):
            forms = f"{CLASSES_PREFIX}0+2/1", f"{FEATURE_PREFIX}NAME"
            known = ", ".join(["class", *_MEASURES, *forms])
            raise UserError(f"attribute {attribute!r}; allowed are {known}")


def count_of(values: Mapping[str, np.ndarray]) -> int:
    """Returns how many values an attribute may have."""
    return int(max(mine.max() for mine in values.values())) + 1


def _groups(attribute: str, num_classes: int) -> np.ndarray:
    """Label -> number of its group, int [num_classes]."""
    groups = [
        group.split(_BETWEEN_CLASSES)
        for group in attribute.removeprefix(CLASSES_PREFIX).split(_BETWEEN_GROUPS)
    ]
    place = {name: number for number, group in enumerate(groups) for name in group}
    named = sorted(itertools.chain.from_iterable(groups))
    if named != sorted(map(str, range(num_classes))):
        raise UserError(
            f"attribute {attribute!r} does not name each of the classes 0 to {num_classes - 1} "
            f"once; give groups of all of them, as in {CLASSES_PREFIX}0+2/1"
        )
    return np.array([place[str(label)] for label in range(num_classes)])


def _means(images: np.ndarray) -> np.ndarray:
    return images.mean(axis=(1, 2, 3), dtype=np.float64)[:, None]


def _deviations(images: np.ndarray) -> np.ndarray:
    return images.mean(axis=3, dtype=np.float64).std(axis=(1, 2))[:, None]


def _casts(images: np.ndarray) -> np.ndarray:
    """float64 [N, 3], each channel's mean above that of the three."""
    colours = images.mean(axis=(1, 2), dtype=np.float64)
    return colours - colours.mean(axis=1, keepdims=True)


_MEASURES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "brightness": _means,
    "contrast": _deviations,
    "colour": _casts,
}


def _as_classes(numbers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    own = numbers["auxiliary"]
    if own.shape[1] > 1:
        return {name: np.argmax(x - own.mean(axis=0), axis=1) for name, x in numbers.items()}
    bounds = np.quantile(own[:, 0], np.arange(1, _LEVELS) / _LEVELS)
    return {name: np.searchsorted(bounds, x[:, 0]) for name, x in numbers.items()}


def _feature_values(
    feature: str, parts: Parts, data_dir: Path | str | None
) -> dict[str, np.ndarray]:
    """Parts do not keep features, so pictures are known again by their pixels."""
    if parts.name.startswith(FOLDER_PREFIX):
        raise UserError(f"{parts.name} has no features; allowed are class, {', '.join(_MEASURES)}")
    by_digest: dict[str, int] = {}
    # Not above: mechanisms import this module, and so would whoever has no TFDS.
    from privynet_jax.images.tfds_source import read_feature

    examples = Bar(read_feature(parts.name, data_dir, feature), desc=f"reading {feature}", delay=2)
    for number, (data, value) in enumerate(examples):
        picture = decode_or_skip(data, parts.image_size, f"example {number}", skip=True)
        if picture is not None:
            by_digest[digest_of(picture)] = value
    try:
        found = {
            name: np.array([by_digest[digest_of(image)] for image in getattr(parts, name).images])
            for name in PARTS
        }
    except KeyError:
        raise UserError(
            f"an image is not in {parts.name} as it lies there now; give the same --data_dir"
        ) from None
    values = np.unique(np.concatenate(list(found.values())))
    return {name: np.searchsorted(values, mine) for name, mine in found.items()}
