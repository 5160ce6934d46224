"""Trainings small enough for NumPy to follow: a linear model of channels' means, with AdamW."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from privynet_jax.platform.rows.row_views import ChosenChannels
from privynet_jax.training.tasks import cloud_task
from privynet_jax.training.trainer import Member

EXAMPLES, STORED, WIDTH, BATCH, RATE = 24, 6, 4, 4, 0.05
POSITIONS = [(0, 3, 5), (1, 2), (4, 0, 2, 3)]


class ChannelMeans(nn.Module):
    """A linear model of the channels' means: small enough to be differentiated by hand."""

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.normal(1.0), (x.shape[-1], 2))
        return x.mean(axis=(1, 2)) @ w


def _squares(outputs, targets):
    return jnp.mean(jnp.square(outputs - targets), axis=-1)


@functools.cache
def regression(**changed):
    """Mean squared error of `ChannelMeans` against numbers [N, 2]."""
    own = {
        "name": "regression",
        "loss": lambda outputs, targets: _squares(outputs, targets).mean(),
        "measure": lambda outputs, targets: {"error": _squares(outputs, targets)},
        "score": lambda means: (-means["error"],),
        "error": lambda means: means["error"],
    }
    return dataclasses.replace(cloud_task(ChannelMeans()), **{**own, **changed})


@functools.cache
def examples():
    """Representations float32 [N, 2, 2, STORED] and numbers float32 [N, 2] that they tell of."""
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=(EXAMPLES, 2, 2, STORED)))
    noise = rng.normal(0, 0.1, (EXAMPLES, 2))
    return x, np.float32(x.mean(axis=(1, 2)) @ rng.normal(size=(STORED, 2)) + noise)


def member(index, **changed):
    """One of three networks; no two have the same key, channels, rows or rate."""
    x, y = examples()
    own = {
        "key": jax.random.key(index),
        "inputs": ChosenChannels(x, np.array(POSITIONS[index]), WIDTH),
        "targets": y,
        "rows": np.arange(index, EXAMPLES - 4),
        "learning_rate": RATE * (1 + index),
        "held_out": np.arange(EXAMPLES - 4, EXAMPLES),
    }
    return Member(**{**own, **changed})


def seen_by(index):
    """All representations as a member sees them, float32 [N, 2, 2, WIDTH], without row views."""
    chosen = examples()[0][..., list(POSITIONS[index])]
    return np.pad(chosen, [(0, 0)] * 3 + [(0, WIDTH - chosen.shape[-1])])


def numpy_adamw(w, batches, rates, decay):
    """AdamW (arXiv:1711.05101) on clipped gradients, in float64: returns w, and the losses."""
    first, second, losses = np.zeros_like(w), np.zeros_like(w), []
    for step, ((x, y), rate) in enumerate(zip(batches, rates, strict=True)):
        error = x @ w - y
        losses.append(np.mean(error**2))
        gradient = 2 * x.T @ error / error.size
        gradient /= max(1.0, np.sqrt(np.sum(gradient**2)))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        direction = first / (1 - 0.9 ** (step + 1))
        direction /= np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8
        w = w - rate * (direction + decay * w)
    return w, losses
