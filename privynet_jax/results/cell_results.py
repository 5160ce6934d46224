"""What characterising one cell gave: one frozen row, and the rows of its attacks. No JAX here.

result.row()["psnr_db_mean"]  # of the attacker who is strongest in this column
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from privynet_jax.backbone.backbones import DEFAULT
from privynet_jax.backbone.topology import RANDOM, Topology
from privynet_jax.results.accuracies import accuracies
from privynet_jax.results.statistics import Distribution, Interval, summarise

# Auxiliary images and their representations; neither the network nor which of its channels.
PAIRS = "pairs"
# The attacker that trains nothing.
CLOSED_FORM = "linear"
# Columns of the cloud NN.
ACCURACIES = tuple(
    prefix + name
    for name in ("accuracy", "balanced_accuracy", "commonest_class_share")
    for prefix in ("", "validation_")
)
_NO_GAIN = Interval(0.0, 0.0, 0.0)
_METRICS = ("psnr_db", "ssim", "validation_psnr_db", "validation_ssim")


def accuracy_columns(
    right: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Returns `ACCURACIES` from parts' `accuracies.accuracies`."""
    return {
        prefix + name: value
        for part, prefix in (("test", ""), ("validation", "validation_"))
        for name, value in accuracies(right[part], labels[part]).items()
    }


def cell_name(num_layers: int, depth: int, selection: str, draw: int) -> str:
    """Returns the name of the cell at such a place of a grid."""
    method = "" if selection == RANDOM else f"_{selection}"
    return f"m{num_layers:02d}_d{depth:03d}{method}_r{draw:02d}"


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """How well one attacker rebuilds the test images of one cell, which it never saw.

    Attributes:
        attacker: its name.
        knowledge: what it has besides the representations under attack, such as `PAIRS`.
        psnr_db, ssim: over test images, peak 1.0; of validation images, they are for planning.
        falling_percent_per_doubling: by how much its held-out squared error fell per doubling of
            training; 0 for closed forms; None where it was not trained for this cell alone.
        converged: whether twice the training would gain little (`training.convergence`); None
            where that is not known.
        gain_db: by how much its mean PSNR would rise with ten times the training, extrapolated
            (`training.extrapolation`); None where that is not known.
    """

    attacker: str
    knowledge: str
    psnr_db: Distribution
    ssim: Distribution
    validation_psnr_db: Distribution
    validation_ssim: Distribution
    falling_percent_per_doubling: float | None = None
    converged: bool | None = None
    gain_db: Interval | None = None

    @classmethod
    def of_images(
        cls,
        attacker: str,
        by_part: Mapping[str, Mapping[str, np.ndarray]],
        report: Mapping[str, Any],
    ) -> "AttackResult":
        """Summarises part -> metric -> one value per image, and an `attacks.base.Report`."""
        converged = report.get("converged")
        falling = float(report.get("falling_percent_per_doubling", 0.0))
        test, validation = by_part["test"], by_part["validation"]
        return cls(
            attacker=attacker,
            knowledge=report.get("knowledge", PAIRS),
            psnr_db=summarise(test["psnr_db"]),
            ssim=summarise(test["ssim"]),
            validation_psnr_db=summarise(validation["psnr_db"]),
            validation_ssim=summarise(validation["ssim"]),
            falling_percent_per_doubling=None if converged is None else falling,
            converged=converged,
            gain_db=Interval(*report["gain_db"]) if report.get("gain_db") else None,
        )

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "AttackResult":
        """Returns what `dataclasses.asdict` made; KeyError or TypeError for anything else."""
        distributions = {metric: Distribution(**entry[metric]) for metric in _METRICS}
        gain = entry.get("gain_db")  # older work directories do not have it
        return cls(**{**entry, **distributions, "gain_db": Interval(**gain) if gain else None})

    def training_columns(self) -> dict[str, float | bool | str]:
        """Returns the columns on how far training had come, empty where that is not known."""
        names = ("falling_percent_per_doubling", "converged")
        return {name: "" if self.converged is None else getattr(self, name) for name in names}

    def columns(self) -> dict[str, float | str]:
        """Returns the flat columns that every table uses."""
        numbers = {
            f"{metric}_{statistic}": value
            for metric in _METRICS
            for statistic, value in dataclasses.asdict(getattr(self, metric)).items()
        }
        return {**numbers, "attacker": self.attacker, "knowledge": self.knowledge}

    def limit_columns(self, prefix: str = "") -> dict[str, float]:
        """Returns the PSNR that ten times the training would reach, and its interval, in dB.

        Where the gain is not known, that is what was reached. "validation_" is the other prefix.
        """
        reached, gain = getattr(self, f"{prefix}psnr_db").mean, self.gain_db or _NO_GAIN
        ends = {"": gain.value, "_low": gain.low, "_high": gain.high}
        return {f"{prefix}psnr_db_limit{end}": reached + more for end, more in ends.items()}


