"""PrivyNet in JAX: split a pretrained network, measure accuracy against privacy, plan the split.

The functional API, re-exported; each name's module has the whole story, and is imported when the
name is first used, so that what needs no JAX works without it.

    weights = load_weights(cache_dir=Path("cache"))
    local = local_nn(weights.params, Topology(num_layers=4, channels=(3, 17, 90)))
    representations = jax.jit(local)(images)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privynet_jax.backbone.cost import LocalCost, local_cost
    from privynet_jax.backbone.split import local_nn, local_params
    from privynet_jax.backbone.topology import CONV_LAYERS, ConvLayer, Topology
    from privynet_jax.backbone.weights.sources import PretrainedWeights, load_weights
    from privynet_jax.characterisation.config import Config
    from privynet_jax.characterisation.run import Characterisation, characterise
    from privynet_jax.deployment.cloud.classifier import Classifier, open_classifier
    from privynet_jax.deployment.device.local_package import (
        LocalPackage,
        open_package,
        write_package,
    )
    from privynet_jax.deployment.release.release_folder import Release, open_release
    from privynet_jax.errors import UserError
    from privynet_jax.images.metrics import psnr_db, ssim
    from privynet_jax.images.parts import Part, Parts, as_float, load_parts
    from privynet_jax.planning.plan import Limits, Plan
    from privynet_jax.planning.plan_file import read_plan, write_plan
    from privynet_jax.results.cells import draw_channels, grid_cells
    from privynet_jax.selection.pruning import ChannelScores, channel_scores, pruned_candidates
    from privynet_jax.training.networks import attacker, cloud_nn

_HOME = {
    "backbone.cost": ("LocalCost", "local_cost"),
    "backbone.split": ("local_nn", "local_params"),
    "backbone.topology": ("CONV_LAYERS", "ConvLayer", "Topology"),
    "backbone.weights.sources": ("PretrainedWeights", "load_weights"),
    "characterisation.config": ("Config",),
    "characterisation.run": ("Characterisation", "characterise"),
    "deployment.cloud.classifier": ("Classifier", "open_classifier"),
    "deployment.device.local_package": ("LocalPackage", "open_package", "write_package"),
    "deployment.release.release_folder": ("Release", "open_release"),
    "errors": ("UserError",),
    "images.metrics": ("psnr_db", "ssim"),
    "images.parts": ("Part", "Parts", "as_float", "load_parts"),
    "planning.plan": ("Limits", "Plan"),
    "planning.plan_file": ("read_plan", "write_plan"),
    "results.cells": ("draw_channels", "grid_cells"),
    "selection.pruning": ("ChannelScores", "channel_scores", "pruned_candidates"),
    "training.networks": ("attacker", "cloud_nn"),
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
