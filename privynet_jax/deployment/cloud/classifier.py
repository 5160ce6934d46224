"""A trained cloud NN: representations in, probabilities of classes out; and its folder.

A folder holds `params/` (Orbax), `history.csv` and `classifier.json`, which tells what the network
is, and the sha256 of the rest.

    save_classifier(Path("runs/classifier"), classifier)
    classifier = open_classifier(Path("runs/classifier"))
    classifier.probabilities(release.representations)  # float32 [N, num_classes]
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.platform.digests import read_version, sealed, sha256_of_files, verify_files
from privynet_jax.platform.files import appears_whole, damaged_if
from privynet_jax.platform.row_views import RowView
from privynet_jax.training.checkpoints import load_tree, save_tree
from privynet_jax.training.models.networks import WORKING_STRIDE, CloudNN, cloud_nn
from privynet_jax.training.prediction import predicted
from privynet_jax.training.tasks import cloud_task

_FORMAT = "privynet_jax classifier 1"
_MANIFEST, _HISTORY, _PARAMS = "classifier.json", "history.csv", "params"
_TRAIN_ANEW = "delete the folder and train again"
# A working grid has at least so many positions along a side, where folding allows.
_LEAST_SIDE = 8


class Validation(NamedTuple):
    """A row of `history.csv`."""

    step: int
    loss: float  # mean since the validation before, or NaN
    validation_accuracy: float
    validation_loss: float


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A trained cloud NN."""

    params: Mapping[str, Any]  # of `networks.CloudNN`, NumPy arrays
    shape: tuple[int, int, int]  # height, width and channels of one representation
    num_classes: int
    width: int
    release: str  # id of the release that it was trained on
    settings: Mapping[str, Any]  # of the training, by name
    history: tuple[Validation, ...]  # the one before the first step included

    @property
    def best(self) -> Validation:
        """The validation whose parameters were kept: of equals the first."""
        return max(self.history, key=lambda now: (now.validation_accuracy, -now.validation_loss))

    def probabilities(self, representations: np.ndarray | jax.Array | RowView) -> np.ndarray:
        """Returns the probability of every class, float32 [N, num_classes]; rows sum to 1.

        They are of [N, h, w, d] representations of any floating type, normalised as a release's
        are; an array, or what reads its rows.

        Raises:
            UserError: they have another shape than those of the training, or are not finite.
        """
        self.check_fits(representations.shape[1:], None, "the input")
        if not representations.shape[0]:
            return np.zeros((0, self.num_classes), np.float32)
        task = cloud_task(network_for(self.shape, self.num_classes, self.width))
        logits = predicted(task, self.params, (), representations)
        if not np.isfinite(logits).all():
            row = int(np.argmin(np.isfinite(logits).all(axis=-1)))
            raise UserError(
                f"representation {row} holds a value that is no number of a release: negative, "
                "infinite or NaN; release the pictures again"
            )
        return np.asarray(jax.nn.softmax(logits, axis=-1))

    def check_fits(self, shape: tuple[int, ...], num_classes: int | None, whose: str) -> None:
        """Raises UserError for somebody's representations or number of classes, if other ones."""
        if tuple(shape) != self.shape:
            raise UserError(
                f"{whose}: representations of {times(shape)} do not fit the classifier, which was "
                f"trained on {times(self.shape)} (height x width x channels); give what belongs "
                "together"
            )
        if num_classes not in (None, self.num_classes):
            raise UserError(
                f"{whose} has {num_classes} classes, but the classifier tells {self.num_classes} "
                "apart; give what belongs together"
            )


def save_classifier(folder: Path, classifier: Classifier) -> None:
    """Writes a classifier's folder, which appears whole or not at all; UserError if it exists."""
    with appears_whole(folder) as partial:
        save_tree(partial / _PARAMS, classifier.params)
        rows = [",".join(map(repr, validation)) for validation in classifier.history]
        table = "\n".join([",".join(Validation._fields), *rows]) + "\n"
        (partial / _HISTORY).write_text(table, encoding="utf-8")
        manifest = {
            "format": _FORMAT,
            "release": classifier.release,
            "shape": list(classifier.shape),
            "num_classes": classifier.num_classes,
            "width": classifier.width,
            "validation_accuracy": classifier.best.validation_accuracy,
            "steps": classifier.best.step,
            "settings": dict(classifier.settings),
            "files": sha256_of_files(partial),
        }
        (partial / _MANIFEST).write_text(sealed(manifest), encoding="utf-8")


def is_classifier(folder: Path) -> bool:
    """Whether a folder was written by `save_classifier`, be it damaged or not."""
    return (folder / _MANIFEST).is_file()


def open_classifier(folder: Path) -> Classifier:
    """Returns a classifier, after checking every file; UserError: it is none, or damaged."""
    folder = folder.absolute()
    if not is_classifier(folder):
        what = "a folder without classifier.json" if folder.is_dir() else "no folder"
        raise UserError(f"{folder} is {what}; give the --out of experiments.train_cloud")
    content = read_version(folder / _MANIFEST, "format", _FORMAT, _TRAIN_ANEW)
    with damaged_if(folder / _MANIFEST, "description", ValueError, KeyError, TypeError):
        # TensorStore would notice damage too, but in threads of its own, which print tracebacks.
        verify_files(folder, dict(content["files"]), _TRAIN_ANEW)
    params = load_tree(folder / _PARAMS, "classifier")
    with damaged_if(folder, "classifier", ValueError, KeyError, TypeError):
        _, *lines = (folder / _HISTORY).read_text(encoding="utf-8").splitlines()
        rows = [line.split(",") for line in lines]
        history = tuple(Validation(int(step), *map(float, rest)) for step, *rest in rows)
        told = {name: content[name] for name in ("num_classes", "width", "release", "settings")}
        return Classifier(params=params, shape=tuple(content["shape"]), history=history, **told)


def nominal_image_size(side: int) -> int:
    """Returns the `image_size` that makes `CloudNN` work on the grid that suits a side.

    The cloud does not know the images' size, which is what the network folds by, but any size that
    leads to a good working grid will do: representations are folded by the largest f of 4, 2, 1
    that leaves at least 8 positions, and smaller ones are unfolded to 8 or as near as the
    network's factors 2 and 4 come. For images of 32 x 32 that is the grid of the
    characterisation, at every layer.
    """
    for folding in (WORKING_STRIDE, WORKING_STRIDE // 2):
        if side % folding == 0 and side // folding >= _LEAST_SIDE:
            return WORKING_STRIDE * (side // folding)
    unfolding = next((factor for factor in (1, 2) if side * factor >= _LEAST_SIDE), 4)
    return WORKING_STRIDE * side * unfolding


def network_for(shape: tuple[int, ...], num_classes: int, width: int) -> CloudNN:
    """Returns the cloud NN for representations of a shape (h, w, d); UserError: no squares."""
    if len(shape) != 3 or shape[0] != shape[1] or min(shape) < 1:
        raise UserError(
            f"representations of {times(shape)} values; allowed are squares, height x height x "
            "channels, as releases of this project hold them"
        )
    return cloud_nn(num_classes, nominal_image_size(shape[0]), width)


def times(shape: tuple[int, ...]) -> str:
    """Returns a shape as a person writes it."""
    return " x ".join(map(str, shape))
