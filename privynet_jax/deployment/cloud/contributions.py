"""What a cloud NN is trained on: the rows of a release, or of those of many contributors.

    data = join_releases([release, *others])
    data.representations[5], data.labels[5], data.owners[5]

Contributors of one plan call a class by the same id, whatever number it has in their release, and
may lack classes. Equal rows are equal pictures: all but one are left out, because a copy of what is
held out would be learnt. Nothing depends on the order in which releases are given.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from privynet_jax.deployment.release.equal_rows import (
    Revocation,
    digests_of,
    row_digests,
    rows_at_once,
)
from privynet_jax.deployment.release.release_folder import HELD_BYTES, Release
from privynet_jax.errors import UserError
from privynet_jax.platform.progress import Bar
from privynet_jax.platform.rows.row_views import ChosenRows, JoinedRows

_NOT_KNOWN = -1
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
        labels: int32 [N], places among the classes; or [N, classes] of 0 and 1, and of -1 where
            nobody looked for a class, where each row may have several of them, or none.
        owners: int32 [N], places among the releases.
        id: 64 hexadecimal digits: of these rows of these releases. Whoever does not know all rows
            cannot find by trying which ones were revoked.
        repeated: int [releases], rows that were left out because they are there already.
        contradicting: int [releases], rows whose equals have another class; all are left out.
        revoked: int [releases], rows that were left out because they are revoked.
        returned: names of releases with such rows that were not among those they are revoked of.
        moments: float64 [releases, D + 1, D + 1], sums over positions of the products of any two of
            1 and log(1 + x) of up to 64 channels.
    """

    releases: tuple[str, ...]
    plan_id: str
    classes: tuple[str, ...]
    representations: Any
    labels: np.ndarray
    owners: np.ndarray
    id: str
    repeated: np.ndarray
    contradicting: np.ndarray
    revoked: np.ndarray
    returned: tuple[str, ...] = ()
    moments: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def digests(self) -> list[str]:
        """Of each row, as in `equal_rows`; reads all rows."""
        with Bar(total=len(self), desc="looking at rows", unit="row", delay=2) as bar:
            found = []
            for digest in digests_of(self.representations):
                found.append(digest)
                bar.update(1)
        return found

    def with_classes(self, classes: Sequence[str]) -> "Contributions":
        """Returns the same with further classes, none of which it has; rows are the same."""
        together = tuple(sorted({*self.classes, *classes}))
        labels = _labels_among(self.labels, self.classes, together)
        found = dataclasses.replace(self, classes=together, labels=labels)
        found.__dict__["digests"] = self.digests
        return found


def join_releases(
    releases: Sequence[Release], revocations: Sequence[Revocation] = ()
) -> Contributions:
    """Returns the rows of verified releases of one plan and shape, without those that are revoked.

    Raises:
        UserError: one of them has no labels, or values that no representation has.
    """
    releases = sorted(releases, key=lambda release: release.id)
    classes = sorted({class_id for release in releases for class_id in _classes_of(release)})
    if len({release.labels.ndim for release in releases}) > 1:
        raise UserError(
            "some releases have one class for each picture, others may have several; train on "
            "those of one kind"
        )
    labels = [_labels_among(each.labels, each.classes, classes) for each in releases]
    none = np.zeros(len(releases), int)
    together = Contributions(
        releases=tuple(release.id for release in releases),
        plan_id=releases[0].plan_id,
        classes=tuple(classes),
        representations=_joined(releases),
        labels=np.concatenate(labels),
        owners=np.repeat(np.arange(len(releases), dtype=np.int32), list(map(len, labels))),
        id="",  # until all rows were seen
        repeated=none,
        contradicting=none,
        revoked=none,
    )
    for revocation in revocations:
        if revocation.plan_id != together.plan_id:
            raise UserError("a revocation is of another plan than the releases; leave it out")
    return _Look(together, [*map(_named, releases)], revocations).rows_that_count()


def _named(release: Release) -> str:
    return release.name or f"the release {release.id[:8]}"


def _classes_of(release: Release) -> tuple[str, ...]:
    if release.labels is None or release.classes is None:
        raise UserError(
            f"{_named(release)} has no labels, so there is nothing to learn; release "
            "the pictures again with their labels"
        )
    return release.classes


