"""A folder with which a device measures networks that might run there, before a plan is made.

    write_timing_kit(Path("timing"), topologies, image_size=32)   # here
    python privynet.pyz time --out=latency.json                   # there, in a copy of the folder
    python -m experiments.plan --latency=latency.json ...         # here

Its networks have made-up weights: the folder tells nothing that is secret.
"""

from collections.abc import Sequence
from pathlib import Path

from privynet_jax.backbone.onnx_model import timing_model
from privynet_jax.backbone.topology import Topology
from privynet_jax.deployment.device.program import PROGRAM
from privynet_jax.deployment.device.program_archive import program_archive
from privynet_jax.deployment.device.timing import Kit
from privynet_jax.platform.files import appears_whole, write_atomically


def write_timing_kit(folder: Path, topologies: Sequence[Topology], image_size: int) -> None:
    """Writes the folder, which appears whole or not at all.

    Args:
        folder: must be new or empty.
        topologies: of one backbone, whichever their channels are.
        image_size: side of the images, in pixels.

    Raises:
        UserError: the folder holds something.
    """
    with appears_whole(folder) as partial:
        partial.mkdir()
        write_atomically(partial / PROGRAM, program_archive())
        shapes = sorted({(one.num_layers, one.depth) for one in topologies})
        kit = Kit(topologies[0].backbone, image_size, tuple(shapes))
        for topology in topologies:
            name = kit.file_of(topology.num_layers, topology.depth)
            write_atomically(partial / name, timing_model(topology, image_size))
        kit.write(partial)
