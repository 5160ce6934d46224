"""Turns a weight file's tensors into the trunk's parameters, or names all that is wrong with them.

Tensors (from `tensor_files` or `checkpoint`) are read on demand, and shapes are compared before any
number is read. So a file of the wrong kind is refused without being read, and the classifier of a
complete VGG16, nine tenths of the file, never is. NumPy only.

    params = params_from_tensors(tensors, layout, "vgg16.pth")
    params["conv1_1"]["kernel"].shape  # (3, 3, 3, 64)
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from privynet_jax.backbone.weights.families import BATCH_NORM_EPSILON, TensorLayout
from privynet_jax.errors import UserError
from privynet_jax.platform.files import damaged_if

Params = dict[str, dict[str, np.ndarray]]


class StoredTensor(NamedTuple):
    """A tensor inside a weight file: its shape and type at once, its numbers on demand."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name of it, or the format's own where NumPy has none
    load: Callable[[], np.ndarray]

    @classmethod
    def of(cls, array: np.ndarray) -> "StoredTensor":
        """Wraps an array that is in memory already."""
        return cls(array.shape, array.dtype.name, lambda: array)

    def told_if_damaged(self, path: Path, kind: str) -> "StoredTensor":
        """Returns it with a `load` that says which file is damaged, whatever a library raises."""

        def load() -> np.ndarray:
            with damaged_if(path, kind, Exception):
                return self.load()

        return self._replace(load=load)


def params_from_tensors(
    tensors: Mapping[str, StoredTensor], layout: TensorLayout, origin: str = "the weights"
) -> Params:
    """Converts a file's tensors to the parameters of all layers, with their input transform.

    They are new C-contiguous float32 arrays, kernels HWIO; batch normalisation is folded into the
    convolution before it.

    Raises:
        UserError: names the origin, and every missing, unknown, wrongly shaped or non-finite tensor
            at once.
    """
    misfit = f"{origin} do not fit {layout.backbone.title}"
    arrays = _checked_arrays(tensors, layout, misfit)
    params: Params = {"preprocessing": {name: np.array(a) for name, a in layout.input.items()}}
    for layer in layout.backbone.convolutions():
        kernel, bias = (arrays[name] for name in layout.names[layer.name])
        kernel = kernel.transpose(layout.kernel_to_hwio)
        if layer.name in layout.norms:
            norm = (arrays[name] for name in layout.norms[layer.name])
            kernel, bias = _folded(kernel, bias, norm)
            largest = max(np.abs(kernel).max(), np.abs(bias).max())
            if not largest <= np.finfo(np.float32).max:
                raise UserError(
                    f"{misfit}: {layer.name} with its batch normalisation folded in reaches "
                    f"{largest:.3g}, more than float32 holds; use undamaged weights"
                )
        params[layer.name] = {
            "kernel": np.array(kernel, np.float32, order="C"),
            "bias": np.array(bias, np.float32),
        }
    return params


def shown_name(name: str) -> str:
    """The name, or an escaped form of it where a hostile file hides control characters there."""
    return name if name.isprintable() else ascii(name)


def _checked_arrays(
    tensors: Mapping[str, StoredTensor], layout: TensorLayout, misfit: str
) -> dict[str, np.ndarray]:
    """Reads the needed tensors as float32, or names everything that is wrong with the file."""
    shapes = layout.shapes()
    variances = {variance for *_, variance in layout.norms.values()}
    problems = [f"missing {name}" for name in shapes if name not in tensors]
    problems += [f"unknown {shown_name(name)}" for name in layout.unknown(tensors)]
    arrays = {}
    for name in (name for name in shapes if name in tensors):
        tensor = tensors[name]
        if tensor.shape != shapes[name]:
            problems.append(f"{name} has shape {tensor.shape}, expected {shapes[name]}")
            continue
        if tensor.dtype not in {"float16", "float32", "float64"}:
            problems.append(f"{name} has type {tensor.dtype}, expected float32, 16 or 64")
            continue
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is named
            arrays[name] = np.asarray(tensor.load()).astype(np.float32)
        if not np.isfinite(arrays[name]).all():
            problems.append(f"{name} holds NaN or infinite values")
        elif name in variances and (arrays[name] < 0).any():
            problems.append(f"{name} holds negative variances")
    if problems:
        raise UserError(
            f"{misfit}: {'; '.join(problems)}; needed are the {len(shapes)} tensors of its "
            "convolutions, complete and unchanged"
        )
    return arrays


def _folded(
    kernel: np.ndarray, bias: np.ndarray, norm: Iterable[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the HWIO kernel and bias of one convolution that does what it and its norm did.

    (w x + b - mean) * factor + offset, with factor = scale / sqrt(variance + epsilon), is linear in
    x (Ioffe and Szegedy, arXiv:1502.03167, algorithm 2). float64, so that nothing is rounded twice.
    """
    scale, offset, mean, variance = (array.astype(np.float64) for array in norm)
    factor = scale / np.sqrt(variance + BATCH_NORM_EPSILON)
    return kernel * factor, (bias - mean) * factor + offset
