"""What a cloud NN is trained on: the rows of a release, or of those of many contributors.

    data = join_releases([release, *others])
    data.representations[5], data.labels[5], data.owners[5]

Contributors of one plan call a class by the same id, whatever number it has in their release, and
may lack classes. Equal rows are equal pictures: all but one are left out, because a copy of what is
held out would be learnt. Nothing depends on the order in which releases are given.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from privynet_jax.deployment.release.equal_rows import Revocation, check_comparable, row_digests
from privynet_jax.deployment.release.release_folder import HELD_BYTES, Release
from privynet_jax.errors import UserError
from privynet_jax.platform.digests import sha256_of_json
from privynet_jax.platform.progress import Bar
from privynet_jax.platform.rows.row_views import ChosenRows, JoinedRows

_AT_ONCE = 256
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
        revoked: digests of rows that were left out because they are revoked, ascending.
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
    revoked: tuple[str, ...] = ()
    moments: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def id(self) -> str:
        """64 hexadecimal digits: of the same releases with the same rows revoked."""
        return sha256_of_json([self.releases, self.revoked])


def join_releases(
    releases: Sequence[Release], revocations: Sequence[Revocation] = ()
) -> Contributions:
    """Returns the rows of verified releases of one plan and shape, without those that are revoked.

    Raises:
        UserError: one of them has no labels, or rows that were revoked before it was made.
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
    if revocations:
        check_comparable([each.dtype for each in (*releases, *revocations)])
    elif len(releases) == 1:
        return together
    return _only_rows_that_count(together, _owners_of(revocations, together))


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


def _owners_of(revocations: Sequence[Revocation], data: Contributions) -> dict[str, set[str]]:
    """Digest of a revoked row -> ids of the releases that may hold it."""
    owners: dict[str, set[str]] = {}
    for revocation in revocations:
        if revocation.plan_id != data.plan_id:
            raise UserError("a revocation is of another plan than the releases; leave it out")
        for row in revocation.rows:
            owners.setdefault(row, set()).update(revocation.releases)
    return owners


def _only_rows_that_count(data: Contributions, revoked: Mapping[str, set[str]]) -> Contributions:
    """Reads everything once, and leaves out copies and what is revoked."""
    seen: set[str] = set()
    gone: set[str] = set()
    counts, is_copy = np.ones(len(data), bool), np.zeros(len(data), bool)
    size = 1 + min(data.representations.shape[-1], _MOST_CHANNELS)
    moments = np.zeros((len(data.releases), size, size))
    with Bar(total=len(data), desc="comparing releases", unit="row", delay=2) as bar:
        for start in range(0, len(data), _AT_ONCE):
            rows = data.representations[start : start + _AT_ONCE]
            here = slice(start, start + len(rows))
            for row, digest in enumerate(row_digests(rows), start):
                if digest in revoked:
                    _check_was_there(data.releases[data.owners[row]], revoked[digest])
                    gone.add(digest)
                is_copy[row] = digest in seen
                counts[row] = not (is_copy[row] or digest in revoked)
                seen.add(digest)
            for owner in np.unique(data.owners[here]):
                moments[owner] += _moments(rows[counts[here] & (data.owners[here] == owner)], size)
            bar.update(len(rows))
    chosen = np.flatnonzero(counts)
    return dataclasses.replace(
        data,
        representations=ChosenRows(data.representations, chosen),
        labels=data.labels[chosen],
        owners=data.owners[chosen],
        repeated=np.bincount(data.owners[is_copy], minlength=len(data.releases)),
        revoked=tuple(sorted(gone)),
        moments=moments,
    )


def _check_was_there(release: str, owners: set[str]) -> None:
    if release not in owners:
        raise UserError(
            f"the release {release[:8]} has rows that had been revoked before; have it extracted "
            "again with --revoked, or leave it out"
        )


def _moments(rows: np.ndarray, size: int) -> np.ndarray:
    values = np.log1p(np.maximum(rows[..., : size - 1], 0), dtype=np.float32)
    table = np.concatenate([np.ones((*values.shape[:-1], 1), np.float32), values], axis=-1)
    table = table.reshape(-1, size)
    return table.T @ table