def _labels_among(labels: np.ndarray, own: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Labels of some classes as places, or columns, among more of them."""
    place = {class_id: number for number, class_id in enumerate(classes)}
    places = np.array([place[one] for one in own], np.int32)
    if labels.ndim == 1:
        return places[labels]
    found = np.full((len(labels), len(classes)), _NOT_KNOWN, np.int32)
    found[:, places] = labels
    return found


def _joined(releases: Sequence[Release]) -> Any:
    rows = [release.representations for release in releases]
    if len(rows) == 1:
        return rows[0]
    joined = JoinedRows(*rows)
    size = joined.dtype.itemsize * np.prod(joined.shape, dtype=float)
    return joined[:] if size <= HELD_BYTES else joined


class _Look:
    """Reads every row once: which are copies, revoked, or none, and how channels vary together."""

    def __init__(
        self, data: Contributions, names: Sequence[str], revocations: Sequence[Revocation]
    ) -> None:
        self._data, self._names, count = data, names, len(data.releases)
        self._size = 1 + min(data.representations.shape[-1], _MOST_CHANNELS)
        self._moments = np.zeros((count, self._size, self._size))
        # Whose a digest is: a revocation of many rows is one set of releases.
        self._revoked: dict[str, frozenset[str]] = {}
        for each in revocations:
            owners = frozenset(each.releases)
            for row in each.rows:
                known = self._revoked.get(row)
                self._revoked[row] = owners if known is None else known | owners
        self._revocations = revocations
        self._labels = data.labels.copy()  # of a first row, what is known of all its copies
        self._firsts: dict[str, int] = {}  # digest -> first row
        self._contradicted: set[str] = set()
        self._repeated, self._contradicting, self._gone = (np.zeros(count, int) for _ in "rcg")
        self._returned: set[int] = set()

    def rows_that_count(self) -> Contributions:
        data, step = self._data, rows_at_once(self._data.representations.shape)
        with Bar(total=len(data), desc="comparing releases", unit="row", delay=2) as bar:
            for start in range(0, len(data), step):
                rows = data.representations[start : start + step]
                owners = data.owners[start : start + len(rows)]
                self._check(rows, owners)
                digests = row_digests(rows)
                counts = np.array([self._counts(start + n, d) for n, d in enumerate(digests)])
                for owner in np.unique(owners):
                    self._moments[owner] += _moments(rows[counts & (owners == owner)], self._size)
                bar.update(len(rows))
        self._check_found()
        kept = {d: row for d, row in self._firsts.items() if d not in self._contradicted}
        chosen = np.array([*kept.values()], int)
        labels = self._labels[chosen]
        if labels.ndim == 1:
            present, labels = np.unique(labels, return_inverse=True)
        else:
            present = np.flatnonzero((labels != _NOT_KNOWN).any(axis=0))
            labels = labels[:, present]
        classes, labels = tuple(data.classes[label] for label in present), labels.astype(np.int32)
        known = hashlib.sha256(f"{labels.ndim} {' '.join(classes)}\n".encode())
        for digest, label in zip(kept, labels, strict=True):
            known.update(bytes.fromhex(digest) + label.astype("<i4").tobytes())
        found = dataclasses.replace(
            data,
            classes=classes,
            representations=(
                data.representations
                if len(chosen) == len(data)
                else ChosenRows(data.representations, chosen)
            ),
            labels=labels,
            owners=data.owners[chosen],
            id=known.hexdigest(),
            repeated=self._repeated,
            contradicting=self._contradicting,
            revoked=self._gone,
            returned=tuple(self._names[owner] for owner in sorted(self._returned)),
            moments=self._moments,
        )
        found.__dict__["digests"] = [*kept]  # they need not be computed again
        return found

    def _check(self, rows: np.ndarray, owners: np.ndarray) -> None:
        fits = np.isfinite(rows).all(axis=(1, 2, 3))
        if not fits.all():
            raise UserError(
                f"{self._names[owners[fits.argmin()]]} holds a value that no representation has: "
                "infinite or NaN; leave it out, or have it extracted again"
            )

    def _counts(self, row: int, digest: str) -> bool:
        owner, labels = self._data.owners[row], self._labels
        if digest in self._revoked:
            self._gone[owner] += 1
            if self._data.releases[owner] not in self._revoked[digest]:
                self._returned.add(int(owner))
            return False
        first = self._firsts.setdefault(digest, row)
        if first == row:
            return True
        self._repeated[owner] += 1
        both_known = (labels[row] != _NOT_KNOWN) & (labels[first] != _NOT_KNOWN)
        contradicts = np.any(both_known & (labels[row] != labels[first]))
        if contradicts or digest in self._contradicted:  # nobody can say which is right
            self._contradicting[owner] += 1
            self._contradicting[self._data.owners[first]] += digest not in self._contradicted
            self._contradicted.add(digest)
        elif labels.ndim == 2:
            labels[first] = np.where(both_known, labels[first], np.maximum(*labels[[first, row]]))
        return False

    def _check_found(self) -> None:
        """A revocation of other numbers finds nothing, and must not pass for one that did."""
        for place, release in enumerate(self._data.releases):
            for each in self._revocations:
                if release in each.releases and not self._gone[place]:
                    raise UserError(
                        f"{self._names[place]} holds none of the rows that are revoked of it; "
                        "have the revocation made anew, with this very release"
                    )


def _moments(rows: np.ndarray, size: int) -> np.ndarray:
    rows = np.asarray(rows[..., : size - 1], float)
    values = np.copysign(np.log1p(np.abs(rows)), rows)  # as networks take them
    table = np.concatenate([np.ones((*values.shape[:-1], 1)), values], axis=-1).reshape(-1, size)
    return table.T @ table
