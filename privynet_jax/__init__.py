"""PrivyNet in JAX: split a pretrained network, measure accuracy against privacy, plan the split."""
