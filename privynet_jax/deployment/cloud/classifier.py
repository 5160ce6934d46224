"""A trained cloud NN: representations in, probabilities of classes out; and its folder.

A folder holds `params.safetensors`, `history.csv` for people, and `classifier.json`, which tells
what the network is, and the sha256 of the others. It comes from the cloud, which may be the
adversary: what the device takes of it is checked before memory is given to it.

    save_classifier(Path("runs/classifier"), classifier)
    classifier = open_classifier(Path("runs/classifier"))
    classifier.probabilities(release.representations)  # float32 [N, num_classes]
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy

from privynet_jax.errors import UserError
from privynet_jax.platform.digests import sha256_of_files, verify_files
from privynet_jax.platform.documents import Count, Hex64, Share, Text, read_document, write_document
from privynet_jax.platform.files import appears_whole, damaged_if, write_atomically
from privynet_jax.platform.rows.row_views import RowView
from privynet_jax.results.text_tables import as_csv
from privynet_jax.training.models.networks import network_for
from privynet_jax.training.prediction import predicted
from privynet_jax.training.tasks import cloud_task

_VERSION = 2
_MANIFEST, _HISTORY, _PARAMS = "classifier.json", "history.csv", "params.safetensors"
_TRAIN_ANEW = "copy it again, or delete the folder and train again"
# Values of one representation, as of a release.
_MOST_VALUES = 2**32


class Validation(NamedTuple):
    """A row of `history.csv`."""

    step: int
    loss: float | None  # mean since the validation before; None of the first
    validation_accuracy: Share
    validation_loss: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """All that is told of a classifier but its parameters; see `Classifier`."""

    shape: tuple[Count, Count, Count]
    num_classes: Count
    width: Count
    release: Hex64
    plan_id: Hex64
    settings: dict[Text, int | float]
    balanced_accuracy: Share
    commonest_class_share: Share
    history: tuple[Validation, ...]

    def __post_init__(self) -> None:
        if math.prod(self.shape) > _MOST_VALUES or not self.history:
            raise UserError("representations too large, or no validation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Manifest(Description):
    files: dict[Text, Hex64]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Classifier(Description):
    """A trained cloud NN.

    Attributes:
        shape: height, width and channels of one representation.
        num_classes: that it tells apart.
        width: channels of the network.
        release: id of the release that it was trained on.
        plan_id: of the plan behind that.
        settings: of the training, by name.
        balanced_accuracy: of the rows held out, the mean over classes of the accuracy in each.
        commonest_class_share: of those, what always answering the commonest class would give.
        history: all validations, the one before the first step included.
        params: of `networks.CloudNN`, NumPy arrays.
    """

    params: Mapping[str, Any]

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
        self.check_fits(representations.shape[1:], None, "")
        if not representations.shape[0]:
            return np.zeros((0, self.num_classes), np.float32)
        task = cloud_task(network_for(self.shape, self.num_classes, self.width))
        logits = predicted(task, self.params, (), representations)
        if not np.isfinite(logits).all():
            row = int(np.argmin(np.isfinite(logits).all(axis=-1)))
            raise UserError(
                f"representation {row} holds a value that is no number of a release: negative, "
                "infinite or NaN; release the pictures again, or copy the package again"
            )
        return np.asarray(jax.nn.softmax(logits, axis=-1))

    def check_fits(self, shape: tuple[int, ...], num_classes: int | None, whose: str) -> None:
        """Raises UserError for somebody's representations or number of classes, if other ones."""
        if tuple(shape) != self.shape:
            raise UserError(
                f"{whose and f'{whose}: '}representations of {times(shape)} do not fit the "
                f"classifier, which was trained on {times(self.shape)} (height x width x "
                "channels); give what belongs together"
            )
        if num_classes not in (None, self.num_classes):
            raise UserError(
                f"{whose} has {num_classes} classes, but the classifier tells {self.num_classes} "
                "apart; give what belongs together"
            )


def save_classifier(folder: Path, classifier: Classifier) -> None:
    """Writes a classifier's folder, which appears whole or not at all; UserError if it exists."""
    with appears_whole(folder) as partial:
        partial.mkdir()
        leaves = jax.tree_util.tree_flatten_with_path(classifier.params)[0]
        tensors = {_name(path): np.ascontiguousarray(array) for path, array in leaves}
        write_atomically(partial / _PARAMS, safetensors.numpy.save(tensors))
        table = as_csv([validation._asdict() for validation in classifier.history])
        write_atomically(partial / _HISTORY, table)
        manifest = _Manifest(**_described(classifier), files=sha256_of_files(partial))
        write_document(partial / _MANIFEST, manifest, _VERSION)


def is_classifier(folder: Path) -> bool:
    """Whether a folder was written by `save_classifier`, be it damaged or not."""
    return (folder / _MANIFEST).is_file()


def open_classifier(folder: Path) -> Classifier:
    """Returns a classifier from its folder, after checking every file.

    Raises:
        UserError: the folder is no classifier, of another version, damaged or inconsistent.
    """
    path = folder / _MANIFEST
    try:
        what = "description of a classifier"
        manifest = read_document(path, _Manifest, _VERSION, _TRAIN_ANEW, what=what)
    except (FileNotFoundError, NotADirectoryError):
        what = f"a folder without {_MANIFEST}" if folder.is_dir() else "no folder"
        raise UserError(f"{folder} is {what}; give the --out of experiments.train_cloud") from None
    if manifest.files.keys() != {_HISTORY, _PARAMS}:
        raise UserError(f"{path} lists other files than a classifier has; {_TRAIN_ANEW}")
    verify_files(folder, manifest.files, _TRAIN_ANEW)
    params = _read_params(folder / _PARAMS, manifest)
    return Classifier(**_described(manifest), params=params)


def _described(told: Description) -> dict[str, Any]:
    return {field.name: getattr(told, field.name) for field in dataclasses.fields(Description)}


def _read_params(path: Path, told: Description) -> Mapping[str, Any]:
    """The parameters, if the file holds those of the network that is told and no others."""
    network = network_for(told.shape, told.num_classes, told.width)
    with damaged_if(path, "file of a classifier's parameters", Exception):
        one = jax.ShapeDtypeStruct((1, *told.shape), np.float32)
        expected = jax.eval_shape(network.init, jax.random.key(0), one)
        leaves, structure = jax.tree_util.tree_flatten_with_path(expected)
        shapes = {_name(place): (leaf.shape, "F32") for place, leaf in leaves}
        with safetensors.safe_open(path, framework="numpy") as file:
            views = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {n: (tuple(view.get_shape()), view.get_dtype()) for n, view in views.items()}
            if found != shapes:
                raise ValueError("its tensors are not those of the network that is described")
            tensors = {name: file.get_tensor(name) for name in shapes}
    # Else the representations would be blamed for what comes out.
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise UserError(f"{path}: {name} holds NaN or infinity; {_TRAIN_ANEW}")
    return jax.tree.unflatten(structure, list(tensors.values()))


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def check_same_plan(ids: Mapping[str, str]) -> None:
    """Raises UserError unless all, name -> plan id, are of one plan."""
    (first, plan_id), *others = ids.items()
    for name, other in others:
        if other != plan_id:
            raise UserError(f"{first} is of another plan than {name}; give what belongs together")


def times(shape: tuple[int, ...]) -> str:
    """Returns a shape as a person writes it."""
    return " x ".join(map(str, shape))
