"""A VGG's local NN with JAX alone, for devices; the same network as `vgg`, without Flax.

A copy of this file, named local_network.py, lies in every package for a device that runs a VGG, and
the package's local_nn.py runs it. It imports nothing of privynet_jax.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


def network(settings: Mapping[str, Any]) -> Callable[[Any, Any], Any]:
    """Returns the first layers of a VGG as a pure function (params, images) -> representations.

    Args:
        settings: of the package; its "layers" are "name" and "stride" of each convolution, and 2x2
            max-pooling comes before a new stride.
    """

    def apply(params: Any, images: Any) -> Any:
        transform = params["preprocessing"]
        x = jnp.take(images, transform["channel_order"], axis=-1)
        x, stride = x * transform["scale"] + transform["shift"], 1
        for layer in settings["layers"]:
            if layer["stride"] > stride:
                window = (1, 2, 2, 1)
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
                stride = layer["stride"]
            x = _convolved(x, **params[layer["name"]])
        return x

    return apply


def _convolved(x: Any, kernel: Any, bias: Any) -> Any:
    padding = "SAME"
    if min(x.shape[1:3]) < 3:  # smaller than the kernel: slow on CPUs unless padded beforehand
        around = ((0, 0), (1, 1), (1, 1), (0, 0))
        x, padding = jax.lax.optimization_barrier(jnp.pad(x, around)), "VALID"
    x = jax.lax.conv_general_dilated(
        x,
        kernel.astype(jnp.float32),  # packages may store float16
        window_strides=(1, 1),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,  # GPUs and TPUs would multiply with fewer bits
    )
    return jax.nn.relu(x + bias.astype(jnp.float32))
