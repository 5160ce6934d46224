"""The way from pictures to stored rows: decoders in threads, then the local NN, shard by shard.

    with pool_of_decoders() as pool:
        extraction = Extraction(package, coding, pictures, order, skip_unreadable=False, pool=pool)
        kept = extraction.run(writer, journal)

No JAX here.
"""

import concurrent.futures
import dataclasses

import numpy as np

from privynet_jax.deployment.device.local_package import LocalPackage
from privynet_jax.deployment.release.release_folder import ReleaseWriter
from privynet_jax.deployment.release.release_inputs import Pictures
from privynet_jax.deployment.release.release_journal import Journal
from privynet_jax.errors import UserError
from privynet_jax.images.decoding import decode_or_skip
from privynet_jax.platform.progress import Bar
from privynet_jax.platform.rows.coding import Coding, all_finite

# As many pictures at once as keep VGG16's first layer, 64 channels of float32, within the bytes.
_MOST_IMAGES, _LEAST_IMAGES, _LAYER_BYTES = 64, 4, 2**24


def images_at_once(image_size: int) -> int:
    """Returns how many images a device's memory is asked for at once."""
    fitting = _LAYER_BYTES // (image_size**2 * 64 * 4)
    return min(_MOST_IMAGES, max(_LEAST_IMAGES, fitting))


@dataclasses.dataclass(eq=False)
class Extraction:
    """Pictures in their secret order, and what makes rows of them."""

    package: LocalPackage
    coding: Coding
    pictures: Pictures
    order: np.ndarray
    skip_unreadable: bool
    pool: concurrent.futures.Executor

    def __post_init__(self) -> None:
        self.batch = images_at_once(self.package.image_size)

    def run(self, writer: ReleaseWriter, journal: Journal) -> int:
        """Writes all shards that are not there; returns how many were."""
        total, index, kept = len(self.order), 0, 0
        with Bar(total=total, desc="extracting release", unit="picture") as progress:
            while (start := journal.start(index)) < total:
                if self._is_finished(journal, index, writer):
                    progress.update(journal.shards[index][0] - start)
                    kept += 1
                else:
                    rows, stop, skipped = self._shard(start, writer.rows_per_shard, progress)
                    if len(rows):  # none, where nothing is left but unreadable pictures
                        writer.write(index, rows)
                    journal.add(index, stop, skipped)
                index += 1
        return kept

    def _is_finished(self, journal: Journal, index: int, writer: ReleaseWriter) -> bool:
        if index >= len(journal.shards):
            return False
        if journal.shards[index][1] and not self.skip_unreadable:
            return False  # this time the unreadable pictures are to be named
        return not journal.count(index) or writer.has(index, journal.count(index))

    def _shard(self, start: int, most: int, told: Bar) -> tuple[np.ndarray, int, list[int]]:
        """Returns up to `most` rows from a place in the order on, where they end, what was skipped.

        What a batch holds depends on the shard alone, so that a resumed run gives the same bytes.
        """
        rows = np.empty((most, *self.package.shape), self.coding.dtype)
        filled, stop, skipped = 0, start, []
        waiting = None  # the local NN works on one batch while the next one is decoded
        while filled < most and stop < len(self.order):
            places = range(stop, min(stop + min(self.batch, most - filled), len(self.order)))
            images, missing = self._decoded(places)
            skipped += missing
            if waiting:
                self._take(rows, *waiting)
            if waiting := len(images):
                waiting = filled, self.pool.submit(self._stored, images)
            filled, stop = filled + len(images), places.stop
            told.update(len(places))
        if waiting:
            self._take(rows, *waiting)
        return rows[:filled], stop, skipped

    def _decoded(self, places: range) -> tuple[np.ndarray, list[int]]:
        """Returns uint8 images [n, H, W, 3] and the places whose pictures are unreadable."""
        size, pictures = self.package.image_size, self.pictures
        decode = pictures.decode
        wanted = [
            (pictures.read(index), size, pictures.name(index), self.skip_unreadable, decode)
            for index in self.order[places.start : places.stop]
        ]
        decoded = list(self.pool.map(decode_or_skip, *zip(*wanted, strict=True)))
        skipped = [place for place, image in zip(places, decoded, strict=True) if image is None]
        return np.array([image for image in decoded if image is not None], np.uint8), skipped

    def _stored(self, images: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):  # `_take` tells of it
            return self.coding.encode(self.package.represent(images))

    def _take(self, rows: np.ndarray, first: int, started: concurrent.futures.Future) -> None:
        values = started.result()
        if not all_finite(values):
            raise UserError(
                f"the package gives values that {self.coding.dtype} cannot hold on these "
                "pictures; give --dtype=float32, or make the package again"
            )
        rows[first : first + len(values)] = values
