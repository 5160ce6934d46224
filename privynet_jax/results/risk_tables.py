"""Who is at risk: the strongest attack of each cell, picture by picture and class by class.

`characterisation` writes the tables with the usual threshold, `experiments.risk` with any other.
All comes from the values per image that a work directory keeps. No JAX here.

    pictures = AttackedPictures.from_arrays(store.load_test_pictures())
    row = risk_row(result, store.load_arrays(result.name), pictures, mode="dedicated")
    row["recognisable"], row["psnr_db_p95_low"], row["psnr_db_p95_high"]
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.statistics import bootstrap, mean_of, p95_of, share_of, summarise
from privynet_jax.results.work_directory import ResultStore

RISK, RISK_CLASSES = "risk.csv", "risk_classes.csv"
# A reconstruction counts as recognisable from this SSIM on. A convention of ours: people agree only
# weakly with any fixed value of such a metric (Sun et al. 2023, arXiv:2309.13038).
RECOGNISABLE_SSIM = 0.5
PERCEPTUAL = "perceptual"
_METRICS = ("psnr_db", "ssim")
_DEDICATED = "dedicated"  # the only mode that scores all test images, in their own order


@dataclasses.dataclass(frozen=True, eq=False)
class AttackedPictures:
    """What is known of the test images before anybody attacks them.

    Attributes:
        labels: int [N].
        class_names: by label.
        mean_image: "psnr_db" and "ssim" -> float [N], of answering the auxiliary mean image.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    mean_image: Mapping[str, np.ndarray]

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns it as the arrays that a work directory keeps."""
        quality = {f"mean_image_{name}": values for name, values in self.mean_image.items()}
        return {"labels": self.labels, "class_names": np.array(self.class_names), **quality}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "AttackedPictures":
        """Returns what `arrays` made of it; KeyError for anything else."""
        return cls(
            labels=arrays["labels"],
            class_names=tuple(map(str, arrays["class_names"])),
            mean_image={name: arrays[f"mean_image_{name}"] for name in _METRICS},
        )

    def scored(self, count: int, mode: str) -> np.ndarray:
        """Returns int [count], which test images a cell's values belong to, in their order.

        Args:
            count: how many values a cell has.
            mode: of the characterisation; estimates, and attackers who optimise each image, score
                a sample spread over classes.
        """
        if mode == _DEDICATED and count == len(self.labels):
            return np.arange(count)
        return spread_over_classes(self.labels, count)


def write_risk_tables(
    store: ResultStore,
    results: Sequence[CellResult],
    pictures: AttackedPictures,
    mode: str,
    threshold: float = RECOGNISABLE_SSIM,
) -> list[dict[str, Any]]:
    """Writes `risk.csv` and `risk_classes.csv`; returns the rows of the first.

    Args:
        store: of finished cells.
        results: those cells'.
        pictures: the test images.
        mode: of the characterisation.
        threshold: SSIM from which a reconstruction counts as recognisable.

    Raises:
        UserError: a cell's arrays are damaged.
    """
    rows, by_class = [], []
    for result in results:
        arrays = store.load_arrays(result.name)
        _check_arrays(result, arrays, pictures, store.workdir)
        rows.append(risk_row(result, arrays, pictures, mode, threshold))
        by_class += class_rows(result, arrays, pictures, mode, threshold)
    store.write_csv(RISK, rows)
    store.write_csv(RISK_CLASSES, by_class)
    return rows


def risk_row(
    result: CellResult,
    arrays: Mapping[str, np.ndarray],
    pictures: AttackedPictures,
    mode: str,
    threshold: float = RECOGNISABLE_SSIM,
) -> dict[str, Any]:
    """Returns a cell's row of `risk.csv`, of its strongest attacker by mean PSNR.

    `gain_db` is, picture by picture, how much better the attack is than answering the auxiliary
    mean image: what the representation gave away. `recognisable` is the share of pictures that are
    rebuilt with an SSIM of `threshold` or more. Columns that end in `_low` and `_high` are 95 %
    intervals. `perceptual` is `perceptual.PerceptualDistance`, the smaller the more is
    lost, on the first so many pictures of a sample; empty where the work directory has none.
    """
    values = strongest_values(result, arrays)
    rows = pictures.scored(len(values["psnr_db"]), mode)
    row: dict[str, Any] = {
        **result.identity(),
        "attacker": result.strongest.attacker,
        "knowledge": result.strongest.knowledge,
        "images": len(rows),
    }
    for metric in _METRICS:
        row |= _with_intervals(metric, values[metric])
    gain = summarise(values["psnr_db"] - pictures.mean_image["psnr_db"][rows])
    row |= {"gain_db_mean": gain.mean, "gain_db_p95": gain.p95, "gain_db_max": gain.max}
    recognisable = values["ssim"] >= threshold
    share = share_of(recognisable)
    row |= {
        "ssim_threshold": threshold,
        "recognisable": share.value,
        "recognisable_low": share.low,
        "recognisable_high": share.high,
    }
    distances = arrays.get(PERCEPTUAL, np.zeros(0))
    some = bool(len(distances))
    return row | {
        "perceptual_mean": float(distances.mean()) if some else "",
        "perceptual_min": float(distances.min()) if some else "",
        "perceptual_images": len(distances),
    }


def class_rows(
    result: CellResult,
    arrays: Mapping[str, np.ndarray],
    pictures: AttackedPictures,
    mode: str,
    threshold: float = RECOGNISABLE_SSIM,
) -> list[dict[str, Any]]:
    """Returns a cell's rows of `risk_classes.csv`: one per class that has test images."""
    values = strongest_values(result, arrays)
    labels = pictures.labels[pictures.scored(len(values["psnr_db"]), mode)]
    rows = []
    for label in np.unique(labels):
        members = labels == label
        row: dict[str, Any] = {
            **result.identity(),
            "class": pictures.class_names[label],
            "images": int(members.sum()),
        }
        for metric in _METRICS:
            summary = summarise(values[metric][members])
            row |= {
                f"{metric}_mean": summary.mean,
                f"{metric}_p95": summary.p95,
                f"{metric}_max": summary.max,
            }
        rows.append({**row, "recognisable": float((values["ssim"][members] >= threshold).mean())})
    return rows


