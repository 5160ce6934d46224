"""What a characterisation lets one expect of every (layers, depth): the options to choose from.

`work_directory` hands over the results of the cells, `planner` chooses. Only validation columns
decide; the test columns are carried along to be reported. No JAX here.

    options = options_of(results, image_size=32, statistic="mean")
    options[0].expected.psnr_db.high  # what a new draw of channels stays under, 19 times out of 20

The cells of the selection `direct` all have the same channels, so its intervals are over trainings:
they say what a new training stays under.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from privynet_jax.backbone.backbones import DEFAULT
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError
from privynet_jax.mechanisms.on_device import NONE
from privynet_jax.planning.plan import Expectation, Measured, costs_of
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.statistics import Interval, new_draw, pooled_deviation

# Of the interval for one new draw; a limit is an upper one, so 5 % of draws exceed it.
COVERAGE = 0.9
# As many degrees of freedom as the spread counts for towards which another one is shrunk.
PRIOR_FREEDOM = 4
# Where every option has one draw nothing tells how draws differ. These are about the largest
# standard deviations that the quickstart's grid shows at any (layers, depth).
ASSUMED_SPREAD = {"accuracy": 0.05, "balanced_accuracy": 0.05, "psnr_db": 2.0, "ssim": 0.08}
# What a number can be at all, if not in [0, 1]: an interval may not promise more.
_BOUNDS = {"psnr_db": (0.0, 100.0), "ssim": (-1.0, 1.0)}
# Sums of equal numbers in another order differ by rounding, which must not decide.
_DIGITS = 9


@dataclasses.dataclass(frozen=True)
class Option:
    """One (layers, depth) that could be planned, with channels of one selection."""

    num_layers: int  # local ones
    depth: int  # released channels
    selection: str  # of the cells that the expectations come from
    draws: int  # characterised draws of channels behind the expectations; of direct, trainings
    expected: Expectation  # of a new random draw, on validation images; of direct, a new training
    cost: Mapping[str, float]  # by limit, in its unit; "latency_ms" only once it is measured
    tested: Mapping[str, float]  # what is expected, mean over draws on test images, to be reported
    backbone: str = DEFAULT  # name of the network that is split
    mechanism: str = NONE  # what devices do besides, with its parameters
    measured: Measured | None = None  # what its drawn channels were found to lose
    # Metric -> what is held against its limit, before the margin; None: what is expected says that.
    held: Mapping[str, float] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and depth."""
        return self.num_layers, self.depth

    @property
    def place(self) -> tuple[int, int, str]:
        """What no other option shares: layers, depth and mechanism."""
        return *self.shape, self.mechanism

    @property
    def layer(self) -> str:
        """The backbone's name of the last local layer."""
        return self.topology(range(self.depth)).layer.name

    def topology(self, channels: Sequence[int]) -> Topology:
        """Returns the option with channels that were drawn for it."""
        return Topology(self.num_layers, channels, self.backbone)

    @property
    def merit(self) -> float:
        """What options are chosen by: whoever only answers the commonest class has 1 / classes."""
        return round(self.expected.balanced_accuracy.value, _DIGITS)

    @property
    def rank(self) -> tuple[float, ...]:
        """Sorts better options first: more merit, then less privacy loss, then computation."""
        expected = self.expected
        return (
            -self.merit,
            expected.psnr_db.value,
            expected.ssim.value,
            self.cost["local_mmacs"],
            self.cost["release_kib"],
            *self.shape,
            self.mechanism != NONE,
            self.mechanism,
        )


