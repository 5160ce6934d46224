"""The networks that work on any subset of a layer's channels, told which by imputed components.

Like those of `models`, but correcting the linear probe's scores and the linear attack's estimate.

    network = AmortisedCloudNN(num_classes=30, image_size=32)
    logits = network.apply(variables, components, share, scores)
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from privynet_jax.images.depth_and_space import depth_to_space, space_to_depth
from privynet_jax.training.models.grid_sizes import WORKING_STRIDE, folding_of
from privynet_jax.training.models.networks import Dense, classified, corrections

# Of a probe's score of 1, as a logit, at first.
_WORTH = 8.0


class ComponentGrid(nn.Module):
    """Brings imputed components to the working grid, scaled by how well they are known."""

    width: int
    image_size: int
    working_stride: int = WORKING_STRIDE

    @nn.compact
    def __call__(self, z: jax.Array, share: jax.Array) -> jax.Array:
        """[N, h, w, K] and [K] or [N, K] -> [N, S / 4, S / 4, width] of S = image_size."""
        folding, unfolding = folding_of(z.shape[1], self.image_size, self.working_stride)
        stem = Dense(unfolding**2 * self.width, name="stem")
        x = depth_to_space(stem(space_to_depth(z, folding)), self.width)
        zeros = nn.initializers.zeros
        known = Dense(2 * self.width, kernel_init=zeros, name="known")
        scale, shift = jnp.split(known(share)[..., None, None, :], 2, axis=-1)
        return x * (1 + scale) + shift


class AmortisedCloudNN(nn.Module):
    """`models.CloudNN` on imputed components and the probe's scores, which it corrects."""

    num_classes: int
    image_size: int
    width: int = 64

    @nn.compact
    def __call__(self, z: jax.Array, share: jax.Array, scores: jax.Array) -> jax.Array:
        """float32 [N, h, w, K], [K] or [N, K] and [N, classes] -> logits float32 [N, classes]."""
        # Scores are about probabilities; how much a logit they are worth is learnt.
        worth = self.param("worth", nn.initializers.constant(_WORTH), ())
        x = ComponentGrid(self.width, self.image_size)(z, share)
        zeros = nn.initializers.zeros
        return worth * scores + classified(x, self.num_classes, jnp.float32, kernel_init=zeros)


class AmortisedAttacker(nn.Module):
    """`models.StrongAttacker` on imputed components and the linear estimate it corrects."""

    image_size: int
    num_blocks: int = 2

    @nn.compact
    def __call__(self, z: jax.Array, share: jax.Array, estimates: jax.Array) -> jax.Array:
        """float32 [N, h, w, K], [K] or [N, K] and [N, S, S, 3] -> [N, S, S, 3]; S is image_size."""
        fine = z.shape[1] == self.image_size
        stride, width = (WORKING_STRIDE // 2, 64) if fine else (WORKING_STRIDE, 96)
        x = ComponentGrid(width, self.image_size, stride)(z, share)
        seen = space_to_depth(jnp.clip(estimates, 0, 1) - 0.5, stride)
        x = x + Dense(width, name="estimate")(seen)
        return estimates + corrections(x, self.num_blocks, stride, jnp.float32, attends=not fine)
