"""What a small feature cache holds, and what is in its folders."""

import dataclasses
import json

import numpy as np

from privynet_jax.backbone.weights.sources import fingerprint_of

CHANNELS = (0, 5, 40)


UNION = {1: CHANNELS, 3: (7, 99)}


COUNT = 10  # images per part, in shards of 4: twelve shards per layer


def contents(folder):
    """Relative path -> bytes of all files, temporary ones included."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def folder_of(layer, cache_dir):
    for path in (cache_dir / "features").iterdir():
        if json.loads((path / "manifest.json").read_text())["layer"] == layer:
            return path
    raise AssertionError(f"no folder of layer {layer}")


def changed_first_layer(weights, *, scale=None, bias=None):
    """Weights whose conv1_1 has factors, or biases, replaced at some channels."""
    kernel, biases = (np.array(weights.params["conv1_1"][name]) for name in ("kernel", "bias"))
    for channel, factor in (scale or {}).items():
        kernel[..., channel] *= factor
        biases[channel] *= factor
    for channel, value in (bias or {}).items():
        biases[channel] = value
    params = {**weights.params, "conv1_1": {"kernel": kernel, "bias": biases}}
    return dataclasses.replace(weights, params=params, fingerprint=fingerprint_of(params))
