"""Extraction on the device: a package and pictures become a release.

    pictures = find_pictures("folder:photos", class_names=names, labelled=True)
    written = write_release(Path("release"), package, pictures, dtype="uint8")

`release_inputs` says which pictures in which secret order, `release_folder` is the format, and
`release_journal` knows what is finished. One shard is in memory at a time.
"""

import contextlib
import dataclasses
import functools
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from privynet_jax.deployment.device.local_package import LocalPackage
from privynet_jax.deployment.release.picture_rows import picture_digests
from privynet_jax.deployment.release.release_files import ReleaseFiles
from privynet_jax.deployment.release.release_folder import ReleaseWriter
from privynet_jax.deployment.release.release_inputs import (
    Pictures,
    ReleaseSecrets,
    find_copies,
    release_secrets,
    tell_copies,
)
from privynet_jax.deployment.release.release_journal import (
    Journal,
    begin,
    check_places,
    is_begun,
    journal_path,
)
from privynet_jax.deployment.release.release_manifest import read_manifest
from privynet_jax.deployment.release.release_rows import Extraction
from privynet_jax.deployment.release.row_order import check_replaceable, has_rows, write_order
from privynet_jax.errors import UserError
from privynet_jax.images.decoding import pool_of_decoders, tell_skipped
from privynet_jax.platform.rows.coding import Coding, checked_dtype

_VERSION = 3


@dataclasses.dataclass(frozen=True)
class Written:
    """What became of a call."""

    rows: int
    skipped: int  # pictures that are unreadable
    copies: int  # pictures that show what another one shows, which is released
    contradicting: int  # of these, in another class
    before: int  # pictures that were released before, or revoked
    shards_kept: int  # that were there already


def write_release(
    folder: Path,
    package: LocalPackage,
    pictures: Pictures,
    *,
    dtype: str = "float32",
    skip_unreadable: bool = False,
    order_out: Path | None = None,
    known_rows: frozenset[str] = frozenset(),
    private_folders: Sequence[Path] = (),
) -> Written:
    """Writes the release of some pictures, or what is missing of it after a kill.

    Args:
        folder: of the release: new, empty, or unfinished by the same call.
        package: the local NN with its peaks, classes and secret seed.
        pictures: in any order; rows are shuffled over the whole release. Of copies the first is
            released, because equal rows would tell that there are any.
        dtype: how representations are stored, one of `coding.DTYPES`.
        skip_unreadable: leave out pictures that cannot be decoded instead of refusing them.
        order_out: where to write, for this device alone, which picture each row is.
        known_rows: digests (`equal_rows`) of rows that are not released: they were before, or are
            revoked.
        private_folders: where a release must not lie, besides the folder of pictures.

    Raises:
        UserError: a place that does not do, pictures of another white, one that cannot be decoded,
            a disk that is too small, or values that cannot be stored. Finished shards stay.
    """
    # The network scales: nothing is left to multiply by.
    if checked_dtype(dtype) == "uint8" and package.is_signed:
        raise UserError(
            "--dtype=uint8 holds nothing negative, which this package's noise gives; allowed are "
            "float16 and float32; give one"
        )
    coding = Coding(dtype, np.ones_like(package.peaks), package.peaks)
    check_places(folder, order_out, pictures.folder, private_folders)
    reading = pictures.reading.agreed(package.reading)
    names, numbered = _labels(pictures, package)
    pictures = dataclasses.replace(pictures, reading=reading, labels=numbered, class_names=names)
    description = _description(package, coding, known_rows)
    secrets = functools.partial(release_secrets, pictures, package.release_seed, description)
    look = functools.partial(_look, pictures, package, coding, known_rows)
    journal, identity, order, left_out = _begin(folder, pictures, secrets, look, order_out)
    if journal is None:
        return _already_complete(folder, pictures, left_out, order, order_out)
    writer = ReleaseWriter(folder, identity, package.plan_id, package.shape, dtype)
    try:
        _check_disk_space(folder, package.shape, dtype, len(order))
        with pool_of_decoders() as pool:
            extraction = Extraction(package, coding, pictures, order, skip_unreadable, pool)
            kept = extraction.run(writer, journal)
    except UserError:
        _forget(folder, journal)
        raise
    skipped = journal.skipped()
    chosen = np.delete(order, skipped)
    if not len(chosen):
        _forget(folder, journal)
        raise UserError(f"no picture can be read; all {len(order)} were skipped")
    _write_order(order_out, identity, pictures, chosen)
    writer.finish(len(chosen), *_told_of_classes(pictures, package, chosen), package.peaks)
    journal.path.unlink()
    tell_skipped([pictures.name(index) for index in order[skipped]], "the pictures")
    return Written(len(chosen), len(skipped), *left_out, kept)