def options_of(results: Sequence[CellResult], image_size: int, statistic: str) -> list[Option]:
    """Returns one option per (layers, depth), ascending, of results of one selection.

    The interval is for one new draw (`statistics.new_draw`), with the variance of draws around the
    mean of their option, shrunk towards that of the layer's options, which is shrunk towards that
    of all (after Smyth 2004, doi:10.2202/1544-6115.1027, with `PRIOR_FREEDOM`); where no option has
    two draws, it is `ASSUMED_SPREAD`. Cells that share channels and numbers count as one draw: an
    estimate of the same channels is made but once.

    The image size is the characterisation's, in pixels; the statistic, one of `plan.STATISTICS`, is
    that of privacy loss over images. Raises UserError where there are no results.
    """
    if len({result.selection for result in results}) > 1:
        raise ValueError("Expected results of one selection")
    if not results:
        raise UserError("there are no characterised cells; characterise some first")
    columns = {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced_accuracy",
        "psnr_db": f"psnr_db_{statistic}",
        "ssim": f"ssim_{statistic}",
    }
    groups, backbone = _groups(results, columns.values()), results[0].backbone
    shapes = sorted(groups)
    validated = {
        name: _intervals(
            {s: [row[f"validation_{column}"] for row in groups[s]] for s in shapes}, name
        )
        for name, column in columns.items()
    }
    limits = _limits(groups, validated["psnr_db"])
    return [
        Option(
            num_layers=shape[0],
            depth=shape[1],
            selection=results[0].selection,
            draws=len(groups[shape]),
            expected=Expectation(
                **{name: validated[name][shape] for name in columns},
                commonest_class_share=results[0].validation_commonest_class_share,
                psnr_db_limit=limits.get(shape),
            ),
            cost=costs_of(Topology(shape[0], range(shape[1]), backbone), image_size),
            tested={
                name: float(np.mean([row[column] for row in groups[shape]]))
                for name, column in columns.items()
            },
            backbone=backbone,
        )
        for shape in shapes
    ]


def spread_is_assumed(options: Sequence[Option]) -> bool:
    """Whether no option has a second draw, so that `ASSUMED_SPREAD` stands for what is unknown."""
    return all(option.draws == 1 for option in options)


def _groups(
    results: Sequence[CellResult], columns: Iterable[str]
) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """Returns (layers, depth) -> rows of `results.csv`, each set of channels and numbers once."""
    names = [f"{prefix}{column}" for column in columns for prefix in ("", "validation_")]
    groups: dict[tuple[int, int], dict[Any, dict[str, Any]]] = collections.defaultdict(dict)
    for result in results:
        row = result.row()
        same = (result.channels, *(row[name] for name in names))
        groups[result.num_layers, result.depth][same] = row
    return {shape: list(rows.values()) for shape, rows in groups.items()}


def _limits(
    groups: Mapping[tuple[int, int], Sequence[Mapping[str, Any]]],
    reached: Mapping[tuple[int, int], Interval],
) -> dict[tuple[int, int], Interval]:
    """What PSNR ten times the training would reach: nothing where any cell does not tell.

    A new draw's interval is that of what was reached, moved by the mean gain; both ends are as far
    off as that and the gain's own are together, as independent deviations.
    """
    if any(row["validation_psnr_db_limit"] == "" for rows in groups.values() for row in rows):
        return {}
    found = {}
    for shape, rows in groups.items():
        value, low, high = (
            float(np.mean([row[f"validation_psnr_db_{end}"] for row in rows]))
            for end in ("limit", "limit_low", "limit_high")
        )
        gain = value - float(np.mean([row["validation_psnr_db_mean"] for row in rows]))
        own = reached[shape]
        down = math.hypot(own.value - own.low, value - low)
        up = math.hypot(own.high - own.value, high - value)
        found[shape] = Interval(own.value + gain, own.value + gain - down, own.value + gain + up)
    return found


def _intervals(
    by_shape: Mapping[tuple[int, int], Sequence[float]], name: str
) -> dict[tuple[int, int], Interval]:
    bounds = _BOUNDS.get(name, (0.0, 1.0))
    intervals, of_all = {}, pooled_deviation(list(by_shape.values()))
    if not of_all[1]:
        of_all = ASSUMED_SPREAD[name], math.inf
    for shape, values in by_shape.items():
        layer = [v for other, v in by_shape.items() if other[0] == shape[0]]
        spread = of_all
        for closer in (layer, [values]):
            spread = _shrunk(pooled_deviation(closer), spread)
        draw = new_draw(values, *spread, COVERAGE)
        intervals[shape] = Interval(draw.value, max(draw.low, bounds[0]), min(draw.high, bounds[1]))
    return intervals


def _shrunk(own: tuple[float, int], prior: tuple[float, float]) -> tuple[float, float]:
    """Own standard deviation and freedom, if any, with a prior one that counts for a few."""
    if not own[1]:
        return prior
    counts = min(PRIOR_FREEDOM, prior[1])
    freedom = own[1] + counts
    return math.sqrt((own[1] * own[0] ** 2 + counts * prior[0] ** 2) / freedom), freedom