@dataclasses.dataclass(frozen=True)
class CellResult:
    """What characterising one topology gave.

    Attributes:
        name, draw, selection: of the `cells.Cell`; num_layers, channels, backbone: its topology.
        layer: the backbone's name of the last local layer.
        depth: released channels.
        accuracy, balanced_accuracy, commonest_class_share: `accuracies.accuracies` of the cloud NN
            on test images; with "validation_", on validation images, for planning.
        attacks: one entry per attacker.
        cost: the local NN's, by column: local_macs, local_param_bytes, local_activation_bytes
            (peak), release_bytes; per image where that applies.
        environment: version of JAX and kind of device that computed it.
        train_seconds: wall-clock seconds of the cell's group, shared equally among its cells.
    """

    name: str
    num_layers: int
    layer: str
    depth: int
    selection: str
    draw: int
    channels: tuple[int, ...]
    accuracy: float
    validation_accuracy: float
    balanced_accuracy: float
    validation_balanced_accuracy: float
    commonest_class_share: float
    validation_commonest_class_share: float
    attacks: tuple[AttackResult, ...]
    cost: Mapping[str, int]
    environment: str
    train_seconds: float
    backbone: str = DEFAULT

    @property
    def topology(self) -> Topology:
        """What was characterised."""
        return Topology(self.num_layers, self.channels, self.backbone)

    @property
    def strongest(self) -> AttackResult:
        """The attacker with the highest mean PSNR: the cell's privacy loss is its."""
        return max(self.attacks, key=lambda attack: attack.psnr_db.mean)

    def identity(self) -> dict[str, Any]:
        """Returns the columns that say which cell this is, spelled alike in all tables."""
        names = ("num_layers", "layer", "depth", "selection", "draw")
        own = {name: getattr(self, name) for name in names}
        return {**own, "channels": " ".join(map(str, self.channels))}

    def row(self) -> dict[str, Any]:
        """Returns the cell's row of `results.csv`.

        Privacy loss is that of all attackers, column by column; `attacker` is the strongest.
        """
        columns = [attack.columns() for attack in self.attacks]
        worst = {
            name: value if isinstance(value, str) else max(own[name] for own in columns)
            for name, value in self.strongest.columns().items()
        }
        return {
            **self.identity(),
            **{name: getattr(self, name) for name in ACCURACIES},
            **worst,
            **self.strongest.training_columns(),
            **_limits(self.attacks),
            **_limits(self.attacks, "validation_"),
            **self.cost,
            "environment": self.environment,
            "train_seconds": round(self.train_seconds, 3),
        }

    def attack_rows(self) -> list[dict[str, Any]]:
        """Returns the cell's rows of `attacks.csv`, one per attacker."""
        own = self.identity()
        return [
            {**own, **each.columns(), **each.training_columns(), **_limits([each])}
            for each in self.attacks
        ]


def _limits(attacks: Sequence[AttackResult], prefix: str = "") -> dict[str, float | str]:
    """The columns of the attacker who would be the strongest; empty where no gain is known."""
    most = max((each.limit_columns(prefix) for each in attacks), key=lambda own: [*own.values()])
    return most if any(each.gain_db for each in attacks) else dict.fromkeys(most, "")
