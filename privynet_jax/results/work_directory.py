"""The work directory: settings, one file per finished cell, and tables made from them.

It holds `config.json` (the settings that decide the numbers), `cells/<name>.npz` and
`cells/<name>.json` (one cell each, written atomically; the JSON file comes last and says "done"),
`test_pictures.npz` (what is known of the test images before any attack), and the tables. One
process writes them. No JAX here.

    store = ResultStore.open(Path("runs/first"), config)
    store.save(result, arrays)
    store.write_tables(names)

    store, config = ResultStore.existing(Path("runs/first"))  # changes nothing in it
    results = store.grid_results(config)
"""

import contextlib
import csv
import dataclasses
import io
import itertools
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from privynet_jax.backbone.backbones import DEFAULT
from privynet_jax.backbone.topology import DIRECT, Topology
from privynet_jax.errors import UserError
from privynet_jax.images.folders import is_private
from privynet_jax.platform.files import write_atomically, write_shared
from privynet_jax.platform.resuming import check_same_settings
from privynet_jax.results.cell_results import AttackResult, CellResult, cell_name
from privynet_jax.results.text_tables import as_csv

# What reading damaged JSON, tables or archives of arrays may raise.
_DAMAGE = (OSError, ValueError, EOFError, TypeError, KeyError, AttributeError, RuntimeError)
_DAMAGE += (zipfile.BadZipFile, zlib.error)
# Rises when cells keep something else: folders of before are refused.
FORMAT = 2
_CONFIG, TEST_PICTURES, REFERENCES = "config.json", "test_pictures.npz", "reference.csv"
_CONTINUE = (
    "delete it and run its experiments.characterize command again, which makes it anew; if another "
    "version of privynet_jax made it, characterise again in a new folder"
)
# What `existing` promises of the settings.
_GRID, _SCHEDULES = ("layers", "depths"), ("cloud", "attacker")
_NEEDED = {
    **dict.fromkeys((*_GRID, "selections", "attackers"), list),
    **dict.fromkeys(("draws", "image_size", "seed", "examples", "format"), int),
    **dict.fromkeys(("backbone", "dataset", "mode", "feature_dtype"), str),
    **dict.fromkeys(("data_fingerprint", "weights_fingerprint"), str),
    **dict.fromkeys((*_SCHEDULES, "max_images"), dict),
}


