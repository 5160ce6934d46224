"""The feature cache: one pass of VGG16 over all images, written once and read by memory map.

A cache is a folder addressed by its content: weights, data, layers and channels decide its name.
It is written under a temporary name and renamed, so it exists whole or not at all, and every file
is compared with its checksum before it is used. `features` makes the pass, `grid` reads.

    features = load_features(weights, parts, union, cache_dir=Path("cache"))
    x = features[4].gather("target", indices, positions, width=32)
"""

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from privynet_jax.data import PART_NAMES, Parts, as_float
from privynet_jax.errors import UserError
from privynet_jax.execution import data_parallel
from privynet_jax.features import CALIBRATION_IMAGES, LayerFeatures, extractor
from privynet_jax.files import write_atomically
from privynet_jax.topology import Topology
from privynet_jax.weights import PretrainedWeights
from privynet_jax.wheels import sha256_of

BATCH_SIZE = 128
# Channels that are almost always zero are not blown up by more than this, against their layer.
LEAST_RELATIVE_RMS = 0.01
_VERSION = 1
_MANIFEST = "manifest.json"


def load_features(
    weights: PretrainedWeights,
    parts: Parts,
    union: Mapping[int, Sequence[int]],
    cache_dir: Path,
) -> dict[int, LayerFeatures]:
    """Returns the features of each layer, from the cache or, the first time, by one pass.

    Args:
        weights: the pretrained network.
        parts: images of all four parts.
        union: layer -> channels to keep, as `needed_channels` gives it.
        cache_dir: folder of caches; each is addressed by weights, data, layers and channels.

    Raises:
        UserError: a cached file is damaged, the disk has too little room, or the network gives
            values that are not finite.
    """
    identity = {
        "version": _VERSION,
        "weights": weights.fingerprint,
        "data": parts.fingerprint,
        "channels": {str(layer): list(map(int, channels)) for layer, channels in union.items()},
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = cache_dir / f"features-{digest[:16]}"
    if not folder.exists():
        _build(folder, identity, weights, parts, union)
    return _open(folder, union)


def _build(
    folder: Path,
    identity: Mapping[str, Any],
    weights: PretrainedWeights,
    parts: Parts,
    union: Mapping[int, Sequence[int]],
) -> None:
    """Writes a cache under a temporary name and renames it, so that it appears whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    shapes = _shapes(parts, union)
    _check_disk_space(folder.parent, shapes)
    partial = folder.with_name(f".{folder.name}.{socket.gethostname()}.{os.getpid()}")
    partial.mkdir()
    try:
        _write_arrays(partial, shapes, weights, parts, union)
        files = {name: sha256_of(partial / name) for name in shapes}
        manifest = {**identity, "sha256": files}
        write_atomically(partial / _MANIFEST, json.dumps(manifest, indent=1))
        try:
            partial.rename(folder)
        except OSError:
            # Another process may have been faster with the same content; renaming is the check.
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_arrays(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    weights: PretrainedWeights,
    parts: Parts,
    union: Mapping[int, Sequence[int]],
) -> None:
    split, everywhere = data_parallel()
    params = jax.device_put(weights.params, everywhere)
    extract = extractor(union)
    scales = _channel_scales(jax.jit(extract), params, parts, union)

    @jax.jit
    def normalised(params: Any, images: jax.Array) -> tuple[dict[int, jax.Array], jax.Array]:
        features = extract(params, images)
        features = {m: (x * scales[m]).astype(jnp.float16) for m, x in features.items()}
        finite = jnp.stack([jnp.isfinite(x).all() for x in features.values()]).all()
        return features, finite

    batch_size = BATCH_SIZE * len(split.device_set)
    total = sum(len(part) for _, part in parts.items())
    with tqdm(total=total, desc="extracting features", unit="image") as progress:
        for name, part in parts.items():
            arrays = {
                layer: np.lib.format.open_memmap(
                    folder / _file_name(layer, name),
                    "w+",
                    np.float16,
                    shapes[_file_name(layer, name)],
                )
                for layer in union
            }
            for rows, images in _batches(part.images, batch_size):
                features, finite = normalised(params, jax.device_put(images, split))
                _check_finite(finite, weights, parts)
                for layer, values in features.items():
                    arrays[layer][rows] = np.asarray(values)[: rows.stop - rows.start]
                progress.update(rows.stop - rows.start)
            for array in arrays.values():
                array.flush()


def _channel_scales(
    extract: Callable[..., dict[int, jax.Array]],
    params: Any,
    parts: Parts,
    union: Mapping[int, Sequence[int]],
) -> dict[int, np.ndarray]:
    """Layer -> float32 [channels kept]: one over the root mean square on auxiliary images."""
    images = parts.auxiliary.images[:CALIBRATION_IMAGES]
    squares: dict[int, Any] = dict.fromkeys(union, 0.0)
    for rows, batch in _batches(images, BATCH_SIZE):
        for layer, values in extract(params, batch).items():
            real = np.asarray(values)[: rows.stop - rows.start]
            squares[layer] = squares[layer] + np.square(real, dtype=np.float64).sum(axis=0)
    scales = {}
    for layer, total in squares.items():
        rms = np.sqrt(total.mean(axis=(0, 1)) / len(images))
        floor = max(LEAST_RELATIVE_RMS * rms.mean(), np.finfo(np.float32).tiny)
        scales[layer] = np.float32(1 / np.maximum(rms, floor))
    return scales


def _batches(images: np.ndarray, batch_size: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (rows, float32 images), the last batch filled up so that one compilation serves."""
    for start in range(0, len(images), batch_size):
        batch = as_float(images[start : start + batch_size])
        missing = batch_size - len(batch)
        yield slice(start, start + len(batch)), np.pad(batch, ((0, missing), *[(0, 0)] * 3))


def _file_name(layer: int, part: str) -> str:
    return f"layer_{layer:02d}-{part}.npy"


def _shapes(parts: Parts, union: Mapping[int, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    return {
        _file_name(layer, name): (
            len(part),
            *Topology(layer, tuple(channels)).representation_shape(parts.image_size),
        )
        for layer, channels in union.items()
        for name, part in parts.items()
    }


def _check_disk_space(cache_dir: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    needed = sum(2 * int(np.prod(shape)) for shape in shapes.values())
    free = shutil.disk_usage(cache_dir).free
    if free < needed:
        raise UserError(
            f"the feature cache needs {needed / 2**20:.0f} MiB and {cache_dir} has "
            f"{free / 2**20:.0f} MiB free; give another --cache_dir, fewer layers or depths"
        )


def _check_finite(finite: jax.Array, weights: PretrainedWeights, parts: Parts) -> None:
    if not finite:
        raise UserError(
            f"the weights {weights.source} give values that are not finite on {parts.name}; "
            "check that the weights belong to VGG16 and that the images are in [0, 1]"
        )


def _remove_abandoned(folder: Path) -> None:
    """Removes what processes of this machine that no longer run left of the same cache."""
    for partial in folder.parent.glob(f".{folder.name}.{socket.gethostname()}.*"):
        owner = partial.suffix[1:]
        if owner.isdecimal() and not _is_another_process(int(owner)):
            shutil.rmtree(partial, ignore_errors=True)


def _is_another_process(number: int) -> bool:
    """Whether another process than this one now runs under a number."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    # Restarted containers give out the same numbers: a folder with ours is a killed process's.
    return number != os.getpid()


def _open(folder: Path, union: Mapping[int, Sequence[int]]) -> dict[int, LayerFeatures]:
    """Maps a cache's arrays after comparing every file with its checksum."""
    remedy = f"delete {folder} and run again to extract the features anew"
    try:
        checksums = dict(json.loads((folder / _MANIFEST).read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"the feature cache {folder} has no readable {_MANIFEST}; {remedy}"
        ) from None
    features = {}
    for layer, channels in union.items():
        arrays = {}
        for name in PART_NAMES:
            path = folder / _file_name(layer, name)
            if not path.exists() or sha256_of(path) != checksums.get(path.name):
                raise UserError(f"the feature cache's file {path} is missing or damaged; {remedy}")
            arrays[name] = np.load(path, mmap_mode="r")
        features[layer] = LayerFeatures(layer, tuple(channels), arrays)
    return features
