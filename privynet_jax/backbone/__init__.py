"""The pretrained network: backbones as values and pure functions, topologies, split and cost."""
