"""A perceptual distance between images, by the backbone: what PSNR and SSIM do not see.

Two images are alike where its activations point in the same direction at every position, in
shallow layers (edges, colours) and deeper ones (textures, parts). It is the learned perceptual
distance of Zhang et al. 2018 (arXiv:1801.03924, equation 1) with all weights equal, which they call
a cosine distance, over the layers below. `characterisation` computes it for the strongest attacker.

    distance = perceptual_distance(weights, originals)
    distance(reconstructions)  # float32 [N]: 0 for equal images, 1 for nothing in common
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.backbone.backbones import Backbone
from privynet_jax.backbone.split import activations
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.images.parts import as_float

# Of a backbone's strides, the finest so many, each at its last layer: a VGG's first three blocks.
_STRIDES = 3
# Pixels of the images that are compared at once, and the most images that a cell is judged by: at
# 32 x 32, 64 of them take 2 cores a fifth of a second.
_PIXELS, _MOST_IMAGES = 2**18, 64
# Against division by zero where no channel responds, as in LPIPS.
_EPSILON = 1e-10


def images_for(image_size: int) -> int:
    """Returns how many images of a size a cell is judged by: a bounded amount of work."""
    return max(1, min(_MOST_IMAGES, _PIXELS // image_size**2))


def perceptual_distance(
    weights: PretrainedWeights, originals: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what compares reconstructions, uint8 [N, H, W, 3], to these originals: float32 [N].

    The originals are in memory at once with their activations.
    """
    find = functools.partial(directions, weights.backbone)
    theirs = jax.jit(find)(weights.params, as_float(originals))

    @jax.jit
    def compared(params: Any, theirs: list[jax.Array], images: jax.Array) -> jax.Array:
        return half_squares(find(params, images), theirs)

    def distance(images: np.ndarray) -> np.ndarray:
        return np.asarray(compared(weights.params, theirs, as_float(images)))

    return distance


def directions(backbone: Backbone, params: Any, images: jax.Array) -> list[jax.Array]:
    """Returns unit vectors of images float32 [N, H, W, 3] at the layers that are compared.

    Those are 2, 4 and 7 of VGG16. Each result is float32 [N, h, w, C], of length 1 along the
    channels, or 0 where none responds.
    """
    last = {cut.stride: cut.number for cut in backbone.cuts}
    layers = [last[stride] for stride in sorted(last)[:_STRIDES]]
    found = activations(backbone, params, images, layers).values()
    return [x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + _EPSILON) for x in found]


def half_squares(ours: Sequence[jax.Array], theirs: Sequence[jax.Array]) -> jax.Array:
    """Returns float32 [N]: half the squared difference of unit vectors, averaged.

    That is 1 minus their cosine, averaged over the positions of a layer and then over the layers.
    """
    layers = [
        0.5 * jnp.mean(jnp.sum(jnp.square(a - b), axis=-1), axis=(1, 2))
        for a, b in zip(ours, theirs, strict=True)
    ]
    return jnp.mean(jnp.stack(layers), axis=0)
