"""Who is at risk: the strongest attack of each cell, picture by picture and class by class.

All comes from the values per image that a work directory keeps. Intervals, which take longest, are
made by whoever measured the cell (`cell_rows`). No JAX here.

    row = risk_row(
        result, store.load_arrays(result.name), store.load_test_pictures(), mode="dedicated"
    )
    row["recognisable"], row["psnr_db_p95_low"], row["psnr_db_p95_high"]
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.images.partition import galleries, spread_over_classes
from privynet_jax.results import statistics
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.statistics import Interval, summarise
from privynet_jax.results.text_tables import aligned, bracketed
from privynet_jax.results.work_directory import ResultStore

RISK, RISK_CLASSES = "risk.csv", "risk_classes.csv"
# A reconstruction counts as recognisable from this SSIM on. A convention of ours: people agree only
# weakly with any fixed value of such a metric (Sun et al. 2023, arXiv:2309.13038).
RECOGNISABLE_SSIM = 0.5
INTERVALS = "intervals_over_sources"
_METRICS = ("psnr_db", "ssim", "haarpsi")
_SOURCES, _IDENTIFIED = "sources", "identified"
# What has a bootstrap interval, in the order of `intervals_of`.
_STATISTICS = {"mean": statistics.mean_of, "p95": statistics.p95_of}
_WITH_ENDS = tuple(f"{metric}_{name}" for metric in _METRICS for name in _STATISTICS)
_DEDICATED = "dedicated"


def scored(labels: np.ndarray, count: int, mode: str) -> np.ndarray:
    """Returns int [count], which test images, of such labels, a cell's values belong to, in order.

    Estimates, and attackers who optimise each image, score a sample spread over classes. In the
    mode dedicated rows ascend: all of them, or the sample.
    """
    rows = spread_over_classes(labels, count)
    return np.sort(rows) if mode == _DEDICATED else rows


def write_risk_tables(
    store: ResultStore,
    results: Sequence[CellResult],
    mode: str,
    threshold: float = RECOGNISABLE_SSIM,
) -> list[dict[str, Any]]:
    """Writes `risk.csv` and `risk_classes.csv` of finished cells; returns the rows of the first.

    Raises:
        UserError: a cell's arrays are damaged, or those of the test images.
    """
    pictures = store.load_test_pictures()
    rows, by_class = [], []
    for result in results:
        arrays = store.load_arrays(result.name)
        shapes = {arrays.get(name, np.zeros(0)).shape for name in _names(result)}
        if len(shapes) > 1 or not 1 <= max(shapes)[0] <= len(pictures["labels"]):
            raise UserError(
                f"{store.workdir}/cells/{result.name}.npz has no value per test image; delete it "
                "and run experiments.characterize again"
            )
        found = result, arrays, pictures, mode, threshold
        rows.append(risk_row(*found))
        by_class += class_rows(*found)
    store.write_csv(RISK, rows)
    store.write_csv(RISK_CLASSES, by_class)
    return rows


def risk_row(
    result: CellResult,
    arrays: Mapping[str, np.ndarray],
    pictures: Mapping[str, np.ndarray],
    mode: str,
    threshold: float = RECOGNISABLE_SSIM,
) -> dict[str, Any]:
    """Returns a cell's row of `risk.csv`, of its strongest attacker by mean PSNR.

    `gain_db` is, picture by picture, how much better the attack is than answering the auxiliary
    mean image: what the representation gave away. `recognisable` is the share of pictures that are
    rebuilt with an SSIM of `threshold` or more. Columns that end in `_low` and `_high` are 95 %
    intervals for other sources, such as photographs, of which `sources` are here. `identified` is
    the share of reconstructions that are more like their own picture than like any other of
    `identified_among`; empty for estimates.
    """
    values = strongest_values(result, arrays)
    rows = scored(pictures["labels"], len(values["psnr_db"]), mode)
    clusters = pictures[_SOURCES][rows]
    found = arrays[INTERVALS] if INTERVALS in arrays else intervals_of(result, arrays, clusters)
    ends = dict(zip(_WITH_ENDS, found.tolist(), strict=True))
    row: dict[str, Any] = {
        **result.identity(),
        "attacker": result.strongest.attacker,
        "knowledge": result.strongest.knowledge,
        "images": len(rows),
        "sources": len(np.unique(clusters)),
    }
    for metric in _METRICS:
        for name, value in dataclasses.asdict(summarise(values[metric])).items():
            row[f"{metric}_{name}"] = value
            if own := ends.get(f"{metric}_{name}"):
                row |= Interval(value, *own).columns(f"{metric}_{name}")
    row |= _tail("gain_db", values["psnr_db"] - pictures["mean_image_psnr_db"][rows])
    row["ssim_threshold"] = threshold
    recognisable = statistics.share_of(values["ssim"] >= threshold, clusters)
    row |= recognisable.columns("recognisable")
    found = arrays.get(f"{result.strongest.attacker}_{_IDENTIFIED}")
    among = "" if found is None else len(found) // galleries(len(found))
    share = dict.fromkeys(Interval(0.0, 0.0, 0.0).columns(_IDENTIFIED), "")
    if found is not None:
        share = statistics.share_of(found, clusters).columns(_IDENTIFIED)
    return row | share | {f"{_IDENTIFIED}_among": among}


def class_rows(
    result: CellResult,
    arrays: Mapping[str, np.ndarray],
    pictures: Mapping[str, np.ndarray],
    mode: str,
    threshold: float = RECOGNISABLE_SSIM,
) -> list[dict[str, Any]]:
    """Returns a cell's rows of `risk_classes.csv`: one per class that has test images."""
    values = strongest_values(result, arrays)
    labels = pictures["labels"]
    labels = labels[scored(labels, len(values["psnr_db"]), mode)]
    rows = []
    for label in np.unique(labels):
        members = labels == label
        row: dict[str, Any] = {
            **result.identity(),
            "class": str(pictures["class_names"][label]),
            "images": int(members.sum()),
        }
        for metric in _METRICS:
            row |= _tail(metric, values[metric][members])
        rows.append({**row, "recognisable": float((values["ssim"][members] >= threshold).mean())})
    return rows


