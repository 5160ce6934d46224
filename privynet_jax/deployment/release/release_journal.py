"""Where a release may lie, and how far it is: what makes the same command continue after a kill.

    journal = begin(folder, identity)  # None: the release is complete and sound
    journal.add(0, stop=1024, skipped=[17])

The journal is a hidden, private file beside the unfinished release. It never lies inside, because
it tells which pictures were skipped; and without it nobody knows how many rows a shard has.
"""

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from privynet_jax.deployment.release.release_files import (
    MANIFEST,
    ReleaseFiles,
    refuse_foreign_files,
)
from privynet_jax.deployment.release.release_folder import open_release
from privynet_jax.deployment.release.release_manifest import read_manifest
from privynet_jax.errors import UserError
from privynet_jax.platform.files import write_atomically

_VERSION = 2
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass
class Journal:
    """What is finished: of each shard its end in the secret order, and what was skipped there."""

    path: Path
    id: str
    shards: list[tuple[int, list[int]]] = dataclasses.field(default_factory=list)
    copies: dict[int, int] | None = None  # copy -> original, known -> itself

    @classmethod
    def beside(cls, folder: Path, identity: str) -> "Journal | None":
        """Returns the journal of an unfinished release, or None if there is none of that id."""
        path = journal_path(folder)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            shards = [(int(stop), list(map(int, skipped))) for stop, skipped in content["shards"]]
            copies = content["copies"]
            if copies is not None:
                copies = {int(copy): int(original) for copy, original in copies}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        stops = [stop for stop, _ in shards]
        is_ours = (content.get("version"), content.get("id")) == (_VERSION, identity)
        if not is_ours or stops != sorted(set(stops)):
            return None
        return cls(path, identity, shards, copies)

    def save(self) -> None:
        """Writes all that is known."""
        copies = None if self.copies is None else list(self.copies.items())
        content = {"version": _VERSION, "id": self.id, "shards": self.shards, "copies": copies}
        write_atomically(self.path, json.dumps(content) + "\n", private=True)

    def start(self, index: int) -> int:
        """Returns where a shard begins in the secret order."""
        return self.shards[index - 1][0] if index else 0

    def count(self, index: int) -> int:
        """Returns how many rows a known shard has."""
        stop, skipped = self.shards[index]
        return stop - self.start(index) - len(skipped)

    def add(self, index: int, stop: int, skipped: list[int]) -> None:
        """Notes a shard; what follows is forgotten if it would begin elsewhere now."""
        if index >= len(self.shards) or self.shards[index] != (stop, skipped):
            self.shards[index:] = [(stop, skipped)]
            self.save()

    def skipped(self) -> list[int]:
        """Returns all places in the secret order that were skipped."""
        return [place for _, places in self.shards for place in places]


def is_begun(folder: Path) -> bool:
    """Whether a release lies there, maybe unfinished; UserError for files of something else."""
    if not folder.exists() or not any(folder.iterdir()):
        return False
    refuse_foreign_files(folder)
    return True


def begin(folder: Path, identity: str) -> Journal | None:
    """Returns the journal to go on with, or None for a complete release; else UserError."""
    new, journal = Journal(journal_path(folder), identity), Journal.beside(folder, identity)
    if not is_begun(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        new.save()  # before there is a folder that it explains
        return new
    if (folder / MANIFEST).exists():
        if read_manifest(ReleaseFiles(folder)).id != identity:
            raise _other(folder, "a release")
        try:
            open_release(folder)
            return None
        except UserError as error:
            _LOG.warning("%s; it is extracted again", str(error).partition(";")[0])
        journal = journal or new
        journal.save()
        (folder / MANIFEST).unlink()
    if journal is None:
        raise _other(folder, "an unfinished release")
    return journal


def _other(folder: Path, what: str) -> UserError:
    return UserError(
        f"{folder} holds {what} of other pictures, another package or other settings; give these "
        "again, or another --out, or delete the folder"
    )


def check_places(
    folder: Path, order_out: Path | None, of_pictures: Path | None, private: Sequence[Path]
) -> None:
    """Raises UserError where a file would leave the device, or pass for a picture."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out={folder} is no folder; give a new one")
    for path in (of_pictures, *private):
        if path is not None and _is_inside(folder, path):
            raise UserError(f"--out={folder} lies in {path}, which stays here; give another folder")
    if order_out is None:
        return
    elsewhere = {folder: "in the release, so it would leave the device with it"}
    if of_pictures is not None:
        elsewhere[of_pictures] = "among the pictures and would pass for one"
    for path, why in elsewhere.items():
        if _is_inside(order_out, path):
            raise UserError(f"--order_out={order_out} lies {why}; give a file elsewhere")
    if order_out.is_dir() or not order_out.parent.is_dir():
        raise UserError(f"--order_out={order_out} cannot be a file; give one in a folder there is")


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def journal_path(folder: Path) -> Path:
    """Returns where the journal of a release lies: beside it, hidden."""
    whole = folder.resolve()
    return whole.with_name(f".{whole.name}.extracting")
