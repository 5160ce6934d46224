"""Which pictures a release is made of, and what must stay secret of them: their order.

    pictures = find_pictures("folder:photos", class_names=("cat", "dog"), labelled=True)
    identity, order = release_secrets(pictures, package.release_seed, description)
    pictures.read(order[0])  # the first row's

No JAX here.
"""

import dataclasses
import hashlib
import hmac
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.images.copies import look_for_copies, much_of, name_pairs
from privynet_jax.images.decoding import Decoder, EncodedDataset, EncodedSplit
from privynet_jax.images.folders import folder_of, list_pictures
from privynet_jax.images.label_tables import plain_name
from privynet_jax.images.parts import cached_decoder, read_labelled
from privynet_jax.images.pixels.pictures import StoredImage, stored_bytes
from privynet_jax.images.pixels.reading import AS_FILES_SAY, Reading
from privynet_jax.platform.digests import canonical_json
from privynet_jax.platform.progress import Bar

SPLITS = ("all", "train", "test")
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures as they are stored, in the order in which they were found."""

    images: Sequence[StoredImage]  # read when asked for
    labels: np.ndarray | None  # int32 [N], places among the class names, or [N, names] of 0 and 1
    folder: Path | None  # that holds them; None for a TFDS data set
    class_names: tuple[str, ...] = ()  # of labelled ones
    reading: Reading = AS_FILES_SAY  # what their files leave open
    data_dir: Path | str | None = None  # beside which decoded pictures of large files are kept

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> bytes:
        """Returns the encoded bytes of a picture."""
        return stored_bytes(self.images[index])

    @property
    def decode(self) -> Decoder:
        """What makes pictures of files."""
        return cached_decoder(self.data_dir, self.reading)

    def name(self, index: int) -> str:
        """Returns what a person would call it: its path, for a folder."""
        return str(self.images[index])

    def listed_name(self, index: int) -> str:
        """Returns its name in lists, for a folder the path below it: `experiments.predict`'s."""
        name = self.name(index)
        return name if self.folder is None else Path(name).relative_to(self.folder).as_posix()


class ReleaseSecrets(NamedTuple):
    """What a package's secret seed makes of some pictures."""

    id: str  # 64 hexadecimal digits; public, as without the seed it fits any pictures and package
    order: np.ndarray  # int64 [N], of all pictures, copies and unreadable ones too; secret


def find_pictures(
    images: str,
    *,
    class_names: Sequence[str],
    labelled: bool,
    split: str = "all",
    data_dir: Path | str | None = None,
) -> Pictures:
    """Returns the pictures that --images means.

    Args:
        images: `folder:PATH` or a TFDS data set. A labelled folder has one subfolder per class, and
            maybe train and test above these; an unlabelled one may have any subfolders.
        class_names: the package's, in any order.
        labelled: whether labels are wanted.
        split: one of `SPLITS`; of an unlabelled folder only all.
        data_dir: where TFDS keeps data sets; None is TFDS's default.

    Raises:
        UserError: no such pictures, no such split, or classes that the package does not have.
    """
    if split not in SPLITS:
        raise UserError(f"split is {split!r}; allowed are {', '.join(SPLITS)}")
    folder = folder_of(images)
    if folder is not None and not labelled:
        return _unlabelled_folder(folder, split, data_dir)
    try:
        dataset = read_labelled(images, data_dir, in_parts=False)
    except UserError as error:
        if folder is None or not folder.is_dir():
            raise
        raise UserError(f"{error}; or give --nolabelled to release without labels") from None
    splits = _chosen(dataset, split, images)
    found = [image for chosen in splits for image in chosen.images]
    if not labelled:
        return Pictures(found, None, folder, data_dir=data_dir)
    known = [plain_name(name) for name in class_names]
    several = [chosen.several for chosen in splits if chosen.several is not None]
    found_names = [plain_name(name) for name in dataset.train.label_names or dataset.class_names]
    if several and split != "all":
        raise UserError(f"--split={split} is for splits, and {images} has a table of labels")
    if unknown := [name for name in found_names if name not in known]:
        raise UserError(
            f"{images} has classes that the package does not know: {', '.join(unknown)}; allowed "
            f"are {', '.join(known)}; rename or remove them, or give --nolabelled"
        )
    if several:
        return Pictures(
            found, np.int32(np.concatenate(several)), folder, tuple(found_names), data_dir=data_dir
        )
    numbers = np.array([known.index(name) for name in found_names], np.int32)
    labels = numbers[np.concatenate([chosen.labels for chosen in splits])]
    return Pictures(found, labels, folder, tuple(known), data_dir=data_dir)


