"""Labelled images as arrays, in four parts that share nothing.

    parts = load_parts("photo_patches", data_dir=folder, image_size=32, seed=0)
    x = as_float(parts.target.images)  # float32 [N, 32, 32, 3], RGB in [0, 1]

`tfds_source` hands over encoded images. Here `target` is what trains the cloud NN, `auxiliary` what
the attacker owns, `validation` selects and plans, and `test` is only ever reported.
NumPy only: no part of an experiment's arithmetic happens here.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.images.decoding import Decoder, EncodedDataset, decode_split
from privynet_jax.images.folders import folder_of, plain_dataset, read_folder
from privynet_jax.images.partition import split_groups, spread_over_classes, stream_of
from privynet_jax.images.picture_cache import decode_cached
from privynet_jax.images.pixels.pictures import decode_picture
from privynet_jax.images.pixels.reading import AS_FILES_SAY, Reading

PART_NAMES = ("target", "auxiliary", "validation", "test")
# Shares of a data set's own train split.
TRAIN_FRACTIONS = {"target": 0.5, "auxiliary": 0.35, "validation": 0.15}
# Of the train split, where a data set has no labelled test split.
HELD_OUT_FRACTION = 0.2


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Images of one part: uint8 [N, H, W, 3] RGB, with labels int32 [N], one class for each.

    Where each may have several labels, or none, `several`, int32 [N, L] of 0 and 1, has them all;
    the one class is then the rarest of them. Images of one group, int64 [N], overlap or are copies.
    Images of one source, int64 [N], such as a photograph, resemble each other, so that intervals
    resample sources; the groups are the sources where nothing else is known. Without either each
    image stands alone.
    """

    images: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None = None
    sources: np.ndarray | None = None
    several: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "Part":
        """Returns the images of some rows, int [n], in their order."""
        arrays = self.images, self.labels, self.groups, self.sources, self.several
        return Part(*(array if array is None else array[rows] for array in arrays))

    @property
    def answers(self) -> np.ndarray:
        """What a classifier is to say: `several` where it is known, else labels."""
        return self.labels if self.several is None else self.several

    def clusters(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Returns int [n], what of the images of some rows is resampled as a whole."""
        known = self.groups if self.sources is None else self.sources
        return np.arange(len(self))[rows] if known is None else known[rows]


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """The four disjoint parts of one data set.

    `fingerprint` is the sha256 of name, image size and all arrays, so it may address caches;
    `label_names` are of `Part.several`, where that is known.
    """

    target: Part
    auxiliary: Part
    validation: Part
    test: Part
    class_names: tuple[str, ...]
    name: str
    fingerprint: str
    label_names: tuple[str, ...] = ()

    @property
    def num_answers(self) -> int:
        """How many logits a classifier has: one for each class, or for each of several labels."""
        return len(self.label_names or self.class_names)

    @property
    def num_classes(self) -> int:
        """How many values a label may have."""
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Height and width of every image, in pixels."""
        return self.target.images.shape[1]

    def items(self) -> Iterator[tuple[str, Part]]:
        """Yields (name, part) in the order of `PART_NAMES`."""
        return ((name, getattr(self, name)) for name in PART_NAMES)


def as_float(images: np.ndarray) -> np.ndarray:
    """Returns uint8 images as float32 in [0, 1], the range of every image in this project."""
    if images.dtype != np.uint8:
        raise ValueError(f"Expected uint8 images, got {images.dtype}")
    return np.asarray(images, np.float32) / np.float32(255)


def as_bytes(estimates: np.ndarray) -> np.ndarray:
    """Returns estimates of images in [0, 1] as uint8; what lies outside is cut, NaN becomes 0."""
    return np.uint8(np.round(255 * np.clip(np.nan_to_num(estimates), 0, 1)))


def load_parts(
    dataset: str,
    *,
    data_dir: Path | str | None,
    image_size: int = 32,
    seed: int = 0,
    max_images: Mapping[str, int] | None = None,
    skip_unreadable: bool = False,
    reading: Reading = AS_FILES_SAY,
) -> Parts:
    """Returns the four parts of a data set, preparing the data set first where needed.

    The train split is divided into target, auxiliary and validation by `split_groups`. The test
    part is the data set's labelled test split, else its validation split, else a fixed 20 % of the
    train split: in each case the same images for every seed.

    Args:
        dataset: `photo_patches`; or `folder:PATH`, one subfolder per class (`folders`); or
            what `tfds.builder` accepts, such as `cifar10`, with supervised keys that are an image
            and a class label.
        data_dir: where TFDS keeps prepared data sets, and we decoded pictures of large files; None
            is TFDS's default.
        image_size: images are cropped to their central square and resized to this, in pixels.
        seed: of the assignment to parts and of the order inside each.
        max_images: part name -> the most images it may hold; classes stay as equal as possible.
        skip_unreadable: leave out images that cannot be decoded instead of refusing them.
        reading: what files leave open.

    Raises:
        UserError: a bad argument, a data set that cannot be had (see `read_dataset`), or an image
            that cannot be decoded (named).
    """
    limits = _checked_limits(max_images, image_size, seed)
    decode = cached_decoder(data_dir, reading)
    dataset = plain_dataset(dataset)
    train, test, class_names, class_is_source = read_labelled(dataset, data_dir, decode=decode)
    if test is None:
        fractions = {"train": 1 - HELD_OUT_FRACTION, "test": HELD_OUT_FRACTION}
        # A fixed seed: the test part must not change with the seed of an experiment.
        halves = split_groups(train.labels, train.groups, fractions, seed=0)
        train, test = train.take(halves["train"]), train.take(halves["test"])
    rows_of = split_groups(train.labels, train.groups, TRAIN_FRACTIONS, seed)
    splits = {name: train.take(rows) for name, rows in rows_of.items()}
    splits["test"] = test.take(_test_rows(test.labels, seed, limits.get("test")))
    parts = {}
    for name in PART_NAMES:
        rows = np.sort(spread_over_classes(splits[name].labels, limits.get(name)))
        chosen = splits[name].take(rows)
        what = f"the part {name}"
        images, kept = decode_split(chosen, image_size, what, skip_unreadable, decode=decode)
        sources = kept.labels if class_is_source else None
        parts[name] = Part(images, kept.labels, kept.groups, sources, kept.several)
        if not len(images):
            raise UserError(f"{dataset} has too few images: none is left for the part {name}")
    fingerprint = _fingerprint(dataset, image_size, parts)
    names = class_names, dataset, fingerprint, train.label_names
    return Parts(*parts.values(), *names)


def cached_decoder(data_dir: Path | str | None, reading: Reading) -> Decoder:
    """Returns `decode_picture`, which keeps what it made of large files beside the data sets."""
    try:
        from privynet_jax.images.tfds_source import decoded_folder
    except ModuleNotFoundError:  # a device, which has no data sets and keeps nothing
        return functools.partial(decode_picture, reading=reading)
    return functools.partial(decode_cached, decoded_folder(data_dir), reading=reading)


def read_labelled(
    dataset: str,
    data_dir: Path | str | None,
    *,
    in_parts: bool = True,
    decode: Decoder = decode_picture,
) -> EncodedDataset:
    """Returns a data set's labelled examples as they are stored.

    Arguments and errors are those of `load_parts` and `read_folder`.
    """
    if folder := folder_of(dataset):
        return read_folder(folder, in_parts=in_parts, decode=decode)
    # Only here: TFDS takes its time, and whoever makes parts of arrays may do without.
    try:
        from privynet_jax.images.tfds_source import read_dataset
    except ModuleNotFoundError:
        raise UserError(
            f"{dataset} is no folder:PATH, and data sets of TFDS are for where it is installed; "
            "give folder:PATH"
        ) from None
    return read_dataset(dataset, data_dir, in_parts=in_parts)


def _test_rows(labels: np.ndarray, seed: int, limit: int | None) -> np.ndarray:
    """Which test images are used, the same ones for every seed, in the seed's order."""
    usual, order = (stream_of(one, "test").permutation(len(labels)) for one in (0, seed))
    used = usual[spread_over_classes(labels[usual], limit)]
    return order[np.isin(order, used)]


def _checked_limits(
    max_images: Mapping[str, int] | None, image_size: int, seed: int
) -> Mapping[str, int]:
    limits = max_images or {}
    if unknown := set(limits) - set(PART_NAMES):
        raise UserError(f"max_images names {sorted(unknown)}; allowed are {', '.join(PART_NAMES)}")
    for what, value, least in [
        ("image_size", image_size, 1),
        ("seed", seed, 0),
        *((f"max_images of {name}", limit, 1) for name, limit in limits.items()),
    ]:
        if value < least:
            raise UserError(
                f"{what} is {value}; allowed are {least} and more; leave it out for the usual"
            )
    return limits


def _fingerprint(name: str, image_size: int, parts: Mapping[str, Part]) -> str:
    digest = hashlib.sha256(f"{name} {image_size}".encode())
    for part_name in PART_NAMES:
        part = parts[part_name]
        digest.update(f" {part_name} {len(part)} ".encode())
        digest.update(part.images.data)
        digest.update(part.labels.astype("<i4").data)  # the same on every machine
        if part.several is not None:
            digest.update(part.several.astype("<i4").data)
    return digest.hexdigest()