@dataclasses.dataclass(frozen=True)
class ResultStore:
    """A work directory whose settings were checked; made by `ResultStore.open`."""

    workdir: Path
    # Results read before: the tables are written after every cell, and need all of them.
    _loaded: dict[str, CellResult] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )

    @classmethod
    def open(cls, workdir: Path, config: Mapping[str, Any]) -> "ResultStore":
        """Opens a work directory, creating it when new, with settings that JSON can hold.

        One of fewer draws takes more: each cell has a key of its own.

        Raises:
            UserError: the folder was made with other settings, or its `config.json` is damaged.
        """
        path, otherwise = workdir / _CONFIG, "or a new folder as --workdir"
        wanted = json.loads(json.dumps(config))  # tuples become lists, as they will be when read
        content = json.dumps(wanted, indent=2) + "\n"
        if not path.exists():
            _check_empty(workdir, path)
            is_ours = not workdir.exists()
            workdir.mkdir(parents=True, exist_ok=True)
            if is_ours and is_private(config.get("dataset", "")):
                os.chmod(workdir, 0o700)
            write_shared(path, [content.encode()], replace=False)
        # Also when it was not there: another process may have been faster, with other settings.
        with _whole(path, f"restore it, {otherwise}"):
            kept = {**json.loads(path.read_text())}  # raises for what is no dictionary
        if _asks_for_more_draws(kept, wanted):
            write_atomically(path, content)
        else:
            check_same_settings(f"{workdir} was made", kept, wanted, otherwise)
        (workdir / "cells").mkdir(exist_ok=True)
        return cls(workdir)

    @classmethod
    def existing(cls, workdir: Path) -> tuple["ResultStore", dict[str, Any]]:
        """Opens a work directory to read it, and returns it with its settings; writes nothing.

        Raises:
            UserError: it is no work directory, or its settings are damaged or of another version.
        """
        path = workdir / _CONFIG
        if not path.is_file():
            raise UserError(
                f"{workdir} is no work directory: it has no config.json; give the --workdir of a "
                "finished experiments.characterize"
            )
        with _whole(path, "restore it, or characterise again in a new folder"):
            config = {**json.loads(path.read_text())}
        if wrong := [name for name in _NEEDED if not _is_usable(name, config.get(name))]:
            raise UserError(
                f"{path} says nothing usable of {', '.join(wrong)}: it is damaged, or another "
                "version of privynet_jax made it; characterise again in a new folder"
            )
        return cls(workdir), config

    def grid_results(self, config: Mapping[str, Any]) -> list[CellResult]:
        """Returns the results of the grid of such settings, by layers, depth and draw.

        Raises:
            UserError: cells are missing, damaged or of another version.
        """
        results, missing = self.present_results(config)
        if missing:
            layers, depth, selection, draw = missing[0]
            raise UserError(
                f"{self.workdir} is not finished: {len(missing)} of {len(results) + len(missing)} "
                f"cells are missing, the first with {layers} layers, depth {depth}, selection "
                f"{selection}, draw {draw}; run its experiments.characterize command again, which "
                "does the rest"
            )
        return results

    def present_results(
        self, config: Mapping[str, Any]
    ) -> tuple[list[CellResult], list[tuple[int, int, str, int]]]:
        """Returns what is there of the grid of such settings, and which cells are not.

        Of those are given layers, depth, selection and draw, in the order of the results. Raises
        UserError where cells are damaged or of another version.
        """
        names = [path.stem for path in sorted((self.workdir / "cells").glob("*.json"))]
        results = map(self.load, filter(self.has, names))
        characterised = {(r.num_layers, r.depth, r.selection, r.draw): r for r in results}
        axes = (*(sorted(config[key]) for key in _GRID), config["selections"])
        wanted = list(itertools.product(*axes, range(config["draws"])))
        if only := config.get("only"):
            wanted = [cell for cell in wanted if cell_name(*cell) in only]
        present = [characterised[cell] for cell in wanted if cell in characterised]
        return present, [cell for cell in wanted if cell not in characterised]

    def save(self, result: CellResult, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes one finished cell: per-image and example arrays first, then the result."""
        _write_arrays(self._path(result.name, "npz"), arrays)
        content = json.dumps(dataclasses.asdict(result), indent=1)
        write_atomically(self._path(result.name, "json"), content)
        self._loaded.pop(result.name, None)

    def has(self, name: str) -> bool:
        """Whether a cell of this name is finished."""
        return self._path(name, "json").exists() and self._path(name, "npz").exists()

    def load(self, name: str) -> CellResult:
        """Returns a finished cell; UserError where it is missing, damaged or of another version."""
        path = self._path(name, "json")
        with _whole(path):
            content = json.loads(path.read_text())
            attacks = tuple(AttackResult.from_json(entry) for entry in content.pop("attacks"))
            if not attacks:
                raise ValueError("a cell without attacks")
            channels = tuple(content.pop("channels"))
            return CellResult(**content, channels=channels, attacks=attacks)

    def load_arrays(self, name: str) -> dict[str, np.ndarray]:
        """Returns the arrays that were saved with a cell."""
        return _read_arrays(self._path(name, "npz"))

    def save_test_pictures(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps what is known of the test images before any attack.

        That is "labels", int [N]; "class_names" by label; "sources", int [N], from which photograph
        or person each image is; "label_names" where it may have several; "mean_image_" and a
        metric, float [N], of answering the auxiliary mean image.
        """
        _write_arrays(self.workdir / TEST_PICTURES, arrays)

    def load_test_pictures(self) -> dict[str, np.ndarray]:
        """Returns what `save_test_pictures` kept; UserError where it is missing or damaged."""
        arrays = _read_arrays(self.workdir / TEST_PICTURES)
        if not {"labels", "sources"} <= arrays.keys():
            raise UserError(f"{self.workdir / TEST_PICTURES} is missing or damaged; {_CONTINUE}")
        return arrays

    def save_candidates(
        self, selection: str, num_layers: int, depth: int, channels: Sequence[int]
    ) -> None:
        """Keeps the channels that a selection draws from; of direct, those that it releases."""
        path = self._candidates(selection, num_layers, depth)
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, json.dumps({"channels": channels}) + "\n")

    def has_candidates(self, selection: str, num_layers: int, depth: int) -> bool:
        """Whether `save_candidates` was called."""
        return self._candidates(selection, num_layers, depth).exists()

    def load_candidates(
        self, selection: str, num_layers: int, depth: int, backbone: str = DEFAULT
    ) -> tuple[int, ...]:
        """Returns what `save_candidates` kept; UserError where it is missing or damaged."""
        path = self._candidates(selection, num_layers, depth)
        with _whole(path):
            content = json.loads(path.read_text())
            # A topology knows which channels there are, and that each may be given once.
            channels = Topology(num_layers, content["channels"], backbone).channels
            if len(channels) < depth or (selection == DIRECT and len(channels) > depth):
                raise ValueError("too many channels, or too few")
            return channels

    def write_tables(self, names: Sequence[str]) -> list[CellResult]:
        """Writes `results.csv` and `attacks.csv` from the finished ones of the named cells."""
        finished = [name for name in names if self.has(name)]
        self._loaded.update({n: self.load(n) for n in finished if n not in self._loaded})
        results = [self._loaded[name] for name in finished]
        self.write_csv("results.csv", [result.row() for result in results])
        self.write_csv("attacks.csv", [row for result in results for row in result.attack_rows()])
        return results

    def write_csv(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes a table atomically; nothing where there are no rows."""
        if rows:
            write_atomically(self.workdir / name, as_csv(rows))

    def read_csv(self, name: str) -> list[dict[str, str]]:
        """Returns a table's rows as text by column."""
        path = self.workdir / name
        with _whole(path):
            return list(csv.DictReader(path.read_text().splitlines()))

    def _candidates(self, selection: str, num_layers: int, depth: int) -> Path:
        return self.workdir / "candidates" / f"{selection}_m{num_layers:02d}_d{depth:03d}.json"

    def _path(self, name: str, suffix: str) -> Path:
        return self.workdir / "cells" / f"{name}.{suffix}"


def _is_usable(name: str, value: Any) -> bool:
    if not isinstance(value, _NEEDED[name]):
        return False
    if name in _GRID:
        return bool(value) and all(type(number) is int for number in value)
    return value != [] if name == "selections" else name not in _SCHEDULES or "steps" in value


def _asks_for_more_draws(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    before, now = kept.get("draws"), wanted.get("draws")
    return isinstance(before, int) and {**kept, "draws": now} == wanted and before < now


def _check_empty(workdir: Path, config: Path) -> None:
    # Hidden files do not count: a run killed in its first moment may leave one.
    content = workdir.is_dir() and any(not file.name.startswith(".") for file in workdir.iterdir())
    # Another process may have made the folder a work directory since this one looked.
    if content and not config.exists():
        raise UserError(
            f"{workdir} is not empty and has no config.json, so it is no work directory; "
            "give a new folder as --workdir"
        )


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    with _whole(path), np.load(path) as arrays:  # allow_pickle stays off
        return dict(arrays)


@contextlib.contextmanager
def _whole(path: Path, remedy: str = _CONTINUE) -> Iterator[None]:
    """Turns whatever reading a file may raise into one refusal."""
    try:
        yield
    except _DAMAGE:
        raise UserError(f"{path} is missing or damaged; {remedy}") from None
