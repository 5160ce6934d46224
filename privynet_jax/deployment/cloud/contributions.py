"""What a cloud NN is trained on: the rows of a release, or of those of many contributors.

    data = join_releases([release, *others])
    data.representations[5], data.labels[5], data.owners[5]

Contributors of one plan call a class by the same id, whatever number it has in their release, and
may lack classes. Equal rows are equal pictures: all but one are left out, because a copy of what is
held out would be learnt. Nothing depends on the order in which releases are given.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from privynet_jax.deployment.release.release_folder import HELD_BYTES, Release
from privynet_jax.errors import UserError
from privynet_jax.platform.progress import Bar
from privynet_jax.platform.rows.row_views import ChosenRows, JoinedRows

_AT_ONCE = 256
_DIGEST_BYTES = 16
# Of more, these tell as well whose channels they are.
_MOST_CHANNELS = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Contributions:
    """Labelled rows of releases of one plan.

    Attributes:
        releases: their ids, ascending.
        plan_id: of their plan.
        classes: ids of the classes that occur, ascending.
        representations: [N, h, w, depth], an array or what reads rows.
        labels: int32 [N], places among the classes.
        owners: int32 [N], places among the releases.
        repeated: int [releases], rows that were left out because they are there already.
        moments: float64 [releases, D + 1, D + 1], sums over positions of the products of any two of
            1 and log(1 + x) of up to 64 channels; None of a single release.
    """

    releases: tuple[str, ...]
    plan_id: str
    classes: tuple[str, ...]
    representations: Any
    labels: np.ndarray
    owners: np.ndarray
    repeated: np.ndarray
    moments: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


def join_releases(releases: Sequence[Release]) -> Contributions:
    """Returns the rows of verified releases of one plan and shape.

    Raises:
        UserError: one of them has no labels.
    """
    releases = sorted(releases, key=lambda release: release.id)
    classes = sorted({class_id for release in releases for class_id in _classes_of(release)})
    places = {class_id: place for place, class_id in enumerate(classes)}
    labels = [
        np.array([places[one] for one in _classes_of(release)], np.int32)[release.labels]
        for release in releases
    ]
    together = Contributions(
        releases=tuple(release.id for release in releases),
        plan_id=releases[0].plan_id,
        classes=tuple(classes),
        representations=_joined(releases),
        labels=np.concatenate(labels),
        owners=np.repeat(np.arange(len(releases), dtype=np.int32), list(map(len, labels))),
        repeated=np.zeros(len(releases), int),
    )
    return together if len(releases) == 1 else _without_copies(together)


def _classes_of(release: Release) -> tuple[str, ...]:
    if release.labels is None or release.classes is None:
        raise UserError(
            f"the release {release.id[:8]} has no labels, so there is nothing to learn; release "
            "the pictures again with their labels"
        )
    return release.classes


def _joined(releases: Sequence[Release]) -> Any:
    rows = [release.representations for release in releases]
    if len(rows) == 1:
        return rows[0]
    joined = JoinedRows(*rows)
    size = joined.dtype.itemsize * np.prod(joined.shape, dtype=float)
    return joined[:] if size <= HELD_BYTES else joined


def _without_copies(data: Contributions) -> Contributions:
    """Reads everything once."""
    seen: set[bytes] = set()
    is_new = np.ones(len(data), bool)
    size = 1 + min(data.representations.shape[-1], _MOST_CHANNELS)
    moments = np.zeros((len(data.releases), size, size))
    with Bar(total=len(data), desc="comparing releases", unit="row", delay=2) as bar:
        for start in range(0, len(data), _AT_ONCE):
            rows = data.representations[start : start + _AT_ONCE]
            here = slice(start, start + len(rows))
            with np.errstate(over="ignore"):
                compared = np.float16(rows)  # as which one of the releases may hold them
            for row, content in enumerate(compared, start):
                digest = hashlib.blake2b(content.data, digest_size=_DIGEST_BYTES).digest()
                is_new[row] = digest not in seen
                seen.add(digest)
            for owner in np.unique(data.owners[here]):
                moments[owner] += _moments(rows[is_new[here] & (data.owners[here] == owner)], size)
            bar.update(len(rows))
    chosen = np.flatnonzero(is_new)
    return dataclasses.replace(
        data,
        representations=ChosenRows(data.representations, chosen),
        labels=data.labels[chosen],
        owners=data.owners[chosen],
        repeated=np.bincount(data.owners[~is_new], minlength=len(data.releases)),
        moments=moments,
    )


def _moments(rows: np.ndarray, size: int) -> np.ndarray:
    values = np.log1p(np.maximum(rows[..., : size - 1], 0), dtype=np.float32)
    table = np.concatenate([np.ones((*values.shape[:-1], 1), np.float32), values], axis=-1)
    table = table.reshape(-1, size)
    return table.T @ table
