"""Which rows a cloud NN learns from, which are held out, and by what settings.

    settings = ClassifierSettings(Schedule(steps=2000, batch_size=64), patience=6)
    dealt = deal(join_releases([release]), settings)
    dealt.training, dealt.validation  # int [n] each

Rows stay on their side as others come and go: `held_out` says how.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from privynet_jax.deployment.cloud.classifier import Classifier
from privynet_jax.deployment.cloud.contributions import Contributions
from privynet_jax.deployment.cloud.held_out import bounds_of, chances_of
from privynet_jax.deployment.cloud.learning_on import bounds_as_before, check_start
from privynet_jax.errors import UserError
from privynet_jax.training.courses.release_training import ReleaseTraining, check_counts
from privynet_jax.training.models.networks import CloudNN, network_for

_MOST_EVENED = 2**24  # numbers of rows
_AS_BEFORE = ("width", "validation_fraction", "seed")  # of a classifier that learns on


@dataclasses.dataclass(frozen=True)
class ClassifierSettings(ReleaseTraining):
    """What decides a training, besides the releases.

    Attributes:
        schedule, validation_fraction, patience: as of `ReleaseTraining`.
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


def deal(
    data: Contributions, settings: ClassifierSettings, start: Classifier | None = None
) -> Dealt:
    """Deals rows out, class by class, by what they are and the seed; UserError if that cannot be.

    What a classifier to start from held out is held out again, and nothing that it learnt.
    """
    labels, several = data.labels, data.labels.ndim == 2
    _check_labels(labels)
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


def _check_labels(labels: np.ndarray) -> None:
    if labels.ndim == 1:
        if len(present := np.unique(labels)) < 2:
            raise UserError(
                f"there are rows of {len(present)} class; at least 2 are needed; release pictures "
                "of more classes"
            )
        return
    if not _asked(labels).any():
        raise UserError(
            "no label is there in some rows and missing in others, so there is nothing to learn; "
            "release pictures of both kinds"
        )


def shares_of(labels: np.ndarray) -> tuple[float, ...]:
    """Returns what share of rows has each label, of int [N, K], as if one more had and one had not.

    So that a label which all have, or none, gives no infinite weight.
    """
    counts = np.array([(labels == value).sum(axis=0) + 1 for value in (0, 1)])
    return tuple((counts[1] / counts.sum(axis=0)).tolist())


def _asked(labels: np.ndarray) -> np.ndarray:
    """Which labels, of int [N, K], are there in some rows and missing in others, bool [K]."""
    return (labels == 0).any(axis=0) & (labels == 1).any(axis=0)


def evened(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns rows, int [n], with those of rarer classes repeated until all have as many."""
    found, counts = np.unique(labels[rows], return_counts=True)
    if len(found) * counts.max() > _MOST_EVENED:
        raise UserError(
            f"{len(found)} classes, of which one has {counts.max()} rows, cannot be balanced by "
            "repeating the others; train without --balanced, or release less of that class"
        )
    return np.concatenate([np.resize(rows[labels[rows] == label], counts.max()) for label in found])