def strongest_values(result: CellResult, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns "psnr_db" and "ssim" -> float64 [N] of the strongest attacker; KeyError without."""
    name = result.strongest.attacker
    return {metric: np.float64(arrays[f"{name}_{metric}"]) for metric in _METRICS}


def risk_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a text table of rows of `risk.csv`: privacy loss with intervals, tails and shares."""
    title = rows[0]["ssim_threshold"] if rows else RECOGNISABLE_SSIM
    header = (
        "layers   depth  selection  draw  attacker    PSNR dB (95 %)          p95 dB (95 %)       "
        f"  gain dB mean/p95/max  SSIM>={title:g} %         perceptual"
    )
    lines = [header, "-" * len(header)]
    for row in rows:
        gain = "/".join(f"{row[f'gain_db_{name}']:.1f}" for name in ("mean", "p95", "max"))
        distance = row["perceptual_mean"]
        lines.append(
            f"{row['num_layers']:2d} {row['layer']:<7} {row['depth']:3d}  {row['selection']:<9}  "
            f"{row['draw']:4d}  {row['attacker']:<10}  "
            f"{_ranged(row, 'psnr_db_mean'):<22}  {_ranged(row, 'psnr_db_p95'):<22}  "
            f"{gain:<20}  {_ranged(row, 'recognisable', 100):<19}  "
            + (f"{distance:.3f}" if distance != "" else "")
        )
    return "\n".join(line.rstrip() for line in lines)


def _check_arrays(
    result: CellResult,
    arrays: Mapping[str, np.ndarray],
    pictures: AttackedPictures,
    workdir: Path,
) -> None:
    shapes = {arrays.get(f"{result.strongest.attacker}_{m}", np.zeros(0)).shape for m in _METRICS}
    if len(shapes) > 1 or not 1 <= min(shapes)[0] <= len(pictures.labels):
        raise UserError(
            f"{workdir}/cells/{result.name}.npz has no value per test image; delete it and run "
            "experiments.characterize again"
        )


def _with_intervals(metric: str, values: np.ndarray) -> dict[str, float]:
    intervals = {"mean": bootstrap(values, mean_of), "p95": bootstrap(values, p95_of)}
    columns: dict[str, float] = {}
    for name, value in dataclasses.asdict(summarise(values)).items():
        columns[f"{metric}_{name}"] = value
        if name in intervals:
            columns[f"{metric}_{name}_low"] = intervals[name].low
            columns[f"{metric}_{name}_high"] = intervals[name].high
    return columns


def _ranged(row: Mapping[str, Any], name: str, factor: float = 1.0) -> str:
    value, low, high = (factor * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:5.1f} ({low:.1f}-{high:.1f})"