def intervals_of(
    result: CellResult, arrays: Mapping[str, np.ndarray], clusters: np.ndarray
) -> np.ndarray:
    """Returns the ends of bootstrap intervals of the strongest attacker, float64 [6, 2].

    Of mean and 95th percentile of PSNR in dB, then of SSIM and of HaarPSI; half a second for 1,000
    images, which are of clusters int [N].
    """
    values = strongest_values(result, arrays).values()
    found = [
        statistics.bootstrap(own, of, clusters) for own in values for of in _STATISTICS.values()
    ]
    return np.array([(interval.low, interval.high) for interval in found])


def strongest_values(result: CellResult, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns metric -> float64 [N] of the strongest attacker; KeyError without."""
    names = zip(_METRICS, _names(result), strict=True)
    return {metric: np.float64(arrays[name]) for metric, name in names}


def risk_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a text table of rows of `risk.csv`: privacy loss with intervals, tails and shares."""
    return aligned([_risk_line(row) for row in rows])


def _risk_line(row: Mapping[str, Any]) -> dict[str, Any]:
    gain = "/".join(f"{row[f'gain_db_{name}']:.1f}" for name in ("mean", "p95", "max"))
    return {
        "layers": f"{row['num_layers']:2d} {row['layer']}",
        **{name: row[name] for name in ("depth", "selection", "draw", "attacker")},
        "sources": row["sources"],
        "PSNR dB (95 %)": ranged(row, "psnr_db_mean"),
        "p95 dB (95 %)": ranged(row, "psnr_db_p95"),
        "gain dB mean/p95/max": gain,
        f"SSIM>={row['ssim_threshold']:g} %": ranged(row, "recognisable", 100),
        "HaarPSI (95 %)": ranged(row, "haarpsi_mean", digits=2),
        "identified %": _identified(row),
    }


def _names(result: CellResult) -> list[str]:
    """The names of the strongest attacker's arrays, one per metric."""
    return [f"{result.strongest.attacker}_{metric}" for metric in _METRICS]


def _tail(metric: str, values: np.ndarray) -> dict[str, float]:
    summary = summarise(values)
    return {f"{metric}_{name}": getattr(summary, name) for name in ("mean", "p95", "max")}


def ranged(row: Mapping[str, Any], name: str, factor: float = 1.0, digits: int = 1) -> str:
    """Returns a number of a row with its interval over sources, as text."""
    value, low, high = (factor * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return bracketed(*(f"{number:.{digits}f}" for number in (value, low, high)))


def _identified(row: Mapping[str, Any]) -> str:
    if row[_IDENTIFIED] == "":
        return ""
    return f"{ranged(row, _IDENTIFIED, 100)} of {row[f'{_IDENTIFIED}_among']}"
