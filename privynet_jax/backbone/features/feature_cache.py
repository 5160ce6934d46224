"""The feature cache: every image is extracted once, and what is missing on disk is repaired.

Each layer has a folder addressed by what decides its content (`cached_layer`). In it lie a manifest
with the calibration, and shards of rows (`shards`) that prove their own content. Opening a cache
verifies every shard; whatever is missing or damaged, after a kill or from the start, is computed by
one pass (`extraction`) over just those rows.

    features = load_features(weights, parts, union, cache_dir="cache")
    features[4].parts["target"][np.array([3, 0])]  # float16 [2, h, w, C]
"""

import concurrent.futures
import logging
import os
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from etils import epath

from privynet_jax.backbone.features.cached_layer import MISSING, CachedLayer, Unit, units_of
from privynet_jax.backbone.features.extraction import FeaturePass, calibrate
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.errors import UserError, first_line
from privynet_jax.images.parts import Parts
from privynet_jax.platform.files import is_remote
from privynet_jax.platform.progress import Bar
from privynet_jax.platform.rows.coding import checked_dtype
from privynet_jax.platform.rows.shards import opener_of_files

# Arrays that fit into this together, those with the smallest rows first, are held in memory: the
# smaller a row, the more does asking the system for it cost.
_HELD_BYTES = 2**29
_LOG = logging.getLogger(__name__)


def load_features(
    weights: PretrainedWeights,
    parts: Parts,
    union: Mapping[int, Sequence[int]],
    cache_dir: os.PathLike[str] | str,
    *,
    dtype: str = "float16",
    in_company: bool = False,
) -> dict[int, LayerFeatures]:
    """Returns the features of each layer, computing what the cache lacks.

    A shard that is damaged, or that a finished cache lacks, is named in a warning and computed
    again. Processes may do this at once: each asks before every shard whether somebody else has
    written it meanwhile.

    Args:
        weights: the pretrained network.
        parts: images of all four parts.
        union: layer -> channels to keep, as `needed_channels` gives it.
        cache_dir: a local folder, or one in a bucket, such as gs://bucket/folder, whose shards are
            copied to the local temporary folder for as long as the features are in use.
        dtype: how features are stored, one of `coding.DTYPES`.
        in_company: whether other processes are about to do the same. Each then takes the shards in
            an order of its own, so that they rarely compute the same one. Each ends with the whole.

    Raises:
        UserError: the disk has too little room, the folder cannot be reached, or the network gives
            values that are not finite.
    """
    root = reached(cache_dir) / "features"
    prefix = "privynet-features-"
    scratch = tempfile.TemporaryDirectory(prefix=prefix) if is_remote(root) else None
    dtype = checked_dtype(dtype)
    layers = {
        m: CachedLayer(root, weights, parts, m, tuple(channels), dtype, scratch)
        for m, channels in union.items()
    }
    _calibrate(layers, weights, parts)
    units = units_of(parts)
    _verify(layers, units)
    lacking = {m: layer for m, layer in layers.items() if set(units) - set(layer.shards)}
    if lacking:
        _check_disk_space(root, lacking, units)
        _repair(lacking, random.sample(units, len(units)) if in_company else units, weights, parts)
    for layer in layers.values():
        layer.mark_complete()
    return _opened(layers)


def reached(cache_dir: os.PathLike[str] | str) -> epath.Path:
    """Returns a cache's folder, where files can be put; UserError for a bucket out of reach."""
    try:
        folder = epath.Path(cache_dir)
        folder.mkdir(parents=True, exist_ok=True)
        folder.exists()  # buckets have no folders: this is what asks them first
    # Every kind of bucket has exceptions of its own for "not installed", "no network", "no right".
    except Exception as error:
        if not is_remote(cache_dir):
            raise
        reason = first_line(error)
        raise UserError(
            f"the cache folder {os.fspath(cache_dir)} cannot be reached ({reason}); for gs:// "
            "install gcsfs or TensorFlow and log in, or give a local --cache_dir"
        ) from error
    return folder


