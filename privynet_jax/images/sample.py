"""A small labelled sample of the user's own pictures, by which channels are scored.

`parts` hands over the data set's examples as stored; `selection` gets arrays. The digests say which
pictures were seen, so that an audit can leave them out. No JAX here.

    sample = load_sample("folder:pictures", data_dir=None, image_size=32, count=500)
    sample.images, sample.labels  # uint8 [500, 32, 32, 3], int32 [500]
"""

import dataclasses
import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.images.decoding import Decoder, EncodedSplit, decode_split
from privynet_jax.images.partition import spread_over_classes, stream_of
from privynet_jax.images.parts import Part, Parts, cached_decoder, read_labelled
from privynet_jax.images.pixels.reading import AS_FILES_SAY, Reading

# What Fisher's score needs of a class: a mean and a spread.
LEAST_PER_CLASS = 2
# Unless a number is asked for: so many, but of each class no more than a share. An audit leaves the
# sample out, and what is left must be enough to train attackers on.
USUAL, _USUAL_SHARE = 500, 3
_MOST = 100_000
_DIGEST_DIGITS = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """Labelled pictures."""

    images: np.ndarray  # uint8 [N, H, W, 3] RGB
    labels: np.ndarray  # int32 [N], indices into `class_names`
    class_names: tuple[str, ...]  # of the whole data set
    # `digest_of` each image, [N], then of the other pictures of their groups.
    digests: tuple[str, ...]
    available: int  # how many pictures they were drawn from
    reading: Reading = AS_FILES_SAY  # how they were decoded
    label_names: tuple[str, ...] = ()  # where each picture may have several,
    several: np.ndarray | None = None  # int32 [N, names] of 0 and 1, these
    groups: np.ndarray | None = None  # int64 [N]; images of one overlap, or are copies; None: alone

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def answers(self) -> np.ndarray:
        """What a classifier is to say: `several` where it is known, else labels."""
        return self.labels if self.several is None else self.several


def load_sample(
    dataset: str,
    *,
    data_dir: Path | str | None,
    image_size: int,
    count: int | None = None,
    skip_unreadable: bool = False,
    reading: Reading = AS_FILES_SAY,
) -> Sample:
    """Returns pictures drawn at random, always the same ones, with classes as equal as possible.

    They come from all pictures of the data set, or from its train split where it has splits.
    `count` of them, all where there are fewer; None means 500, but at most a third of each class.
    Others are drawn in place of pictures that are unreadable and may be skipped. Other arguments
    are those of `parts.load_parts`. UserError is raised as there, and where a class has less than
    `LEAST_PER_CLASS` pictures in the sample.
    """
    if count is not None and not 1 <= count <= _MOST:
        raise UserError(
            f"sample_images is {count}; allowed are 1 to {_MOST}; a few hundred are enough"
        )
    decode = cached_decoder(data_dir, reading)
    train, _, class_names, _ = read_labelled(dataset, data_dir, decode=decode)
    shuffled = train.take(stream_of(0, "sample").permutation(len(train)))
    in_turn = shuffled.take(spread_over_classes(shuffled.labels, None))
    most = np.bincount(train.labels, minlength=len(class_names))
    if count is None:
        count = USUAL
        most = np.maximum(most // _USUAL_SHARE, np.minimum(most, LEAST_PER_CLASS))
    images, kept = decode_split(
        in_turn, image_size, "the sample", skip_unreadable, count, most, decode
    )
    _check_classes(dataset, kept.labels, class_names)
    alike = _alike(shuffled, kept, image_size, decode)
    digests = tuple(digest_of(image) for image in (*images, *alike))
    drawn = images, kept.labels, class_names, digests, len(train), reading
    return Sample(*drawn, train.label_names, kept.several, kept.groups)


def digest_of(image: np.ndarray) -> str:
    """Returns 16 hexadecimal digits of the sha256 of uint8 [H, W, 3]; ValueError for others."""
    if image.dtype != np.uint8:
        raise ValueError(f"Expected a uint8 image, got {image.dtype}")
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()[:_DIGEST_DIGITS]


def drop_seen_pictures(parts: Parts, digests: Collection[str]) -> tuple[Parts, int]:
    """Removes pictures that the planner saw, so that an audit is independent of them.

    With a picture of one of these digests its whole group goes: copies, saved again, have other
    digests. A `Sample` has digests of whole groups, as a part with a limit may lack the picture
    itself. Returns what is left of the parts, and how many pictures are removed; UserError where
    nothing is left of a part.
    """
    seen, removed = frozenset(digests), 0
    # Caches are addressed by the fingerprint, so other images need another one.
    fingerprint = hashlib.sha256(parts.fingerprint.encode())
    kept: dict[str, Part] = {}
    for name, part in parts.items():
        was_seen = np.array([digest_of(image) in seen for image in part.images], bool)
        if part.groups is not None:
            was_seen = np.isin(part.groups, part.groups[was_seen])
        rows = np.flatnonzero(~was_seen)
        if not len(rows):
            raise UserError(
                f"the planner saw all pictures of the part {name} of {parts.name}; audit on more "
                "pictures, or plan with a smaller sample"
            )
        removed += len(part) - len(rows)
        fingerprint.update(rows.astype("<i8").tobytes() + b" ")
        kept[name] = part.take(rows)
    if not removed:
        return parts, 0
    return dataclasses.replace(parts, **kept, fingerprint=fingerprint.hexdigest()), removed


def _alike(
    whole: EncodedSplit, kept: EncodedSplit, image_size: int, decode: Decoder
) -> Sequence[np.ndarray]:
    """The other pictures of the groups of those kept, uint8 [size, size, 3] each.

    A part with a limit on its images may have these alone, and nothing that was kept itself.
    """
    taken = set(kept.images)
    is_alike = np.isin(whole.groups, kept.groups)
    rows = [n for n in np.flatnonzero(is_alike) if whole.images[n] not in taken]
    if not rows:
        return ()
    others = whole.take(np.array(rows))
    return decode_split(others, image_size, "copies of the sample", True, decode=decode)[0]


def _check_classes(dataset: str, labels: np.ndarray, class_names: tuple[str, ...]) -> None:
    counts = np.bincount(labels, minlength=len(class_names))
    if counts.min() >= LEAST_PER_CLASS:
        return
    poor = class_names[int(counts.argmin())]
    raise UserError(
        f"the sample of {dataset} has {counts.min()} pictures of the class {poor}; each of the "
        f"{len(class_names)} classes needs {LEAST_PER_CLASS}: give --sample_images="
        f"{LEAST_PER_CLASS * len(class_names)} or more, or more pictures of that class"
    )
