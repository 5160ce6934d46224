"""Which revocations a classifier was trained without: a list beside it, which stays in the cloud.

    note_revocations(Path("classifier"), revocations)  # classifier.revoked.json
    check_revocations(Path("classifier"), revocations)

A classifier goes to everybody, and its list does not: who has a package could try out on it which
pictures were withdrawn. No JAX here.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from privynet_jax.deployment.release.equal_rows import Revocation
from privynet_jax.errors import UserError
from privynet_jax.platform.documents import Hex64, read_document, write_document

_VERSION = 1


@dataclasses.dataclass(frozen=True)
class _Heeded:
    revocations: tuple[Hex64, ...]


def note_revocations(folder: Path, revocations: Sequence[Revocation]) -> None:
    """Writes the list beside a classifier's folder, for the user alone."""
    heeded = _Heeded(tuple(sorted({each.id for each in revocations})))
    write_document(_list_of(folder), heeded, _VERSION, private=True)


def check_revocations(folder: Path, revocations: Sequence[Revocation]) -> None:
    """Raises UserError unless a classifier was trained without what these withdraw, and no more."""
    given, heeded = {each.id for each in revocations}, set()
    path = _list_of(folder)
    if path.exists():
        remedy = "train anew, without --start"
        heeded = {*read_document(path, _Heeded, _VERSION, remedy, what="list").revocations}
    if new := given - heeded:
        raise UserError(
            f"{folder} may have learnt what {len(new)} of {len(given)} revocations withdraw, which "
            f"{path.name} beside it does not list; train anew, without --start"
        )
    if missing := heeded - given:
        raise UserError(
            f"{folder} was trained without what {len(missing)} further revocations withdraw; give "
            "them as --revoked, too, so that nobody learns it now"
        )


def _list_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.revoked.json")
