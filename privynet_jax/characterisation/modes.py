"""The modes: how a grid's cells are measured, and which features that takes.

for measurement in MEASURES[config.mode](run):
...
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from privynet_jax.backbone.features.layer_features import needed_channels
from privynet_jax.backbone.topology import RANDOM, Topology
from privynet_jax.characterisation.config import AMORTISED, DEDICATED, LINEAR
from privynet_jax.characterisation.dedicated import dedicated_measurements
from privynet_jax.characterisation.grid_run import GridRun
from privynet_jax.characterisation.scoring import amortised_measurements, linear_measurements
from privynet_jax.results.measurement import Measurement

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
