"""How long the local NN takes on one image, on one thread: measured here, or on a device before.

    meter = Meter()
    meter.measure(topology, image_size=32), meter.where  # milliseconds, and the machine
    known = Meter(read_document(path, Latencies, ...))  # what `privynet.pyz time` wrote on a device

A device rarely has its cores to itself, so one thread is the cautious figure.
"""

import numpy as np

from privynet_jax.backbone.onnx_model import timing_model
from privynet_jax.backbone.topology import Topology
from privynet_jax.platform.onnx_files.onnx_run import IMAGES, OnnxRun, machine
from privynet_jax.results.latencies import Latencies


class Meter:
    """Tells latencies of one image, and `where` they are of: the machine, in words."""

    def __init__(self, known: Latencies | None = None) -> None:
        """Measures on this machine, or looks up what was measured on a device."""
        self._known = known
        self.where = machine() if known is None else known.where

    def measure(self, topology: Topology, image_size: int) -> float:
        """Returns milliseconds from one image in memory to its representation.

        The weights are made up: a network takes as long whatever it multiplies, and whichever
        channels are released.

        Raises:
            UserError: nothing that was measured on the device is of such a network.
        """
        if self._known is not None:
            shape = topology.backbone, image_size, topology.num_layers, topology.depth
            return self._known.of(*shape)
        network = OnnxRun(timing_model(topology, image_size), "plan without it", threads=1)
        return network.milliseconds({IMAGES: np.zeros((1, image_size, image_size, 3), np.uint8)})
