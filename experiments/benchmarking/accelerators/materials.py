"""Weights and photographs, from the packed folder or fetched, and as many patches as are wanted.

source, weights = load(settings)
parts = cut_patches(photograph_files(settings), count=60_000)
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.benchmarking.accelerators.runner import Settings
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.weights.checkpoint import save_checkpoint
from privynet_jax.backbone.weights.sources import PretrainedWeights, fingerprint_of, load_weights
from privynet_jax.images.partition import split_groups, spread_over_classes
from privynet_jax.images.parts import PART_NAMES, Part, Parts

PATCH, CELL = 32, 170
# Pixels of a photograph per pixel of a patch, along a side -> patches along each side of a cell.
_PER_SIDE = {1: 20, 2: 14, 4: 6}
# For up to so many, fewer of one scale: a second in place of ten.
_FEW, _FEWER_PER_SIDE = 1000, {2: 6}
# As of `load_parts`, with the test part from the same photographs.
_FRACTIONS = {"target": 0.42, "auxiliary": 0.28, "validation": 0.1, "test": 0.2}
# Standard deviation under which a patch shows nothing, of 255.
_FLAT = 6.0
WEIGHTS_FILE, PHOTOGRAPHS = "weights.npz", "photographs"


def load(settings: Settings) -> tuple[str, PretrainedWeights]:
    """Returns weights, and the source from which `load_weights` gives them again."""
    if settings.packed is None:
        return "embedded", load_weights(cache_dir=settings.scratch)
    folder = settings.scratch / "packed-weights"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        params = unpacked(settings.packed / WEIGHTS_FILE)
        save_checkpoint(folder, params, "VGG16 in float16", fingerprint_of(params))
    return str(folder), load_weights(str(folder), cache_dir=settings.scratch)


def packed(params: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Writes parameters, kernels and biases as float16: half the bytes, 11 bits of precision."""
    arrays = {
        f"{group}/{name}": array if group == "preprocessing" else np.float16(array)
        for group, own in params.items()
        for name, array in own.items()
    }
    np.savez_compressed(path, **arrays)


def unpacked(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Returns what `packed` wrote, as float32."""
    params: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as arrays:
        for name, array in arrays.items():
            group, _, kind = name.partition("/")
            values = array.astype(np.float32) if array.dtype == np.float16 else array
            params.setdefault(group, {})[kind] = values
    return {"preprocessing": params["preprocessing"]} | {
        cut.name: params[cut.name] for cut in VGG16.cuts
    }


def photograph_files(settings: Settings) -> list[Path]:
    """Returns the files of the photographs that `photo_patches` cuts, in order of classes."""
    if settings.packed is not None:
        return sorted((settings.packed / PHOTOGRAPHS).iterdir())
    from privynet_jax.images.photo_patches import photograph_paths

    return photograph_paths(settings.scratch / "photographs")


def cut_patches(files: Sequence[Path], count: int) -> Parts:
    """Cuts so many patches, as equally many of each photograph as there are, into the four parts.

    As in `photo_patches`, a photograph is a class and is divided into cells, which parts take
    whole; patches of a cell overlap, here far more.
    """
    images, labels, groups = [], [], []
    per_side = _FEWER_PER_SIDE if count <= _FEW else _PER_SIDE
    for label, file in enumerate(files):
        with Image.open(file) as photograph:
            for group, cell in enumerate(_cells(photograph.convert("RGB"))):
                found = np.concatenate(list(_patches(cell, per_side)))
                found = found[found.std(axis=(1, 2)).mean(axis=-1) >= _FLAT]
                images.append(found)
                labels.append(np.full(len(found), label, np.int32))
                groups.append(np.full(len(found), label * 1000 + group, np.int64))
    everything, label_of, group_of = map(np.concatenate, (images, labels, groups))
    order = np.random.default_rng(0).permutation(len(everything))
    chosen = order[spread_over_classes(label_of[order], count)]
    everything, label_of, group_of = everything[chosen], label_of[chosen], group_of[chosen]
    if len(everything) < count:
        logging.getLogger(__name__).warning("%d patches in place of %d", len(everything), count)
    rows = split_groups(label_of, group_of, _FRACTIONS, seed=0)
    parts = {
        name: Part(everything[rows[name]], label_of[rows[name]], group_of[rows[name]])
        for name in PART_NAMES
    }
    digest = hashlib.sha256(b"".join(part.images.tobytes() for part in parts.values()))
    names = tuple(file.stem for file in files)
    return Parts(**parts, class_names=names, name="cut patches", fingerprint=digest.hexdigest())


def _cells(photograph: Image.Image) -> Iterator[Image.Image]:
    columns, rows = (max(1, round(side / CELL)) for side in photograph.size)
    width, height = photograph.size
    for row, column in np.ndindex(rows, columns):
        box = (
            column * width // columns,
            row * height // rows,
            (column + 1) * width // columns,
            (row + 1) * height // rows,
        )
        yield photograph.crop(box)


def _patches(cell: Image.Image, per_side: Mapping[int, int]) -> Iterator[np.ndarray]:
    """Yields uint8 [N, 32, 32, 3] per scale, evenly spaced."""
    for scale, count in per_side.items():
        small = np.asarray(cell.reduce(scale))
        if min(small.shape[:2]) < PATCH:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(small, (PATCH, PATCH), axis=(0, 1))
        tops, lefts = (
            np.unique(np.linspace(0, side - 1, count).round().astype(int))
            for side in windows.shape[:2]
        )
        chosen = windows[np.ix_(tops, lefts)]  # [rows, columns, 3, 32, 32]
        yield np.moveaxis(chosen, 2, -1).reshape(-1, PATCH, PATCH, 3)
