"""What a local NN costs the device that runs it: arithmetic, storage, memory and released bytes.

Counted from the tables in `backbones`, nothing is run. `planner` compares these numbers with
the device's limits, and `results` keeps them beside a cell's accuracy and privacy loss.

    cost = local_cost(Topology(4, (3, 17, 90)), image_size=32)
    cost.macs, cost.param_bytes, cost.peak_activation_bytes, cost.release_bytes
"""

import dataclasses
import math

from privynet_jax.backbone.backbones import backbone_named
from privynet_jax.backbone.topology import Topology

_BYTES = 4  # of a float32, for parameters and activations


@dataclasses.dataclass(frozen=True)
class LocalCost:
    """The cost of one local NN on one image."""

    macs: int  # multiply-accumulates
    param_bytes: int  # of the kernels and biases that the device stores
    peak_activation_bytes: int  # the most activation memory alive at once
    release_bytes: int  # of the representation


def local_cost(topology: Topology, image_size: int) -> LocalCost:
    """Returns the cost of a topology's local NN, in which only released channels are computed.

    For each convolution, with an h x w output (SAME padding, so its input is h x w as well), `cin`
    input channels, `cout` output channels (the topology's depth for the last one), and a kernel of
    `k` pixels:

        MACs               h * w * k * cin * cout
        parameters         k * cin * cout + cout
        activations alive  h * w * (cin + cout)

    MACs and parameters are summed over the layers; taps that fall on padding count, while biases,
    ReLU, pooling and the input transform (9 parameters) do not. Activations are the maximum over
    the layers: a layer's input and output are alive together, ReLU works in place, and pooling
    never sets the maximum, because the convolution before it reads at least a quarter of what it
    writes, which is all that pooling writes. Workspace of a convolution algorithm is not counted.

    Images are `image_size` pixels high and wide; UserError is raised where they are too small.
    """
    height, width, depth = topology.representation_shape(image_size)
    macs = parameters = peak_values = 0
    layers = backbone_named(topology.backbone).convolutions(topology.num_layers)
    for layer in layers:
        outputs = depth if layer is layers[-1] else layer.out_channels
        pixels = (image_size // layer.stride) ** 2
        taps = math.prod(layer.kernel[:3]) * outputs
        macs += pixels * taps
        parameters += taps + outputs
        peak_values = max(peak_values, pixels * (layer.in_channels + outputs))
    return LocalCost(
        macs=macs,
        param_bytes=parameters * _BYTES,
        peak_activation_bytes=peak_values * _BYTES,
        release_bytes=height * width * depth * _BYTES,
    )
