"""Who tells features of right angles from those of wrong ones."""

import flax.linen as nn
import jax

from privynet_jax.training.models.networks import Conv, Dense


class Critic(nn.Module):
    """Features -> one number: the more, the more they look like those of a right angle."""

    width: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 [N, h, w, D] -> float32 [N]."""
        # Every turn that is tried costs one pass: positions are halved at once.
        x = nn.relu(Conv(self.width, (3, 3), strides=(2, 2))(x))
        x = nn.relu(Conv(self.width, (3, 3), strides=(2, 2))(x))
        return Dense(1)(x.mean(axis=(1, 2)))[..., 0]
