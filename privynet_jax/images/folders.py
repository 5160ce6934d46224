"""Reads a folder of pictures as a data set: one subfolder per class.

    pictures/cats/1.jpg, pictures/cats/2.png, pictures/dogs/...      (a fifth is held out as test)
    pictures/train/cats/..., pictures/test/cats/...                  (with a test split of its own)
    pictures/labels.csv, pictures/1.jpg, pictures/any/2.jpg, ...     (several labels for each)

`parts` calls `read_folder` for `folder:PATH`. Files are found and compared here, and read again,
one at a time, when they are decoded. Copies form a group, so that no picture is both in the
auxiliary and in the test part.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.images.copies import copies_of_tests, groups_of_copies
from privynet_jax.images.decoding import Decoder, EncodedDataset, EncodedSplit
from privynet_jax.images.label_tables import (
    TABLE,
    as_one_class,
    plain_name,
    read_label_table,
)
from privynet_jax.images.pixels.pictures import decode_picture
from privynet_jax.platform.files import expanded

FOLDER_PREFIX = "folder:"
# Below this a class cannot reach all four parts.
LEAST_IMAGES_PER_CLASS = 4
_TRAIN, _VALIDATION, _TEST = "train", "validation", "test"
_SPELLINGS = {
    **dict.fromkeys(("train", "training"), _TRAIN),
    **dict.fromkeys(("val", "valid", "validation"), _VALIDATION),
    **dict.fromkeys(("test", "testing"), _TEST),
}
# What systems leave in folders; of what is hidden, nothing counts.
_LEFT_BY_SYSTEMS = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("__macosx", "icon\r", "@eadir", "lost+found"),
}
_LOG = logging.getLogger(__name__)


def read_folder(
    folder: Path, *, in_parts: bool = True, decode: Decoder = decode_picture
) -> EncodedDataset:
    """Returns the pictures of a folder with one subfolder per class, in the order of their names.

    Splits are folders called train, val and test, in any usual spelling. Where there is no test,
    val is the test split, else it joins train. Hidden files and what systems leave are passed over;
    every other file counts as a picture. Names of classes are in Unicode's normal form C, so
    folders whose names look alike are one class. Where there is a `labels.csv`, pictures lie
    anywhere below, and each counts as of the rarest of its labels where one class is wanted.

    Args:
        folder: as above.
        in_parts: whether pictures are to be dealt out to the four parts of the data. Then copies
            are looked for, those of test pictures left out of train, and there must be enough
            others. A release, for one, looks for copies by itself.
        decode: makes pictures of files, to find copies.

    Raises:
        UserError: there is no such folder, it holds no class folders, splits without train, or,
            `in_parts`, one class alone, or a class with too few different pictures.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give folder:PATH with one subfolder per class")
    if (folder / TABLE).is_file():
        return _read_table(folder, in_parts, decode)
    places = _splits(folder)
    train, test = (_by_class(places.get(split, ())) for split in (_TRAIN, _TEST))
    names = tuple(sorted(train))
    if unknown := sorted(test.keys() - train.keys()):
        raise UserError(f"{places[_TEST][0]} has classes that train has not: {', '.join(unknown)}")
    found = [
        (split is test, label, path)
        for split in (train, test)
        for label, name in enumerate(names)
        for path in split.get(name, ())
    ]
    tested, labels, paths = zip(*found, strict=True)
    groups = groups_of_copies(paths, decode) if in_parts else np.arange(len(paths))
    whole = EncodedSplit(paths, np.array(labels, np.int32), groups)
    is_test = np.array(tested)
    rest = whole.take(np.flatnonzero(~is_test & ~copies_of_tests(whole, is_test)))
    if in_parts:
        _check_class_sizes(folder, rest, names)
    return EncodedDataset(rest, whole.take(np.flatnonzero(is_test)) if test else None, names)


def _read_table(folder: Path, in_parts: bool, decode: Decoder) -> EncodedDataset:
    paths = list_pictures(folder)
    names, several = read_label_table(folder, paths)
    least = LEAST_IMAGES_PER_CLASS if in_parts else 1
    labels, classes = as_one_class(several, names, least)
    groups = groups_of_copies(paths, decode) if in_parts else np.arange(len(paths))
    whole = EncodedSplit(paths, labels, groups, np.int32(several), names)
    if in_parts:
        _check_class_sizes(folder, whole, classes)
        told = "%s: to be dealt out to parts, each picture is of the rarest of its labels: %s"
        _LOG.warning(told, folder / TABLE, ", ".join(classes))
    splits = [path.name for path in _visible(folder) if path.name.casefold() in _SPELLINGS]
    if splits:
        told = "%s: %s is no split here, as there is a table of labels"
        _LOG.warning(told, folder, " and ".join(splits))
    return EncodedDataset(whole, None, classes)


def list_pictures(folder: Path) -> list[Path]:
    """Returns all visible files below a folder, but for its `labels.csv`, sorted.

    UserError is raised for none or a broken link.

    Links to folders are followed once the folders are read that are there, but for those that lead
    round in circles, or to what was read already.
    """
    entries = _walk(folder)
    if broken := [path for path in entries if not path.exists()]:
        # Passed over, a whole class could go missing unnoticed.
        raise UserError(f"{broken[0]} is a link to nothing; repair or remove it")
    paths = [path for path in entries if path.is_file() and path != folder / TABLE]
    if not paths:
        raise UserError(f"{folder} holds no pictures; give a folder that does")
    return sorted(paths)


def folder_of(dataset: str) -> Path | None:
    """Returns the folder that `folder:PATH` means, or None for other data sets."""
    path = _path_of(dataset)
    return None if path is None else expanded("", path)


