"""The sums that the linear attack on a layer is fitted to, over the attacker's images.

`linear_attack` makes an attack on any subset of channels out of them; `dedicated` and `subsets` ask
here.

    fitted_on, chosen_on = linear_statistics(layer, parts.auxiliary)
    attack = linear.fit(fitted_on, chosen_on, positions=(0, 3, 5))
"""

import itertools
import math

import numpy as np

from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.images.parts import Part, as_float
from privynet_jax.training import linear_attack

# Positions of representations that enter a Gram matrix: over 100 per unknown at 512 channels.
POSITIONS = 2**19
# Share of the attacker's images on which the linear attack chooses its ridge.
_HELD_OUT = 0.2
# Positions whose neighbourhoods are formed at once: 64 images of 32 x 32, and 1 of 224 x 224.
_BATCH, _BATCH_POSITIONS = 64, 2**16


def linear_statistics(
    layer: LayerFeatures, auxiliary: Part, positions: int = POSITIONS, copies: int = 1
) -> tuple[linear_attack.LinearStatistics, linear_attack.LinearStatistics]:
    """Returns the sums over most of some auxiliary images, and over the rest of these.

    Args:
        layer: the features.
        auxiliary: the images that the features were computed from.
        positions: of representations to sum over; decides how many images, the first ones, count.
        copies: rows that there are of each image, one after the other. All of them count, on the
            same side: an image that was fitted to tells nothing about a ridge.
    """
    stored = layer.parts["auxiliary"]
    per_image = math.prod(stored.shape[1:3])
    count = min(len(auxiliary) // copies, -(-positions // per_image))
    batch = max(1, min(_BATCH, _BATCH_POSITIONS // per_image))
    fitted = max(1, count - max(1, round(_HELD_OUT * count)))

    def sums(start: int, stop: int) -> linear_attack.LinearStatistics:
        cuts = [*range(start, stop, batch), stop]
        return linear_attack.gather_statistics(
            (np.float32(stored[begin:end]), as_float(auxiliary.images[begin:end]))
            for begin, end in itertools.pairwise(cuts)
        )

    return sums(0, copies * fitted), sums(copies * min(fitted, count - 1), copies * count)
