"""PrivyNet in JAX: split a pretrained network, measure accuracy against privacy, plan the split.

The functional API, re-exported; each name's module has the whole story.

    weights = load_weights(cache_dir=Path("cache"))
    local = local_nn(weights.params, Topology(num_layers=4, channels=(3, 17, 90)))
    representations = jax.jit(local)(images)
"""

from privynet_jax.cells import draw_channels, grid_cells
from privynet_jax.characterisation import Characterisation, characterise
from privynet_jax.config import Config
from privynet_jax.cost import LocalCost, local_cost
from privynet_jax.data import Part, Parts, as_float, load_parts
from privynet_jax.errors import UserError
from privynet_jax.metrics import psnr_db, ssim
from privynet_jax.models import attacker, cloud_nn
from privynet_jax.split import local_nn, local_params
from privynet_jax.topology import CONV_LAYERS, ConvLayer, Topology
from privynet_jax.unlabelled import stream_pictures
from privynet_jax.weights import PretrainedWeights, load_weights

__all__ = [
    "CONV_LAYERS",
    "Characterisation",
    "Config",
    "ConvLayer",
    "LocalCost",
    "Part",
    "Parts",
    "PretrainedWeights",
    "Topology",
    "UserError",
    "as_float",
    "attacker",
    "characterise",
    "cloud_nn",
    "draw_channels",
    "grid_cells",
    "load_parts",
    "load_weights",
    "local_cost",
    "local_nn",
    "local_params",
    "psnr_db",
    "ssim",
    "stream_pictures",
]