def _labels(pictures: Pictures, package: LocalPackage) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Names of classes in the order of their ids, and labels: places among the package's classes.

    Where there are several labels for each picture, columns of their own classes.
    """
    known, names = [*package.class_ids], pictures.class_names
    if pictures.labels is None:
        return names, None
    places = np.array([known.index(name) for name in names], np.int32)
    if pictures.labels.ndim == 1:
        return names, places[pictures.labels]
    order = np.argsort(places)
    return tuple(names[place] for place in order), pictures.labels[:, order]


def _told_of_classes(
    pictures: Pictures, package: LocalPackage, chosen: np.ndarray
) -> tuple[np.ndarray | None, list[str] | None]:
    """Labels int [rows] and ids of the classes that occur, and of no others.

    Where there are several, int [rows, classes] of 0 and 1, and ids of all that were looked for.
    """
    if pictures.labels is None:
        return None, None
    if pictures.labels.ndim == 2:
        ids = [package.class_ids[name] for name in pictures.class_names]
        return pictures.labels[chosen], ids
    ids = [*package.class_ids.values()]
    present, labels = np.unique(pictures.labels[chosen], return_inverse=True)
    return labels, [ids[label] for label in present]


def _begin(
    folder: Path,
    pictures: Pictures,
    secrets: Callable[..., ReleaseSecrets],
    look: Callable[[], tuple[dict[int, int], list[bytes]]],
    order_out: Path | None,
) -> tuple[Journal | None, str, np.ndarray, tuple[int, int, int]]:
    """The journal (None: complete), the id, the order without copies, `Written`'s three numbers.

    Copies take long to find: not before what is there is known to be of this release, and not by a
    run that goes on with another one's.
    """
    is_there = is_begun(folder) or (order_out is not None and order_out.exists())
    copies, digests = (None, None) if is_there else look()
    identity, order = secrets(digests)
    if order_out is not None:
        check_replaceable(order_out, identity)
    journal = begin(folder, identity)
    known = journal or Journal.beside(folder, identity)
    if known is not None and known.copies is not None:
        copies = known.copies
    elif copies is None:
        copies, _ = look()
    if journal is not None and journal.copies is None:
        journal.copies = copies
        journal.save()
    before = [number for number, first in copies.items() if number == first]
    others = {number: first for number, first in copies.items() if number != first}
    left_out = len(others), tell_copies(pictures, others), len(before)
    return journal, identity, order[~np.isin(order, list(copies))], left_out


def _look(
    pictures: Pictures, package: LocalPackage, coding: Coding, known_rows: frozenset[str]
) -> tuple[dict[int, int], list[bytes]]:
    """What is left out: copies with the first one's number, what is known already with its own."""
    copies, digests = find_copies(pictures)
    if known_rows:
        rows = picture_digests(pictures, package, coding, skip_unreadable=True)
        # With a picture go all its copies, whichever of them is known.
        known = {copies.get(n, n) for n, digest in rows.items() if digest in known_rows}
        copies |= {n: n for n in range(len(pictures)) if copies.get(n, n) in known}
        if len(copies) == len(pictures):
            raise UserError("all pictures were released before, or are revoked; nothing is left")
    return copies, digests


def _forget(folder: Path, journal: Journal) -> None:
    """Leaves nothing behind of what nothing was finished of."""
    with contextlib.suppress(OSError):  # finished shards, maybe of an earlier attempt
        folder.rmdir()
        journal.path.unlink()


def _already_complete(
    folder: Path,
    pictures: Pictures,
    left_out: tuple[int, int, int],
    order: np.ndarray,
    order_out: Path | None,
) -> Written:
    """What became of a call of which nothing was missing; left out are `Written`'s copies."""
    manifest = read_manifest(ReleaseFiles(folder))
    skipped = len(order) - manifest.rows
    journal = Journal.beside(folder, manifest.id)  # of a run that was killed at its very end
    chosen = np.delete(order, journal.skipped()) if journal else order
    if len(chosen) == manifest.rows:
        _write_order(order_out, manifest.id, pictures, chosen)
    elif order_out is not None and not has_rows(order_out, manifest.id, manifest.rows):
        raise UserError(
            f"{folder} is complete, and which pictures it skipped was not kept; delete it and "
            "extract again to get --order_out"
        )
    journal_path(folder).unlink(missing_ok=True)
    return Written(manifest.rows, skipped, *left_out, len(list(manifest.shards())))


def _write_order(
    order_out: Path | None, identity: str, pictures: Pictures, chosen: np.ndarray
) -> None:
    """Writes each row's picture, of int [rows], as CSV; it must not leave the device."""
    if order_out is not None:
        check_replaceable(order_out, identity)  # something may have come there meanwhile
        write_order(order_out, identity, list(map(pictures.listed_name, chosen.tolist())))


def _description(
    package: LocalPackage, coding: Coding, known_rows: frozenset[str]
) -> dict[str, Any]:
    known = {"known_rows": sorted(known_rows)} if known_rows else {}
    return known | {
        "version": _VERSION,
        "plan_id": package.plan_id,
        "image_size": package.image_size,
        "shape": list(map(int, package.shape)),
        "class_names": [*package.class_ids],
        "dtype": coding.dtype,
        "peaks": coding.peaks.tolist(),
    }


def _check_disk_space(folder: Path, shape: Sequence[int], dtype: str, rows: int) -> None:
    there = sum(path.stat().st_size for path in folder.iterdir())
    whole = rows * math.prod(shape) * np.dtype(dtype).itemsize
    needed = 2 * whole - there  # as much again for the tar
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"the release needs {needed / 2**20:.0f} MiB more and {folder} has "
            f"{free / 2**20:.0f} MiB free; free some, give another --out, or --dtype=uint8"
        )
