"""Mode dedicated: a cloud NN and every attacker are trained for each cell.

Cells of one layer have one shape: the channel axis is filled up with zeros to the grid's largest
depth, so a layer compiles once. They are measured in groups that fill the devices.

    for measurement in dedicated_measurements(run):
        ...  # as soon as its group is done
"""

from collections.abc import Iterator

from privynet_jax.characterisation.grid_run import GridRun, protocol_of, spread_of
from privynet_jax.characterisation.measure import measure
from privynet_jax.platform import signals
from privynet_jax.platform.devices import execution_for
from privynet_jax.results.cells import by_layer
from privynet_jax.results.measurement import Measurement
from privynet_jax.training.session import session


def dedicated_measurements(run: GridRun) -> Iterator[Measurement]:
    """Yields a measurement per missing cell, group by group, layers ascending.

    Groups are cut from all of the process's cells, and measured whole where one cell of them is
    missing: a place that is left empty would cost as much, and a group keeps its checkpoint.

    Raises:
        UserError: training diverged, or a single cell does not fit into a device's memory.
        signals.Terminated: a signal came; what was trained so far is in the checkpoints.
    """
    config, missing = run.config, set(run.missing)
    protocol, spread = protocol_of(config, run.parts, run.examples), spread_of(config)
    for _, cells in by_layer(run.mine):
        size = execution_for(len(cells), config.attacker.batch_size, spread).group_size
        for start in range(0, len(cells), size):
            group = cells[start : start + size]
            wanted = [cell for cell in group if cell in missing]
            if not wanted:
                continue
            checkpoint = run.checkpoint(*(cell.name for cell in group))
            share = len(wanted) / len(group)
            # Signals are deferred while they train, so that their checkpoint can be saved.
            with (
                signals.deferred(),
                session(
                    spread=spread,
                    checkpoint=checkpoint,
                    progress=lambda done, share=share: run.progress(share * done),
                ),
            ):
                scenes = [run.scene(cell) for cell in group]
                measurements = measure(group, scenes, protocol, config.seed)
            yield from (found for found in measurements if found.cell in missing)
            checkpoint.discard()