def find_copies(pictures: Pictures) -> tuple[dict[int, int], list[bytes]]:
    """Returns each copy's number with the first one's that shows the same, and all digests."""
    firsts, digests = look_for_copies(pictures.images, pictures.decode)
    return {n: first for n, first in enumerate(firsts.tolist()) if n != first}, digests


def tell_copies(pictures: Pictures, copies: Mapping[int, int]) -> int:
    """Says which copies a release leaves out, and returns how many are of another class."""

    def named(some: Mapping[int, int]) -> str:
        return name_pairs(*(list(map(pictures.name, each)) for each in (some, some.values())))

    if not copies:
        return 0
    much = much_of(len(copies), len(pictures), "the pictures")
    _LOG.warning("left out %d copies: %s%s", len(copies), named(copies), much)
    labels = np.zeros(len(pictures)) if pictures.labels is None else pictures.labels
    if others := {n: first for n, first in copies.items() if np.any(labels[n] != labels[first])}:
        _LOG.warning(
            "%d pictures are copies of one with another label, which is released in their place: "
            "%s; sort them, and extract into a new folder",
            len(others),
            named(others),
        )
    return len(others)


def release_secrets(
    pictures: Pictures,
    seed: str,
    description: Mapping[str, Any],
    digests: Sequence[bytes] | None = None,
) -> ReleaseSecrets:
    """Derives the release's id and order from the `release_seed`; reads pictures without `digests`.

    Both are HMAC-SHA256 under the seed, of the content of all pictures, of their labels and of the
    description, which is all else that decides the release's bytes; so other pictures, labels or
    settings have another id and an unrelated order. Rows are sorted by the output of SHAKE-256,
    which gives nothing away about other rows to somebody who recognises some.
    """
    sizes = {"pictures": len(pictures), "labelled": pictures.labels is not None}
    if pictures.labels is not None and pictures.labels.ndim == 2:
        sizes["labels"] = list(pictures.class_names)
    if told := pictures.reading.told():
        sizes["reading"] = told
    digest = hashlib.sha256(canonical_json([description, sizes]))
    if digests is None:
        numbers = Bar(range(len(pictures)), "looking through pictures", unit="picture", delay=2)
        digests = [hashlib.sha256(pictures.read(index)).digest() for index in numbers]
    digest.update(b"".join(digests))
    if pictures.labels is not None:
        digest.update(pictures.labels.astype("<i4").tobytes())
    key, inputs = bytes.fromhex(seed), digest.digest()
    identity, order = (
        hmac.digest(key, f"privynet_jax release {purpose}\n".encode() + inputs, "sha256")
        for purpose in ("id", "order")
    )
    ranks = np.frombuffer(hashlib.shake_256(order).digest(8 * len(pictures)), "<u8")
    return ReleaseSecrets(identity.hex(), np.argsort(ranks, kind="stable"))


def _unlabelled_folder(folder: Path, split: str, data_dir: Path | str | None) -> Pictures:
    if split != "all":
        raise UserError(
            f"--split={split} needs labels or a data set with splits; for pictures without labels "
            f"give the folder of that split, such as folder:{folder / split}"
        )
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give folder:PATH, a folder of pictures")
    return Pictures(list_pictures(folder), None, folder, data_dir=data_dir)


def _chosen(dataset: EncodedDataset, split: str, images: str) -> list[EncodedSplit]:
    if split == "test" and dataset.test is None:
        raise UserError(f"{images} has no test split; give --split=all or --split=train")
    by_name = {"train": dataset.train, "test": dataset.test}
    names = ("train", "test") if split == "all" else (split,)
    return [by_name[name] for name in names if by_name[name] is not None]
