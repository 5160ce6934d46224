"""Going on with what was begun: only with the settings of then, and without measuring rows twice.

    check_same_settings("runs/first was made", found, wanted, "or give a new folder as --workdir")
    kept = KeptRows(Path("runs/mechanisms"), {"seed": 0})
    if kept.read("layers 4, none") is None:
        kept.write("layers 4, none", {"accuracy": [0.61, 0.63]})

No JAX here.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privynet_jax.errors import UserError
from privynet_jax.platform.digests import sha256_of_json
from privynet_jax.platform.files import write_atomically

_SETTINGS = "settings.json"


def check_same_settings(
    what: str, found: Mapping[str, Any], wanted: Mapping[str, Any], otherwise: str
) -> None:
    """Raises UserError, naming all of them, where settings differ or only one side has them.

    Args:
        what: was done with the settings found, and where: "runs/first was made".
        found: as JSON gave them back.
        wanted: now, as JSON would give them back.
        otherwise: what to do instead of giving the old settings again, beginning with "or".
    """
    changed = [
        f"{name} was {found.get(name)!r} and is now {wanted.get(name)!r}"
        for name in sorted(set(found) | set(wanted))
        if found.get(name) != wanted.get(name)
    ]
    if changed:
        raise UserError(
            f"{what} with other settings: {'; '.join(changed)}; give the old settings, {otherwise}"
        )


class KeptRows:
    """A folder with one file per row, all measured with the same settings."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        """Opens the folder `out`/rows, which is made with the first row.

        The settings are whatever decides the numbers, and can be written as JSON. UserError where
        there are rows of other settings, or the file that says so is damaged.
        """
        self._folder = out / "rows"
        self._settings = json.dumps(settings, indent=1, sort_keys=True)
        path, anew = self._folder / _SETTINGS, f"delete the folder {self._folder} to begin anew"
        if not path.exists():
            return
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            raise UserError(f"{path} is damaged; {anew}") from None
        check_same_settings(f"{out} was begun", found, json.loads(self._settings), f"or {anew}")

    def read(self, title: str) -> dict[str, Any] | None:
        """Returns what was written of a row; None where it is missing or damaged."""
        try:
            found = json.loads(self._path(title).read_text(encoding="utf-8"))
            return found["measured"] if found["row"] == title else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, title: str, measured: Mapping[str, Any]) -> None:
        """Keeps a row under its title."""
        # Settings come with the first row, so that a run that fails before binds nobody to them.
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / _SETTINGS, self._settings)
        content = {"row": title, "measured": dict(measured)}
        write_atomically(self._path(title), json.dumps(content, indent=1))

    def _path(self, title: str) -> Path:
        # Titles hold commas, equals signs and more; the file says which row it is.
        return self._folder / f"{sha256_of_json(title)[:16]}.json"
