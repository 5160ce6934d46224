"""One frozen row per cell, and the work directory that keeps them.

A work directory holds `config.json` (the settings that decide the numbers), `cells/<name>.json` and
`cells/<name>.npz` (one cell each, written atomically; the JSON file comes last and says "done") and
tables made from them. `grid` fills it, `planner` reads the tables. No JAX here.

    store = ResultStore.open(Path("runs/first"), config)
    store.save(result, arrays)
    store.write_tables()
"""

import csv
import dataclasses
import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.files import write_atomically
from privynet_jax.risk import Distribution, summarise

# What reading a damaged archive of arrays may raise.
_DAMAGE = (OSError, ValueError, EOFError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """How well one attacker rebuilds the test images of one cell, which it never saw.

    Attributes:
        attacker: its name.
        psnr_db: over test images, peak 1.0.
        ssim: over test images.
        validation_psnr_db_mean: over validation images, for planning.
    """

    attacker: str
    psnr_db: Distribution
    ssim: Distribution
    validation_psnr_db_mean: float

    @classmethod
    def of_images(
        cls, attacker: str, by_part: Mapping[str, Mapping[str, np.ndarray]]
    ) -> "AttackResult":
        """Summarises an attack.

        Args:
            attacker: its name.
            by_part: "validation" and "test" -> "psnr_db" and "ssim" -> one value per image.
        """
        return cls(
            attacker=attacker,
            psnr_db=summarise(by_part["test"]["psnr_db"]),
            ssim=summarise(by_part["test"]["ssim"]),
            validation_psnr_db_mean=summarise(by_part["validation"]["psnr_db"]).mean,
        )

    def columns(self) -> dict[str, float | str]:
        """Returns the flat columns that every table uses."""
        columns: dict[str, float | str] = {}
        for metric in ("psnr_db", "ssim"):
            for statistic, value in dataclasses.asdict(getattr(self, metric)).items():
                columns[f"{metric}_{statistic}"] = value
        columns["validation_psnr_db_mean"] = self.validation_psnr_db_mean
        columns["attacker"] = self.attacker
        return columns


@dataclasses.dataclass(frozen=True)
class CellResult:
    """What characterising one topology gave.

    Attributes:
        name: the cell's name.
        num_layers: local convolution layers.
        layer: VGG16's name of the last one.
        depth: released channels.
        draw: which random draw of channels.
        channels: their indices.
        accuracy: of the cloud NN on test images, in [0, 1].
        validation_accuracy: the same on validation images, for planning.
        attacks: one entry per attacker.
        cost: the local NN's cost, by column: local_macs, local_param_bytes,
            local_activation_bytes (peak), release_bytes; per image where that applies.
        train_seconds: wall-clock seconds of the cell's group, shared equally among its cells.
    """

    name: str
    num_layers: int
    layer: str
    depth: int
    draw: int
    channels: tuple[int, ...]
    accuracy: float
    validation_accuracy: float
    attacks: tuple[AttackResult, ...]
    cost: Mapping[str, int]
    train_seconds: float

    @property
    def strongest(self) -> AttackResult:
        """The attacker with the highest mean PSNR: the cell's privacy loss is its."""
        return max(self.attacks, key=lambda attack: attack.psnr_db.mean)

    def _identity(self) -> dict[str, Any]:
        return {
            "num_layers": self.num_layers,
            "layer": self.layer,
            "depth": self.depth,
            "draw": self.draw,
            "channels": " ".join(map(str, self.channels)),
        }

    def row(self) -> dict[str, Any]:
        """Returns the cell's row of `results.csv`; privacy columns are the strongest attacker's."""
        return {
            **self._identity(),
            "accuracy": self.accuracy,
            "validation_accuracy": self.validation_accuracy,
            **self.strongest.columns(),
            **self.cost,
            "train_seconds": round(self.train_seconds, 3),
        }

    def attack_rows(self) -> list[dict[str, Any]]:
        """Returns the cell's rows of `attacks.csv`, one per attacker."""
        return [{**self._identity(), **attack.columns()} for attack in self.attacks]


@dataclasses.dataclass(frozen=True)
class ResultStore:
    """A work directory whose settings were checked; made by `ResultStore.open`."""

    workdir: Path

    @classmethod
    def open(cls, workdir: Path, config: Mapping[str, Any]) -> "ResultStore":
        """Opens a work directory, creating it when new.

        Args:
            workdir: the folder.
            config: JSON-able settings that decide the numbers.

        Raises:
            UserError: the folder was made with other settings, or its `config.json` is damaged.
        """
        path = workdir / "config.json"
        wanted = json.loads(json.dumps(config))  # tuples become lists, as they will be when read
        if path.exists():
            _check_same_config(workdir, _read_json(path), wanted)
        elif workdir.is_dir() and any(not file.name.startswith(".") for file in workdir.iterdir()):
            # Hidden files do not count: a run killed in its first moment may leave one.
            raise UserError(
                f"{workdir} is not empty and has no config.json, so it is no work directory; "
                "give a new folder as --workdir"
            )
        else:
            workdir.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(wanted, indent=2) + "\n")
        (workdir / "cells").mkdir(exist_ok=True)
        return cls(workdir)

    def save(self, result: CellResult, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes one finished cell: per-image and example arrays first, then the result."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(self._path(result.name, "npz"), buffer.getvalue())
        content = json.dumps(dataclasses.asdict(result), indent=1)
        write_atomically(self._path(result.name, "json"), content)

    def has(self, name: str) -> bool:
        """Whether a cell of this name is finished."""
        return self._path(name, "json").exists()

    def load(self, name: str) -> CellResult:
        """Returns a finished cell.

        Raises:
            UserError: the file is damaged.
        """
        path = self._path(name, "json")
        content = _read_json(path)
        try:
            attacks = tuple(_attack_from(entry) for entry in content.pop("attacks"))
            if not attacks:
                raise KeyError("attacks")
            channels = tuple(content.pop("channels"))
            return CellResult(**content, channels=channels, attacks=attacks)
        except (KeyError, TypeError, AttributeError):
            raise _damaged(path) from None

    def load_arrays(self, name: str) -> dict[str, np.ndarray]:
        """Returns the arrays that were saved with a cell."""
        path = self._path(name, "npz")
        try:
            with np.load(path) as arrays:  # allow_pickle stays off
                return dict(arrays)
        except _DAMAGE:
            raise _damaged(path) from None

    def write_tables(self, names: Sequence[str]) -> list[CellResult]:
        """Writes `results.csv` and `attacks.csv` from the finished ones of the named cells."""
        results = [self.load(name) for name in names if self.has(name)]
        self.write_csv("results.csv", [result.row() for result in results])
        self.write_csv("attacks.csv", [row for result in results for row in result.attack_rows()])
        return results

    def write_csv(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes a table atomically; nothing where there are no rows."""
        if not rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.workdir / name, text.getvalue())

    def read_csv(self, name: str) -> list[dict[str, str]]:
        """Returns a table's rows as text by column."""
        path = self.workdir / name
        if not path.exists():
            raise _damaged(path)
        try:
            return list(csv.DictReader(path.read_text().splitlines()))
        except UnicodeDecodeError:
            raise _damaged(path) from None

    def _path(self, name: str, suffix: str) -> Path:
        return self.workdir / "cells" / f"{name}.{suffix}"


def _check_same_config(workdir: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    keys = sorted(set(found) | set(wanted))
    differences = [
        f"{key} was {found.get(key)!r} and is now {wanted.get(key)!r}"
        for key in keys
        if found.get(key) != wanted.get(key)
    ]
    if differences:
        raise UserError(
            f"{workdir} was made with other settings: {'; '.join(differences)}; "
            "give the old settings, or a new folder as --workdir"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        raise _damaged(path) from None
    if not isinstance(content, dict):
        raise _damaged(path)
    return content


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is missing or damaged; delete it and run again to have it made anew")


def _attack_from(entry: Mapping[str, Any]) -> AttackResult:
    return AttackResult(
        attacker=entry["attacker"],
        psnr_db=Distribution(**entry["psnr_db"]),
        ssim=Distribution(**entry["ssim"]),
        validation_psnr_db_mean=entry["validation_psnr_db_mean"],
    )
