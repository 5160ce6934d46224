"""The modes: how a grid's cells are measured, and which features that takes.

In mode dedicated, a cloud NN and every attacker are trained for each cell, in groups that fill the
devices. Cells of one layer have one shape: the channel axis is filled up with zeros to the grid's
largest depth, so a layer compiles once. `scoring` has the others.

    for measurement in MEASURES[config.mode](run):
        ...
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from privynet_jax.backbone.features.layer_features import needed_channels
from privynet_jax.backbone.topology import RANDOM, Topology
from privynet_jax.characterisation.config import AMORTISED, DEDICATED, LINEAR
from privynet_jax.characterisation.grid_run import GridRun, checkpoint_of, protocol_of
from privynet_jax.characterisation.measure import measure
from privynet_jax.characterisation.scoring import amortised_measurements, linear_measurements
from privynet_jax.platform import signals
from privynet_jax.platform.devices import execution_for
from privynet_jax.results.cells import Measurement, by_layer
from privynet_jax.training.session import current_session, session


def dedicated_measurements(run: GridRun) -> Iterator[Measurement]:
    """Yields a measurement per missing cell, group by group, layers ascending.

    Groups are cut from all of the process's cells, and measured whole where one cell of them is
    missing: a place that is left empty would cost as much, and a group keeps its checkpoint.

    Raises:
        UserError: training diverged, or a single cell does not fit into a device's memory.
        signals.Terminated: a signal came; what was trained so far is in the checkpoints.
    """
    config, missing, spread = run.config, set(run.missing), current_session().spread
    protocol = protocol_of(config, run.parts, run.examples)
    for _, cells in by_layer(run.mine):
        size = execution_for(len(cells), config.attacker.batch_size, spread).group_size
        for start in range(0, len(cells), size):
            group = cells[start : start + size]
            wanted = [cell for cell in group if cell in missing]
            if not wanted:
                continue
            names = " ".join(cell.name for cell in group)
            checkpoint = checkpoint_of(config, hashlib.sha256(names.encode()).hexdigest()[:16])
            share = len(wanted) / len(group)
            # Signals are deferred while they train, so that their checkpoint can be saved.
            with (
                signals.deferred(),
                session(
                    checkpoint=checkpoint,
                    progress=lambda done, share=share: run.progress(share * done),
                ),
            ):
                scenes = [run.scene(cell) for cell in group]
                measurements = measure(group, scenes, protocol, config.seed)
            yield from (found for found in measurements if found.cell in missing)
            checkpoint.discard()


MEASURES: Mapping[str, Callable[[GridRun], Iterator[Measurement]]] = {
    DEDICATED: dedicated_measurements,
    AMORTISED: amortised_measurements,
    LINEAR: linear_measurements,
}


def cached_channels(
    mode: str, selections: Collection[str], topologies: Sequence[Topology]
) -> dict[int, tuple[int, ...]]:
    """Returns layer -> channels whose features are needed.

    That is all of them where subsets are estimated, be it to score cells or to choose channels.

    Args:
        mode: one of `config.MODES`.
        selections: how the channels of the grid's draws are found.
        topologies: of all its cells.
    """
    if mode == DEDICATED and set(selections) == {RANDOM}:
        return needed_channels(topologies)
    layers = sorted({(topology.num_layers, topology.layer.channels) for topology in topologies})
    return {number: tuple(range(channels)) for number, channels in layers}
