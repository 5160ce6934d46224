"""Reads a folder of pictures as a data set: one subfolder per class.

    pictures/cats/1.jpg, pictures/cats/2.png, pictures/dogs/...      (a fifth is held out as test)
    pictures/train/cats/..., pictures/test/cats/...                  (with a test split of its own)

`parts` calls `read_folder` for `folder:PATH`. Files are found and fingerprinted here, and read
again, one at a time, when they are decoded. Copies of one file form a group, so that no picture is
both in the auxiliary and in the test part.
"""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from privynet_jax.errors import UserError
from privynet_jax.images.decoding import EncodedDataset, EncodedSplit
from privynet_jax.platform.digests import sha256_of

# Below this a class cannot reach all four parts.
LEAST_IMAGES_PER_CLASS = 4
_TRAIN, _TEST = "train", ("test", "validation", "val")


def read_folder(folder: Path, *, in_parts: bool = True) -> EncodedDataset:
    """Returns the pictures of a folder with one subfolder per class, in the order of their names.

    Hidden files are passed over; every other file counts as a picture.

    Raises:
        UserError: there is no such folder, it holds no class folders, or, where pictures are to be
            dealt out to four parts, there is one class alone, or a class has too few different
            pictures.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give folder:PATH with one subfolder per class")
    names = {path.name for path in _visible(folder) if path.is_dir()}
    has_splits = _TRAIN in names and names <= {_TRAIN, *_TEST}
    place = folder / _TRAIN if has_splits else folder
    train, class_names = _read_split(place, None)
    if in_parts:
        _check_class_sizes(place, train, class_names)
    tests = [folder / name for name in _TEST if has_splits and name in names]
    test = _read_split(tests[0], class_names)[0] if tests else None
    return EncodedDataset(train, test, class_names)


def list_pictures(folder: Path) -> list[Path]:
    """Returns all visible files below a folder, sorted; UserError for none or a broken link."""
    entries = sorted(_walk(folder))
    if broken := [path for path in entries if not path.exists()]:
        # Passed over, a whole class could go missing unnoticed.
        raise UserError(f"{broken[0]} is a link to nothing; repair or remove it")
    paths = [path for path in entries if path.is_file()]
    if not paths:
        raise UserError(f"{folder} holds no pictures; give a folder that does")
    return paths


def _read_split(
    folder: Path, class_names: tuple[str, ...] | None
) -> tuple[EncodedSplit, tuple[str, ...]]:
    loose = [path.name for path in _visible(folder) if not path.is_dir()]
    classes = sorted(path for path in _visible(folder) if path.is_dir())
    if loose or not classes:
        instead = f"the file {sorted(loose)[0]}" if loose else "nothing"
        raise UserError(
            f"{folder} holds {instead} where one subfolder per class is expected; "
            "sort the pictures into subfolders named like their classes"
        )
    names = class_names or tuple(path.name for path in classes)
    if unknown := [path.name for path in classes if path.name not in names]:
        raise UserError(f"{folder} has classes that {_TRAIN} has not: {', '.join(unknown)}")
    pictures = {names.index(path.name): list_pictures(path) for path in classes}
    labels = [label for label, found in pictures.items() for _ in found]
    paths = [path for found in pictures.values() for path in found]
    return EncodedSplit(paths, np.array(labels, np.int32), _groups_of_copies(paths)), names


def _groups_of_copies(paths: list[Path]) -> np.ndarray:
    """int64 [N]: equal for files of equal content."""
    seen: dict[str, int] = {}
    groups = np.empty(len(paths), np.int64)
    for number, path in enumerate(tqdm(paths, desc="reading folder", unit="picture", delay=2)):
        groups[number] = seen.setdefault(sha256_of(path), number)
    return groups


def _check_class_sizes(folder: Path, split: EncodedSplit, class_names: tuple[str, ...]) -> None:
    if len(class_names) < 2:
        raise UserError(
            f"{folder} has the one class {class_names[0]}; at least 2 are needed, each a subfolder"
        )
    different = [len(np.unique(split.groups[split.labels == n])) for n in range(len(class_names))]
    pairs = zip(class_names, different, strict=True)
    if small := [f"{name} has {count}" for name, count in pairs if count < LEAST_IMAGES_PER_CLASS]:
        raise UserError(
            f"{folder} has classes with too few different pictures: {', '.join(small)}; "
            f"each needs at least {LEAST_IMAGES_PER_CLASS}, one per part of the data"
        )


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _walk(folder: Path) -> list[Path]:
    paths = []
    for path in _visible(folder):
        # Links to folders are not followed: they may lead round in circles.
        paths += _walk(path) if path.is_dir() and not path.is_symlink() else [path]
    return paths
