"""PrivyNet in JAX: split a pretrained network, measure accuracy against privacy, plan the split.

The functional API, re-exported; `__init__.pyi` has the list. Each name's module has
the whole story, and is imported when the name is first used: so starting is quick, and what needs
no JAX works without it.

    weights = load_weights(cache_dir=Path("cache"))
    local = local_nn(weights.params, Topology(num_layers=4, channels=(3, 17, 90)))
    representations = jax.jit(local)(images)
"""

import os

import lazy_loader

if not hasattr(os, "preadv"):
    raise ImportError("privynet_jax needs Linux or macOS (os.preadv); on Windows, run it in WSL 2")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