def _calibrate(layers: Mapping[int, CachedLayer], weights: PretrainedWeights, parts: Parts) -> None:
    """Gives every layer its coding: the one on disk, so that a resumed pass uses the very same."""
    new = {m: layer for m, layer in layers.items() if not layer.read_manifest()}
    if not new:
        return
    [dtype] = {layer.dtype for layer in new.values()}
    union = {m: layer.channels for m, layer in new.items()}
    for m, coding in calibrate(weights, parts, union, dtype).items():
        new[m].write_manifest(coding)


def _verify(layers: Mapping[int, CachedLayer], units: Sequence[Unit]) -> None:
    """Finds all shards, naming those that are damaged and those that a finished cache lacks."""
    pairs = [(layer, unit) for layer in layers.values() for unit in units]
    total = sum(layer.nbytes(unit) for layer, unit in pairs)
    with (
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        Bar(total=total, desc="verifying features", unit="B", unit_scale=True, delay=2) as bar,
    ):
        complaints = pool.map(lambda pair: pair[0].find(pair[1]), pairs)
        for (layer, unit), complaint in zip(pairs, complaints, strict=True):
            if complaint and (complaint != MISSING or layer.was_complete):
                what = f"{layer.path(unit)} {complaint}"
                _LOG.warning("the feature cache's file %s; its features are computed again", what)
            bar.update(layer.nbytes(unit))


def _repair(
    layers: Mapping[int, CachedLayer],
    units: Sequence[Unit],
    weights: PretrainedWeights,
    parts: Parts,
) -> None:
    """Computes and writes what the layers lack, unit by unit, in one pass for all layers."""
    union = {m: layer.channels for m, layer in layers.items()}
    codings = {m: layer.coding for m, layer in layers.items()}
    feature_pass = FeaturePass(weights, parts, union, codings)
    todo = [unit for unit in units if any(unit not in x.shards for x in layers.values())]
    images = sum(unit.count for unit in todo)
    writing = concurrent.futures.Future[None]()
    writing.set_result(None)
    with (
        concurrent.futures.ThreadPoolExecutor(1) as writer,
        Bar(total=images, desc="extracting features", unit="image") as progress,
    ):
        for unit in todo:
            # Another process may have written some by now.
            lacking = [m for m, x in layers.items() if unit not in x.shards and x.find(unit)]
            if not lacking:
                progress.update(unit.count)
                continue
            rows = getattr(parts, unit.part).images[unit.start : unit.stop]
            stored = feature_pass.run(rows, progress.update)
            writing.result()  # so that no more than two shards per layer are in memory
            writing = writer.submit(_write, {layers[m]: stored[m] for m in lacking}, unit)
        writing.result()


def _write(results: Mapping[CachedLayer, np.ndarray], unit: Unit) -> None:
    for layer, stored in results.items():
        layer.write(unit, stored)


def _check_disk_space(
    root: epath.Path, layers: Mapping[int, CachedLayer], units: Sequence[Unit]
) -> None:
    pairs = [(layer, unit) for layer in layers.values() for unit in units]
    needed = sum(layer.nbytes(unit) for layer, unit in pairs if unit not in layer.shards)
    local = Path(tempfile.gettempdir()) if is_remote(root) else Path(root)
    free = shutil.disk_usage(local).free
    if free < needed:
        remedy = "set TMPDIR to a larger disk" if is_remote(root) else "give another --cache_dir"
        raise UserError(
            f"the feature cache needs {needed / 2**20:.0f} MiB and {local} has "
            f"{free / 2**20:.0f} MiB free; {remedy}, fewer layers or depths"
        )


def _opened(layers: Mapping[int, CachedLayer]) -> dict[int, LayerFeatures]:
    opener = opener_of_files()
    features, arrays = {}, []
    for m, layer in layers.items():
        stored, coding = layer.rows(opener), layer.coding
        arrays += stored.values()
        parts = {name: coding.decoded(rows) for name, rows in stored.items()}
        features[m] = LayerFeatures(m, layer.channels, parts, coding.scales)
    room = _HELD_BYTES
    for rows in sorted(arrays, key=lambda rows: rows.row_bytes):
        room -= rows.nbytes
        if room < 0:
            break
        rows.hold()
    return features
