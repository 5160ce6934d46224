"""A trained cloud NN: representations in, probabilities of classes out; and its folder.

A folder holds `params.safetensors`, `history.csv` for people, and `classifier.json`, which tells
what the network is, and the sha256 of the others. It comes from the cloud, which may be the
adversary: what the device takes of it is checked before memory is given to it. No JAX here: devices
run this, by the network of their package.

    save_classifier(Path("runs/classifier"), classifier)
    classifier = open_classifier(Path("runs/classifier"))
    classifier.probabilities(release.representations)  # float32 [N, num_classes]
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from privynet_jax.deployment.cloud.cloud_parameters import parameter_shapes, read_parameters
from privynet_jax.deployment.trust.keys import PrivateKey
from privynet_jax.deployment.trust.signatures import ANYBODY, Trust, sign
from privynet_jax.errors import UserError
from privynet_jax.platform.digests import sha256_of_files, verify_files
from privynet_jax.platform.documents import Count, Hex64, Share, Text, read_document, write_document
from privynet_jax.platform.files import appears_whole, write_atomically
from privynet_jax.platform.onnx_files.onnx_run import REPRESENTATIONS, OnnxRun
from privynet_jax.platform.rows.row_views import RowView
from privynet_jax.results.text_tables import as_csv
from privynet_jax.training.models.grid_sizes import check_is_square

_VERSION = 4
_MANIFEST, _HISTORY, _PARAMS = "classifier.json", "history.csv", "params.safetensors"
_TRAIN_ANEW = "copy it again, or delete the folder and train again"
# Values of one representation, as of a release.
_MOST_VALUES = 2**32
_ROWS_AT_ONCE = 128
_LARGEST_LOGIT = np.float32(80)  # of which the exponential function is a float32


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
    classes: tuple[Hex64, ...]
    width: Count
    data: Hex64
    plan_id: Hex64
    start: Hex64 | None = None
    held_out: tuple[Share, ...]
    settings: dict[Text, int | float]
    several: bool = False
    balanced_accuracy: Share
    commonest_class_share: Share
    average_precision: Share | None = None
    history: tuple[Validation, ...]

    def __post_init__(self) -> None:
        if math.prod(self.shape) > _MOST_VALUES or not self.history:
            raise UserError("representations too large, or no validation")
        check_is_square(self.shape)
        if not self.classes or list(self.classes) != sorted({*self.classes}):
            raise UserError("classes that do not ascend, each once")
        if len(self.held_out) != len(self.classes):
            raise UserError("held_out is not one number per class")

    @property
    def num_classes(self) -> int:
        """How many classes are told apart."""
        return len(self.classes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Manifest(Description):
    files: dict[Text, Hex64]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Classifier(Description):
    """A trained cloud NN.

    Attributes:
        shape: height, width and channels of one representation.
        classes: ids of those that it tells apart, ascending; see `secret_draw.class_ids`.
        width: channels of the network.
        data: `Contributions.id`: what it was trained on.
        plan_id: of the plan behind that.
        held_out: of each class, below which chance rows were; see `held_out.bounds_of`.
        start: `id` of the classifier that it learnt on from; None of one trained from nothing.
        settings: of the training, by name.
        several: whether a row may have several classes, or none: each is a question of its own.
        balanced_accuracy: of the rows held out, the mean over classes of the accuracy in each. With
            several, the mean over classes of how often those that have it, and those that have not,
            are told (at a probability of a half).
        commonest_class_share: of those, what always answering the commonest class would give.
        average_precision: with several, its mean over classes; None without.
        history: all validations, the one before the first step included.
        params: of `networks.CloudNN`, by their paths in its tree: "params/Dense_0/bias".
        network: the file that `cloud_graph` makes; made here where it is not given.
        id: 64 hexadecimal digits, of the folder that it was read from.
    """

    params: Mapping[str, np.ndarray]
    network: bytes = b""
    id: str = ""

    @property
    def best(self) -> Validation:
        """The validation whose parameters were kept: of equals the first."""
        if self.several:
            return min(self.history, key=lambda now: now.validation_loss)
        return max(self.history, key=lambda now: (now.validation_accuracy, -now.validation_loss))

    def probabilities(self, representations: np.ndarray | RowView) -> np.ndarray:
        """Returns the probability of every class, float32 [N, num_classes].

        Rows sum to 1, but for `several`.

        They are of [N, h, w, d] representations of any floating type, normalised as a release's
        are; an array, or what reads its rows.

        Raises:
            UserError: they have another shape than those of the training, or are not finite.
        """
        self.check_fits(representations.shape[1:], "")
        if not representations.shape[0]:
            return np.zeros((0, self.num_classes), np.float32)
        starts = range(0, representations.shape[0], _ROWS_AT_ONCE)
        some = (np.float32(representations[start : start + _ROWS_AT_ONCE]) for start in starts)
        logits = [self._run.run({**self.params, REPRESENTATIONS: rows}) for rows in some]
        logits = np.concatenate(logits)
        if not np.isfinite(logits).all():
            row = int(np.argmin(np.isfinite(logits).all(axis=-1)))
            values = np.float32(representations[row : row + 1])
            if np.isfinite(values).all():
                raise UserError(f"the classifier gives no numbers; {_TRAIN_ANEW}")
            raise UserError(
                f"representation {row} holds a value that is no number of a release: infinite "
                "or NaN; release the pictures again, or copy the package again"
            )
        if self.several:
            return 1 / (1 + np.exp(-np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT)))
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)

    @functools.cached_property
    def _run(self) -> OnnxRun:
        if self.network:
            return OnnxRun(self.network, _TRAIN_ANEW)
        # Not on devices, which have no onnx to make it with.
        from privynet_jax.deployment.cloud.cloud_graph import cloud_graph

        return OnnxRun(cloud_graph(self.shape), _TRAIN_ANEW)

    def check_fits(self, shape: tuple[int, ...], whose: str) -> None:
        """Raises UserError for somebody's representations of another shape."""
        if tuple(shape) != self.shape:
            raise UserError(
                f"{whose and f'{whose}: '}representations of {times(shape)} do not fit the "
                f"classifier, which was trained on {times(self.shape)} (height x width x "
                "channels); give what belongs together"
            )

    def labels_of(self, labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        """Returns labels int [N] of a release's classes as places among these, -1 for none.

        With several, int [N, num_classes] of 0, 1 and -1.
        """
        places = {class_id: place for place, class_id in enumerate(self.classes)}
        if self.several:
            found = np.full((len(labels), self.num_classes), -1)
            for column, class_id in enumerate(classes):
                if class_id in places:
                    found[:, places[class_id]] = labels[:, column]
            return found
        return np.array([places.get(class_id, -1) for class_id in classes])[labels]


def save_classifier(folder: Path, classifier: Classifier, key: PrivateKey | None = None) -> None:
    """Writes a classifier's folder, which appears whole or not at all; UserError if it exists.

    Where there is a key, it is signed.
    """
    import safetensors.numpy  # devices, which train nothing, do without

    with appears_whole(folder) as partial:
        partial.mkdir()
        write_atomically(partial / _PARAMS, safetensors.numpy.save(dict(classifier.params)))
        table = as_csv([validation._asdict() for validation in classifier.history])
        write_atomically(partial / _HISTORY, table)
        manifest = _Manifest(**_described(classifier), files=sha256_of_files(partial))
        write_document(partial / _MANIFEST, manifest, _VERSION)
        sign_classifier(partial, key)


def sign_classifier(folder: Path, key: PrivateKey | None) -> None:
    """Signs a classifier's folder, if there is a key."""
    sign(folder / _MANIFEST, "classifier", key)


def is_classifier(folder: Path) -> bool:
    """Whether a folder was written by `save_classifier`, be it damaged or not."""
    return (folder / _MANIFEST).is_file()


def open_classifier(folder: Path, network: bytes = b"", trust: Trust = ANYBODY) -> Classifier:
    """Returns a classifier from its folder, after checking every file.

    A device gives the network's file that its package holds, and so runs no other.

    Raises:
        UserError: the folder is no classifier, of another version, damaged or inconsistent, or
            nobody who is trusted signed it.
    """
    path = folder / _MANIFEST
    try:
        what = "description of a classifier"
        held, _ = trust.checked("classifier", path)
        manifest = read_document(held, _Manifest, _VERSION, _TRAIN_ANEW, what=what)
    except (FileNotFoundError, NotADirectoryError):
        what = f"a folder without {_MANIFEST}" if folder.is_dir() else "no folder"
        raise UserError(f"{folder} is {what}; give the --out of experiments.train_cloud") from None
    if manifest.files.keys() != {_HISTORY, _PARAMS}:
        raise UserError(f"{path} lists other files than a classifier has; {_TRAIN_ANEW}")
    verify_files(folder, manifest.files, _TRAIN_ANEW)
    shapes = parameter_shapes(manifest.shape, manifest.num_classes, manifest.width)
    params = read_parameters(folder / _PARAMS, shapes, _TRAIN_ANEW)
    told = _described(manifest)
    return Classifier(
        **told, params=params, network=network, id=hashlib.sha256(held.content).hexdigest()
    )


def _described(told: Description) -> dict[str, Any]:
    return {field.name: getattr(told, field.name) for field in dataclasses.fields(Description)}


def check_same_plan(ids: Mapping[str, str]) -> None:
    """Raises UserError unless all, name -> plan id, are of one plan."""
    (first, plan_id), *others = ids.items()
    for name, other in others:
        if other != plan_id:
            raise UserError(f"{first} is of another plan than {name}; give what belongs together")


def times(shape: tuple[int, ...]) -> str:
    """Returns a shape as a person writes it."""
    return " x ".join(map(str, shape))
