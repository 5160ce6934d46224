"""Masks of an exact share of zeros, which learn which zeros: for DISCO's filter and pruning."""

import jax
import jax.numpy as jnp


def kept_of(scores: jax.Array, dropped: float) -> jax.Array:
    """Returns 1 where a score is among the highest of its row and 0 at `round(dropped * D)` others.

    Scores are float32 [..., D]; of equal ones the first are dropped. Gradients are those of a
    sigmoid of how far a score is above the border (straight through, Bengio et al. 2013,
    arXiv:1308.3432), so that what is dropped can come back.
    """
    count = round(dropped * scores.shape[-1])
    if count in (0, scores.shape[-1]):
        return jnp.full_like(scores, float(count == 0))
    places = jnp.argsort(jnp.argsort(scores, axis=-1), axis=-1)
    hard = (places >= count).astype(scores.dtype)
    border = jnp.sort(scores, axis=-1)[..., count - 1 : count + 1].mean(axis=-1, keepdims=True)
    soft = jax.nn.sigmoid(scores - jax.lax.stop_gradient(border))
    return soft + jax.lax.stop_gradient(hard - soft)
