"""What computes a backbone, by its kind: the only place that knows which module that is.

    x = apply(topology, stored, images)  # `split.local_params` cut what is stored
    found = activations(backbone, params, images, [2, 4])  # {2: [N, H, W, 64], 4: ...}

Both are pure functions of parameters and images, float32 [N, H, W, 3] RGB in [0, 1]. Parameters are
plain pytrees, {"conv1_1": {"kernel": array, "bias": array}, ..., "preprocessing": {...}}, the input
transform of the weights among them.
"""

from collections.abc import Collection, Mapping
from types import ModuleType

import jax
import numpy as np

from privynet_jax.backbone import vgg_program
from privynet_jax.backbone.backbones import Backbone, backbone_named
from privynet_jax.backbone.topology import Topology
from privynet_jax.backbone.vgg import VGGTrunk

Params = Mapping[str, Mapping[str, jax.Array | np.ndarray]]
# Kind of network -> Flax module (backbone, number of the last cut, channels computed there).
_TRUNKS = {"vgg": VGGTrunk}
# Kind of network -> its program for devices, of which packages hold a copy.
_PROGRAMS = {"vgg": vgg_program}


def apply(topology: Topology, params: Params, images: jax.Array) -> jax.Array:
    """Returns representations, float32 [N, h, w, depth], by `split.local_params`.

    Raises:
        UserError: the images have another rank, channel count or type, or are too small.
    """
    backbone = backbone_named(topology.backbone)
    trunk = _TRUNKS[backbone.network](backbone, topology.num_layers, topology.depth)
    return trunk.apply({"params": params}, images)[0]


def activations(
    backbone: Backbone, params: Params, images: jax.Array, layers: Collection[int]
) -> dict[int, jax.Array]:
    """Returns layer -> float32 [N, h, w, channels], of all its channels, from one pass.

    Under `jax.jit`, layers that are not asked for cost nothing beyond what deeper ones need.

    Raises:
        UserError: as for `apply`, or a layer is out of range.
    """
    trunk = _TRUNKS[backbone.network](backbone, max(layers))
    _, found = trunk.apply({"params": params}, images)
    return {layer: found[layer] for layer in layers}


def program_of(backbone: Backbone) -> ModuleType:
    """Returns the module that devices run: JAX alone, with `network(settings)`."""
    return _PROGRAMS[backbone.network]


def made_up_params(backbone: Backbone, num_layers: int) -> dict[str, dict[str, np.ndarray]]:
    """Returns random parameters up to a cut, which keep activations at about 1, far from denormal.

    For measuring time: a convolution takes as long whatever it multiplies.
    """
    stream = np.random.default_rng(0)
    params: dict[str, dict[str, np.ndarray]] = {
        "preprocessing": {
            "channel_order": np.arange(3, dtype=np.int32),
            "scale": np.ones(3, np.float32),
            "shift": np.zeros(3, np.float32),
        }
    }
    for layer in backbone.convolutions(num_layers):
        deviation = np.float32(np.sqrt(2 / np.prod(layer.kernel[:3])))
        params[layer.name] = {
            "kernel": deviation * stream.standard_normal(layer.kernel, np.float32),
            "bias": np.zeros(layer.out_channels, np.float32),
        }
    return params
