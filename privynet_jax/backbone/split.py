"""The local NN: what runs where the images are, as a pure function cut to one topology.

`weights` hands over the parameters and `topology` says which part of them is used. Only the chosen
channels of the last convolution are computed and stored, so what is not released never exists.

    local = local_nn(weights.params, Topology(4, (3, 17, 90)))
    representation = jax.jit(local)(images)  # [N, 16, 16, 3] for images [N, 32, 32, 3]
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.backbone.backbones import backbone_named
from privynet_jax.backbone.forward import Params, apply
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError


def local_nn(params: Params, topology: Topology) -> Callable[[jax.Array], jax.Array]:
    """Returns the local NN of a topology: a pure function that can be jitted, vmapped and exported.

    It takes images, float32 [N, H, W, 3] or [H, W, 3] RGB in [0, 1], to their representation,
    float32 [N, h, w, depth] or [h, w, depth]: the ReLU of the last local convolution before
    pooling, channels in the topology's order. Images of another shape or type are a UserError.

    Arguments and errors are those of `local_params`.
    """
    # Put on the device once, so that calls outside jit do not copy the parameters each time.
    stored = jax.tree.map(jnp.asarray, local_params(params, topology))

    def local(images: jax.Array) -> jax.Array:
        is_single = images.ndim == 3
        batch = images[None] if is_single else images
        representation = apply(topology, stored, batch)
        return representation[0] if is_single else representation

    return local


def local_params(params: Params, topology: Topology) -> Params:
    """Returns what the device stores: the topology's layers, the last cut to its channels.

    Args:
        params: all of the backbone's parameters, as `sources.load_weights` gives them.
        topology: which layers run and which channels are released.

    Returns:
        A pytree for `forward.apply`, the weights' input transform included. Arrays that need no
        cut are shared with `params`.

    Raises:
        UserError: a layer of the topology is absent from the parameters or not of its width.
    """
    backbone = backbone_named(topology.backbone)
    layers = backbone.convolutions(topology.num_layers)
    names = ["preprocessing", *(layer.name for layer in layers)]
    problems = [f"no {name}" for name in names if name not in params]
    # Parameters that were already cut: their channels would be taken for other ones.
    for layer in layers:
        if layer.name in params and params[layer.name]["kernel"].shape != layer.kernel:
            found = tuple(params[layer.name]["kernel"].shape)
            problems.append(f"{layer.name} kernel {found} instead of {layer.kernel}")
    if problems:
        raise UserError(
            f"parameters do not fit the first {topology.num_layers} layers of {backbone.title}: "
            f"{'; '.join(problems)}; give the uncut parameters of weights.load_weights"
        )
    stored = {name: dict(params[name]) for name in names}
    channels = np.asarray(topology.channels)
    # `take` rather than indexing: NumPy's indexing would leave the result in another memory order.
    stored[names[-1]] = {
        kind: array.take(channels, axis=-1) for kind, array in stored[names[-1]].items()
    }
    return stored
