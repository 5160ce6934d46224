"""The cells of a grid: which topologies are characterised, the key of each, and what it measured.

Everything random about a cell (its channels, initial parameters, mini-batches) comes from its own
key, so a cell's numbers depend neither on the cells beside it nor on what ran before.

    cells = grid_cells(layers=(2, 4), depths=(8, 32), draws=2, seed=0)
    cells[0].name  # "m02_d008_r00"
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from privynet_jax.backbone.backbones import DEFAULT, backbone_named
from privynet_jax.backbone.topology import RANDOM, Topology
from privynet_jax.errors import UserError
from privynet_jax.results.cell_results import cell_name

# Of a grid: its cells are all in memory.
MOST_CELLS = 1_000_000
# Apart from the streams of a cell's tasks, which are small numbers.
_RELEASE = 2**31 - 1
# (selection, number of layers, depth) -> channels that draws are made from.
Candidates = Mapping[tuple[str, int, int], tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One topology of the grid: a draw of channels, from 0, from those that a selection found.

    Of the selection direct, whose channels are always the same, `draw` says which training.
    """

    topology: Topology
    draw: int
    selection: str = RANDOM

    @property
    def name(self) -> str:
        """A file name that sorts like (layers, depth, selection, draw), up to draw 99."""
        return cell_name(self.topology.num_layers, self.topology.depth, self.selection, self.draw)


@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """Everything measured about one cell, per image, before it is summarised.

    Attributes:
        accuracy: part name ("validation", "test") -> float32 [N], 1 where the cloud NN was right;
            [N, L] of several labels for each image.
        attacks: attacker -> part name -> metric of `scenario.score` -> float32 [N].
        examples: attacker -> uint8 [K, H, W, 3], its estimates of the K test images asked for.
        seconds: wall-clock time of the group, divided by its cells.
        reports: attacker -> what it says of itself (`attacks.base.Report`).
        labels: part name -> int [N], or [N, L], of the images that accuracy is of.
    """

    cell: Cell
    accuracy: Mapping[str, np.ndarray]
    attacks: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]
    examples: Mapping[str, np.ndarray]
    seconds: float
    reports: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def training_columns(self, attacker: str) -> dict[str, Any]:
        """Returns what tables say of an attacker's training; closed forms are through with it."""
        report = self.reports[attacker]
        return {
            "network": report.get("capacity", ""),
            "steps": report.get("steps", 0),
            "learning_rate": f"{report['learning_rate']:g}" if "learning_rate" in report else "",
            "falling_percent_per_doubling": float(report.get("falling_percent_per_doubling", 0.0)),
            "converged": bool(report["converged"]),
        }


def grid_cells(
    layers: Sequence[int],
    depths: Sequence[int],
    draws: int,
    seed: int,
    selections: Sequence[str] = (RANDOM,),
    candidates: Candidates | None = None,
    backbone: str = DEFAULT,
) -> tuple[Cell, ...]:
    """Returns the cells of all combinations, ordered by layers, depth, selection and draw.

    Draws of one number differ between selections in their channels alone: everything else that is
    random in training is the same, so that selections are compared like with like. `DIRECT` has as
    many candidates as channels are released, so its draws differ in their training alone.

    Layers are cuts of the backbone, the name of the network that is split; each depth is at most
    their width, and draws are at least 1. A cell's channels depend on the seed, on its own (layers,
    depth, draw) and on the candidates alone. Where a selection other than `RANDOM` has no
    candidates, its draws are made from all channels: names and numbers of cells are right then,
    channels are not.

    Raises:
        UserError: an argument is empty, out of range or given twice.
    """
    for what, values in (("layers", layers), ("depths", depths), ("selections", selections)):
        check_values(what, values)
    if draws < 1:
        raise UserError(f"draws is {draws}; allowed: 1 or more; give how many draws each depth has")
    count = len(layers) * len(depths) * len(selections) * draws
    if count > MOST_CELLS:
        raise UserError(
            f"draws is {draws}, which makes {count} cells; allowed are at most {MOST_CELLS}; give "
            "fewer draws, layers or depths"
        )
    for cut in map(backbone_named(backbone).cut, layers):
        for depth in depths:
            if not 1 <= depth <= cut.channels:
                raise UserError(
                    f"depth {depth} at layer {cut.number} ({cut.name}); allowed are 1 to "
                    f"{cut.channels} channels there; use smaller depths or deeper layers"
                )
    cells = []
    for m, depth, selection, draw in itertools.product(
        sorted(layers), sorted(depths), selections, range(draws)
    ):
        pool = (candidates or {}).get((selection, m, depth))
        channels = draw_channels(m, depth, draw, seed, pool, backbone)
        cells.append(Cell(Topology(m, channels, backbone), draw, selection))
    return tuple(cells)


def check_values(what: str, values: Sequence[int] | Sequence[str]) -> None:
    """Raises UserError, which calls the values so, where there is none or one is given twice."""
    if not values:
        raise UserError(f"{what} is empty; give at least one, separated by commas")
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise UserError(f"{what} repeats {repeated}; give each once")


def draw_channels(
    num_layers: int,
    depth: int,
    draw: int,
    seed: int,
    candidates: Sequence[int] | None = None,
    backbone: str = DEFAULT,
) -> tuple[int, ...]:
    """Returns `depth` distinct channels of layer `num_layers`, uniformly at random, ascending.

    They are of `candidates`, or of all channels of the backbone's layer; `depth` is how many, and
    every draw of a grid's seed, from 0, has its own. For characterising only: anybody can repeat
    this draw. Channels that are to be a secret need randomness that nobody else has
    (`secret_draw.draw_secretly`).
    """
    key = jax.random.fold_in(draw_key(num_layers, depth, draw, seed), 0)
    width = backbone_named(backbone).cut(num_layers).channels
    allowed = np.arange(width) if candidates is None else np.asarray(candidates)
    return tuple(sorted(map(int, jax.random.choice(key, allowed, (depth,), replace=False))))


def draw_key(num_layers: int, depth: int, draw: int, seed: int) -> jax.Array:
    """Returns the key of all that is random about one draw of channels."""
    key = jax.random.key(seed)
    for part in (num_layers, depth, draw):
        key = jax.random.fold_in(key, part)
    return key


def training_key(cell: Cell, seed: int) -> jax.Array:
    """Returns the key from which everything random in this cell's training is derived."""
    topology = cell.topology
    return jax.random.fold_in(draw_key(topology.num_layers, topology.depth, cell.draw, seed), 1)


def release_key(cell: Cell, seed: int) -> jax.Array:
    """Returns the key of a mechanism's randomness, apart from those of training."""
    return jax.random.fold_in(training_key(cell, seed), _RELEASE)


def reference_key(seed: int) -> jax.Array:
    """Returns the key of the reference without a split, as if it were a cell with no layers."""
    return jax.random.fold_in(draw_key(0, 0, 0, seed), 1)


def by_layer(cells: Sequence[Cell]) -> Iterator[tuple[int, list[Cell]]]:
    """Yields (number of layers, its cells), layers ascending."""
    for layer in sorted({cell.topology.num_layers for cell in cells}):
        yield layer, [cell for cell in cells if cell.topology.num_layers == layer]
