"""Equal rows are equal pictures: what was released before, and what is revoked, found by digests.

    seen = digests_of(release.representations)
    revocation = read_revocation(Path("revocation.json"))
    revocation.rows & seen

A digest is the SHA-256 of a row as float16: the same whether releases store float32 or float16.
Rows of bytes are equal to rows of bytes alone. One installation gives the same row for a picture
whatever it comes with; on another processor, or by another onnxruntime, a value in a row may be
rounded the other way, and then nothing is equal. No JAX here.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from privynet_jax.deployment.trust.signatures import ANYBODY, Trust
from privynet_jax.errors import UserError
from privynet_jax.platform.digests import sha256_of_json
from privynet_jax.platform.documents import Hex64, read_document, write_document

_VERSION = 1
_AT_ONCE, _BYTES_AT_ONCE = 256, 2**25
_MOST_ROWS = 2**18  # so that the file can be read


@dataclasses.dataclass(frozen=True)
class Revocation:
    """Pictures that are withdrawn, for the cloud, which learns no name by it.

    Attributes:
        plan_id: of the plan under which they were released.
        dtype: how those releases store rows.
        releases: ids of those that held them when they were revoked: others may not.
        rows: digests.
    """

    plan_id: Hex64
    dtype: Literal["float16", "float32", "uint8"]
    releases: tuple[Hex64, ...]
    rows: tuple[Hex64, ...]

    def __post_init__(self) -> None:
        if not self.rows or not self.releases:
            raise UserError("nothing is revoked")
        if max(len(self.rows), len(self.releases)) > _MOST_ROWS:
            raise UserError(f"more than {_MOST_ROWS} are revoked at once; revoke them in parts")

    @property
    def id(self) -> str:
        """64 hexadecimal digits, of all that it says."""
        return sha256_of_json(dataclasses.asdict(self))

    def write(self, path: Path) -> None:
        """Writes it whole."""
        write_document(path, self, _VERSION)


def read_revocation(path: Path, trust: Trust = ANYBODY) -> Revocation:
    """Returns what a file revokes.

    Raises:
        UserError: it is no such file, was changed, or nobody who is trusted signed it.
    """
    try:
        remedy, (held, _) = "give what experiments.revoke wrote", trust.checked("revocation", path)
        return read_document(held, Revocation, _VERSION, remedy, what="revocation")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def row_digests(rows: np.ndarray) -> list[str]:
    """Returns the digest of each row of [n, h, w, depth], 64 hexadecimal digits."""
    with np.errstate(over="ignore"):
        compared = np.ascontiguousarray(rows, np.dtype("<f2"))
    return [hashlib.sha256(row.data).hexdigest() for row in compared]


def digests_of(representations: Any) -> Iterator[str]:
    """Yields the digest of each row of a release, in order."""
    step = rows_at_once(representations.shape)
    for start in range(0, len(representations), step):
        yield from row_digests(representations[start : start + step])


def rows_at_once(shape: Sequence[int]) -> int:
    """Returns how many of rows [N, h, w, depth] are worth a device's memory at once."""
    return max(1, min(_AT_ONCE, _BYTES_AT_ONCE // (4 * math.prod(shape[1:]))))


def check_comparable(dtypes: Sequence[str]) -> None:
    """Raises UserError where releases of bytes are to be compared with others."""
    if len({dtype == "uint8" for dtype in dtypes}) > 1:
        raise UserError(
            f"rows of {' and '.join(sorted({*dtypes}))} cannot be compared; give --dtype as it "
            "was, or leave the other releases out"
        )
