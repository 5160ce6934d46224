"""Views of an attacker's own pictures: crops, scales, flips and colours, so that they never end.

A view is a pure function of its number and its picture. The first view of each picture is itself.

    views = PictureViews(images, rounds=3)  # of uint8 [N, H, W, 3]
    views[::N]  # uint8 [3, H, W, 3]: the first picture, and two views of it
"""

import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.platform.rows.row_views import RowView

# Views of all pictures are the same for whoever asks: what they depend on is their number.
_STREAM = 20_26
_AT_ONCE = 64
# The least side of a crop, as a share of the picture's: smaller ones are mostly blur.
_LEAST_SIDE = 0.5
# At most: factors of brightness and of each colour, and of contrast and saturation around greys.
_BRIGHTNESS, _TINT, _CONTRAST = 0.3, 0.1, 0.3
# So many views have the picture's own scale or colours: what is attacked does.
_PLAIN = 0.4


class PictureViews(RowView):
    """Row v * N + i is view v of picture i of N; there are `rounds` of all of them."""

    def __init__(self, images: np.ndarray, rounds: int) -> None:
        """Keeps uint8 [N, H, W, 3]."""
        self._images = images
        super().__init__((rounds * len(images), *images.shape[1:]), np.uint8)

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        pictures = self._images[numbers % len(self._images)]
        changed = np.flatnonzero(numbers >= len(self._images))
        for start in range(0, len(changed), _AT_ONCE):
            rows = changed[start : start + _AT_ONCE]
            filled = rows[np.minimum(np.arange(_AT_ONCE), len(rows) - 1)]  # one shape is compiled
            made = _views(np.uint32(numbers[filled]), pictures[filled])
            pictures[rows] = np.asarray(made)[: len(rows)]
        return pictures


@jax.jit
def _views(numbers: jax.Array, images: jax.Array) -> jax.Array:
    """Of pictures uint8 [n, H, W, 3], the views of these numbers."""
    key = jax.random.key(_STREAM)
    return jax.vmap(lambda number, x: _view(jax.random.fold_in(key, number), x))(numbers, images)


def _view(key: jax.Array, image: jax.Array) -> jax.Array:
    keys = jax.random.split(key, 6)
    x = image.astype(jnp.float32) / 255
    side = jax.random.uniform(keys[0], minval=_LEAST_SIDE)
    side = jnp.where(jax.random.bernoulli(keys[1], _PLAIN), 1.0, side)
    corner = jax.random.uniform(keys[2], (2,)) * (1 - side)
    size = jnp.asarray(image.shape[:2], jnp.float32)
    x = jax.image.scale_and_translate(
        x, image.shape, (0, 1), jnp.full(2, 1 / side), -corner * size / side, method="cubic"
    )
    x = jnp.where(jax.random.bernoulli(keys[3]), x[:, ::-1], x)
    coloured = _coloured(keys[4], x)
    x = jnp.where(jax.random.bernoulli(keys[5], _PLAIN), x, coloured)
    return jnp.uint8(jnp.round(255 * jnp.clip(x, 0, 1)))


def _coloured(key: jax.Array, x: jax.Array) -> jax.Array:
    brightness, tint, contrast, saturation = jax.random.split(key, 4)
    factors = jnp.exp(jax.random.uniform(brightness, (), minval=-_BRIGHTNESS, maxval=_BRIGHTNESS))
    x = x * factors * jnp.exp(jax.random.uniform(tint, (3,), minval=-_TINT, maxval=_TINT))
    for own, grey in ((contrast, jnp.mean(x)), (saturation, jnp.mean(x, axis=-1, keepdims=True))):
        x = grey + (x - grey) * (1 + jax.random.uniform(own, minval=-_CONTRAST, maxval=_CONTRAST))
    return x
