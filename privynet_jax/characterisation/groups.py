"""Groups of cells: the units of a grid's work, in the order of its rounds.

Cells of a group are of one layer, train side by side and fill the devices once. The first round has
one draw of everything, so that a whole trade-off is there early; each further one adds a draw. A
layer's networks have one shape in all of them. Which cells are a group's depends on a process's
cells and devices, never on what is done; and numbers do not depend on the group, because each
cell's key follows from itself and the grid's seed.

    for group in cell_groups(cells, 16, Spread()):
        ...  # any worker may measure it: `grid_run.group_measurements`
"""

import dataclasses
import hashlib
from collections.abc import Sequence

from privynet_jax.platform.devices import Spread, execution_for
from privynet_jax.results.cells import Cell, by_layer


@dataclasses.dataclass(frozen=True)
class Group:
    """Cells of one layer that are measured side by side, at least one."""

    cells: tuple[Cell, ...]

    @property
    def num_layers(self) -> int:
        """The layer whose features are needed."""
        return self.cells[0].topology.num_layers

    @property
    def round(self) -> int:
        """The round, from 0, in which its first cell is due."""
        return self.cells[0].draw

    @property
    def name(self) -> str:
        """What its checkpoint is called: no other group has these cells."""
        names = " ".join(cell.name for cell in self.cells)
        return hashlib.sha256(names.encode()).hexdigest()[:16]


def cell_groups(cells: Sequence[Cell], batch_size: int, spread: Spread) -> tuple[Group, ...]:
    """Returns the groups of cells, in the order in which they are best measured.

    Rounds come one after another. In each, the least and the most layers come first, and then those
    between, so that the ends of the trade-off are there early.

    Args:
        cells: of any layers.
        batch_size: of a training; a lone cell has its examples spread over the devices.
        spread: how the user wants work spread.
    """
    groups = []
    for _, of_layer in by_layer(cells):
        size = execution_for(len(of_layer), batch_size, spread).group_size
        drawn = sorted(of_layer, key=lambda cell: cell.draw)
        groups += [Group(tuple(drawn[i : i + size])) for i in range(0, len(drawn), size)]
    place = {layer: i for i, layer in enumerate(_ends_first({g.num_layers for g in groups}))}
    return tuple(sorted(groups, key=lambda group: (group.round, place[group.num_layers])))


def _ends_first(numbers: set[int]) -> list[int]:
    left, found = sorted(numbers), []
    while left:
        found.append(left.pop(0 if len(found) % 2 == 0 else -1))
    return found
