"""The parameters of a cloud NN: which there are, of which shapes, and how a file of them is read.

    shapes = parameter_shapes((16, 16, 8), num_classes=3, width=64)
    params = read_parameters(Path("classifier/params.safetensors"), shapes, "train again")

No JAX here: devices run this.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from privynet_jax.errors import UserError, first_line
from privynet_jax.training.models.grid_sizes import folding_of

_MOST_HEADER = 2**20


def parameter_shapes(
    shape: tuple[int, ...], num_classes: int, width: int
) -> dict[str, tuple[int, ...]]:
    """Returns name -> shape of a classifier's parameters, for representations (h, w, d)."""
    folding, unfolding = folding_of(shape[0])
    twice, depth = 2 * width, folding**2 * shape[-1]
    kernels = {
        "WorkingGrid_0/stem": (depth, unfolding**2 * width),
        "ResidualBlock_0/Conv_0": (3, 3, width, width),
        "ResidualBlock_0/Conv_1": (3, 3, width, width),
        "Conv_0": (2, 2, width, twice),
        "ResidualBlock_1/Conv_0": (3, 3, twice, twice),
        "ResidualBlock_1/Conv_1": (3, 3, twice, twice),
        "Dense_0": (twice, num_classes),
    }
    shapes = {f"params/{name}/kernel": kernel for name, kernel in kernels.items()}
    shapes |= {f"params/{name}/bias": kernel[-1:] for name, kernel in kernels.items()}
    norm = "params/LayerNorm_0"
    return shapes | {f"{norm}/scale": (twice,), f"{norm}/bias": (twice,)}


def read_parameters(
    path: Path, shapes: Mapping[str, tuple[int, ...]], remedy: str
) -> dict[str, np.ndarray]:
    """Returns what a safetensors file holds, if that is float32 of these shapes and nothing else.

    It comes from somebody who may be the adversary: nothing is read before its size is known.

    Raises:
        UserError: it holds something else, or what is no number; that ends in the remedy.
    """
    try:
        params = _read(path, shapes)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = f"{path} is no file of a classifier's parameters: {first_line(error)}"
        raise UserError(f"{reason}; {remedy}") from None
    # Else the representations would be blamed for what comes out.
    for name, tensor in params.items():
        if not np.isfinite(tensor).all():
            raise UserError(f"{path}: {name} holds NaN or infinity; {remedy}")
    return params


def _read(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """By the format's own rules: tensors lie one behind the other, and nothing else does.

    https://github.com/huggingface/safetensors#format
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        start = 8 + int.from_bytes(file.read(8), "little")  # of the numbers; before them is JSON
        if start > min(size, _MOST_HEADER):
            raise ValueError("its header is longer than a classifier's")
        entries = json.loads(file.read(start - 8), object_pairs_hook=_without_doubles)
        found = {name: (tuple(one["shape"]), one["dtype"]) for name, one in entries.items()}
        if found != {name: (shape, "F32") for name, shape in shapes.items()}:
            raise ValueError("its tensors are not those of the network that is described")
        place = 0
        params = {}
        for name, one in sorted(entries.items(), key=lambda entry: entry[1]["data_offsets"]):
            end = place + 4 * math.prod(shapes[name])
            if one["data_offsets"] != [place, end] or start + end > size:
                raise ValueError("its tensors do not lie one behind the other")
            params[name] = np.frombuffer(file.read(end - place), "<f4").reshape(shapes[name])
            place = end
        if start + place != size:
            raise ValueError("it is longer than its tensors")
    return params


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header says something twice")
    return found
