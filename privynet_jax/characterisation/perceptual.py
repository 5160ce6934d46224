"""A perceptual distance between images, by VGG16 itself: what PSNR and SSIM do not see.

Two images are alike where VGG16's activations point in the same direction at every position, in
shallow layers (edges, colours) and deeper ones (textures, parts). It is the learned perceptual
distance of Zhang et al. 2018 (arXiv:1801.03924, equation 1) with all weights equal, which they call
a cosine distance, over the layers below. `characterisation` computes it for the strongest attacker.

    distance = PerceptualDistance(weights.params, originals)
    distance(reconstructions)  # float32 [N]: 0 for equal images, 1 for nothing in common
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.backbone.topology import CONV_LAYERS
from privynet_jax.backbone.vgg import VGG16Trunk
from privynet_jax.images.parts import as_float

# The last layer of each of the first three blocks.
LAYERS = (2, 4, 7)
# Pixels of the images that are compared at once, and the most images that a cell is judged by: at
# 32 x 32, 64 of them take 2 cores a fifth of a second.
_PIXELS, _MOST_IMAGES = 2**18, 64
# Against division by zero where no channel responds, as in LPIPS.
_EPSILON = 1e-10


def images_for(image_size: int) -> int:
    """Returns how many images of a size a cell is judged by: a bounded amount of work."""
    return max(1, min(_MOST_IMAGES, _PIXELS // image_size**2))


def directions() -> Callable[[Any, jax.Array], list[jax.Array]]:
    """Returns a pure function (params, images float32 [N, H, W, 3]) -> unit vectors of `LAYERS`.

    Each result is float32 [N, h, w, C], of length 1 along the channels, or 0 where none responds.
    """
    trunk = VGG16Trunk(max(LAYERS))
    names = [CONV_LAYERS[layer - 1].name.replace("conv", "relu") for layer in LAYERS]

    def of_images(params: Any, images: jax.Array) -> list[jax.Array]:
        _, intermediates = trunk.apply({"params": params}, images)
        found = (intermediates[name] for name in names)
        return [x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + _EPSILON) for x in found]

    return of_images


def perceptual_distance(ours: Sequence[jax.Array], theirs: Sequence[jax.Array]) -> jax.Array:
    """Returns float32 [N]: half the squared difference of unit vectors, averaged.

    That is 1 minus their cosine, averaged over the positions of a layer and then over the layers.

    Args:
        ours: of `directions`.
        theirs: likewise, of as many images.
    """
    layers = [
        0.5 * jnp.mean(jnp.sum(jnp.square(a - b), axis=-1), axis=(1, 2))
        for a, b in zip(ours, theirs, strict=True)
    ]
    return jnp.mean(jnp.stack(layers), axis=0)


class PerceptualDistance:
    """Compares reconstructions with the same originals, cell after cell."""

    def __init__(self, params: Any, originals: np.ndarray) -> None:
        """Prepares originals.

        Args:
            params: of VGG16, as `weights.load_weights` gives them.
            originals: uint8 [N, H, W, 3]; all are in memory at once with their activations.
        """
        find = directions()
        self._params = params
        self._originals = jax.jit(find)(params, as_float(originals))
        self._compare = jax.jit(
            lambda params, theirs, x: perceptual_distance(find(params, x), theirs)
        )

    def __call__(self, reconstructions: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3], one per original -> float32 [N]."""
        return np.asarray(self._compare(self._params, self._originals, as_float(reconstructions)))
