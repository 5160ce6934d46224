"""PrivyNet in JAX: split a pretrained network, measure accuracy against privacy, plan the split.

The functional API, re-exported; each name's module has the whole story.

    weights = load_weights(cache_dir=Path("cache"))
    local = local_nn(weights.params, Topology(num_layers=4, channels=(3, 17, 90)))
    representations = jax.jit(local)(images)
"""

from privynet_jax.backbone.backbones import BACKBONES, Backbone, Cut
from privynet_jax.backbone.cost import LocalCost, local_cost
from privynet_jax.backbone.split import local_nn, local_params
from privynet_jax.backbone.topology import Topology
from privynet_jax.backbone.weights.sources import PretrainedWeights, load_weights
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.run import Characterisation, characterise
from privynet_jax.deployment.cloud.classifier import Classifier, open_classifier
from privynet_jax.deployment.device.local_package import LocalPackage, open_package, write_package
from privynet_jax.deployment.release.release_folder import Release, open_release
from privynet_jax.errors import UserError
from privynet_jax.images.metrics import psnr_db, ssim
from privynet_jax.images.parts import Part, Parts, as_float, load_parts
from privynet_jax.planning.plan import Limits, Plan
from privynet_jax.planning.plan_file import read_plan, write_plan
from privynet_jax.results.cells import draw_channels, grid_cells
from privynet_jax.selection.pruning import ChannelScores, channel_scores, pruned_candidates
from privynet_jax.training.networks import attacker, cloud_nn

__all__ = [
    "BACKBONES",
    "Backbone",
    "ChannelScores",
    "Characterisation",
    "Classifier",
    "Config",
    "Cut",
    "Limits",
    "LocalCost",
    "LocalPackage",
    "Part",
    "Parts",
    "Plan",
    "PretrainedWeights",
    "Release",
    "Topology",
    "UserError",
    "as_float",
    "attacker",
    "channel_scores",
    "characterise",
    "cloud_nn",
    "draw_channels",
    "grid_cells",
    "load_parts",
    "load_weights",
    "local_cost",
    "local_nn",
    "local_params",
    "open_classifier",
    "open_package",
    "open_release",
    "pruned_candidates",
    "psnr_db",
    "read_plan",
    "ssim",
    "write_package",
    "write_plan",
]