def is_private(dataset: str) -> bool:
    """Whether a data set is somebody's own pictures: what is made of them is the user's alone."""
    return dataset.startswith(FOLDER_PREFIX)


def plain_dataset(dataset: str) -> str:
    """Returns a data set's name: `folder:pictures` for `folder:./pictures/`, too."""
    path = _path_of(dataset)
    return dataset if path is None else f"{FOLDER_PREFIX}{Path(path)}"


def _path_of(dataset: str) -> str | None:
    if not dataset.startswith(FOLDER_PREFIX):
        return None
    if dataset == FOLDER_PREFIX:  # which Path would take for the current folder
        raise UserError(f"{dataset} names no folder; give folder:PATH")
    return dataset.removeprefix(FOLDER_PREFIX)


def _splits(folder: Path) -> dict[str, list[Path]]:
    """Folders of classes, for train and maybe test."""
    folders = sorted(path for path in _visible(folder) if path.is_dir())
    named = [(_SPELLINGS.get(path.name.casefold()), path) for path in folders]
    splits = [(split, path) for split, path in named if split]
    others = [path.name for split, path in named if not split]
    called = " and ".join(path.name for _, path in splits)
    # A class may be called train, or test; classes called train and test are splits.
    if not splits or (others and len(splits) == 1):
        _tell_likely_splits(folders)
        return {_TRAIN: [folder]}
    found = dict(splits)
    if others:
        problem = f"beside {others[0]}; a folder has splits or classes: move either away"
    elif len(found) < len(splits):
        problem = "for the same split; join or rename them"
    elif _TRAIN not in found:
        problem = (
            f"and no train; call what is learnt from train, or give folder:{splits[0][1]} "
            "for those pictures alone"
        )
    else:
        validation = [found[_VALIDATION]] if _VALIDATION in found else []
        tests = [found[_TEST]] if _TEST in found else validation
        trains = [found[_TRAIN], *(validation if tests != validation else [])]
        told = [" and ".join(path.name for path in places) for places in (trains, tests)]
        _LOG.warning("%s: train is %s, test is %s", folder, told[0], told[1] or "a fifth of that")
        return {_TRAIN: trains, _TEST: tests}
    raise UserError(f"{folder} has {called} {problem}")


def _tell_likely_splits(folders: Sequence[Path]) -> None:
    """Warns where classes hold the same subfolders and nothing else, as splits do."""
    inside = [_visible(path) for path in folders]
    names = {frozenset(path.name for path in paths) for paths in inside}
    only_folders = all(path.is_dir() for paths in inside for path in paths)
    if len(folders) > 1 and len(names) == 1 and len(inside[0]) > 1 and only_folders:
        told = "%s hold the same subfolders and are taken for classes; call splits train and test"
        _LOG.warning(told, " and ".join(path.name for path in folders[:3]))


def _by_class(places: Sequence[Path]) -> dict[str, list[Path]]:
    """Name of class -> its pictures."""
    found: dict[str, list[Path]] = {}
    for place in places:
        loose = sorted(path.name for path in _visible(place) if not path.is_dir())
        classes = sorted(path for path in _visible(place) if path.is_dir())
        circles = [path for path in classes if _leads_back(path, place)]
        _tell_circles(circles)
        if loose or not classes:
            instead = f"the file {loose[0]}" if loose else "nothing"
            raise UserError(
                f"{place} holds {instead} where one subfolder per class is expected; "
                "sort the pictures into subfolders named like their classes"
            )
        for path in (path for path in classes if path not in circles):
            if path.name.encode(errors="ignore") != os.fsencode(path.name):
                raise UserError(f"the name of class {str(path)!a} is no UTF-8; rename it")
            found.setdefault(plain_name(path.name), []).extend(list_pictures(path))
    return found


def _check_class_sizes(folder: Path, split: EncodedSplit, class_names: tuple[str, ...]) -> None:
    if len(class_names) < 2:
        raise UserError(
            f"{folder} has the one class {class_names[0]}; at least 2 are needed, each a subfolder"
        )
    firsts = np.unique(split.groups, return_index=True)[1]
    different = np.bincount(split.labels[firsts], minlength=len(class_names))
    pairs = zip(class_names, different, strict=True)
    if small := [f"{name} has {count}" for name, count in pairs if count < LEAST_IMAGES_PER_CLASS]:
        raise UserError(
            f"{folder} has classes with too few different pictures: {', '.join(small)}; "
            f"each needs at least {LEAST_IMAGES_PER_CLASS}, one per part of the data"
        )


def _visible(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.casefold() not in _LEFT_BY_SYSTEMS
    ]


def _walk(folder: Path) -> list[Path]:
    """Files, and what is neither file nor folder; no folder is read twice."""
    files, again, read = [], [], set()
    waiting, links = [folder], []
    while waiting or links:
        place = waiting.pop() if waiting else links.pop(0)
        if place.resolve() in read or _leads_back(place, folder):
            again.append(place)
            continue
        read.add(place.resolve())
        for path in sorted(_visible(place)):
            kind = files if not path.is_dir() else links if path.is_symlink() else waiting
            kind.append(path)
    _tell_circles(again)
    return files


def _leads_back(path: Path, folder: Path) -> bool:
    """Whether a link below a folder leads to it, or to what holds it."""
    return path != folder and folder.resolve().is_relative_to(path.resolve())


def _tell_circles(links: Sequence[Path]) -> None:
    if links:
        told = "passed over %d links to folders that are read anyway, such as %s"
        _LOG.warning(told, len(links), links[0])
