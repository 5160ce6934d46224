"""How long the local NN takes on one image, on one thread: measured here, or on a device before.

    meter = Meter()
    meter.measure(topology, image_size=32), meter.where  # milliseconds, and the machine
    known = Meter(read_document(path, Latencies, ...))  # what `privynet.pyz time` wrote on a device

A device rarely has its cores to itself, so one thread is the cautious figure.
"""

import numpy as np

from privynet_jax.backbone.onnx_model import timing_model
from privynet_jax.backbone.topology import Topology
from privynet_jax.mechanisms.on_device import NONE, OnDevice
from privynet_jax.platform.onnx_files.onnx_run import IMAGES, OnnxRun, machine, milliseconds_of
from privynet_jax.results.latencies import Latencies

_MADE_UP_SEED = "00" * 32


class Meter:
    """Tells latencies of one image, and `where` they are of: the machine, in words."""

    def __init__(self, known: Latencies | None = None) -> None:
        """Measures on this machine, or looks up what was measured on a device."""
        self._known = known
        self.where = machine() if known is None else known.where

    def measure(self, topology: Topology, image_size: int, mechanism: str = NONE) -> float:
        """Returns milliseconds from one image in memory to what is released of it.

        The weights are made up: a network takes as long whatever it multiplies, and whichever
        channels are released. What the mechanism adds is measured here in any case.

        Raises:
            UserError: nothing that was measured on the device is of such a network.
        """
        if self._known is not None:
            if mechanism != NONE and (told := f"; {mechanism} on {machine()}") not in self.where:
                self.where += told
            shape = topology.backbone, image_size, topology.num_layers, topology.depth
            return self._known.of(*shape) + _added(mechanism, topology, image_size)
        network = OnnxRun(timing_model(topology, image_size), "plan without it", threads=1)
        own = network.milliseconds({IMAGES: np.zeros((1, image_size, image_size, 3), np.uint8)})
        return own + _added(mechanism, topology, image_size)


def _added(words: str, topology: Topology, image_size: int) -> float:
    if words == NONE:
        return 0.0
    mechanism = OnDevice(words, 1.0, _MADE_UP_SEED)
    image = np.zeros((1, image_size, image_size, 3), np.uint8)
    clean = np.ones((1, *topology.representation_shape(image_size)), np.float32)
    return milliseconds_of(lambda: mechanism.released(image, lambda images: clean))
