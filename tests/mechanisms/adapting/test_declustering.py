"""Declustering: its loss by hand, and that an attribute becomes harder to tell."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from privynet_jax.attacks.inference.attributes import learn_probe, share_right
from privynet_jax.attacks.inference.classifiers import Labelled
from privynet_jax.mechanisms.adapting.declustering import Declustering, declustering
from privynet_jax.mechanisms.words import parse_mechanism


def test_its_loss_is_as_worked_by_hand():
    # tanh of these is 0, 1/2 and 1/2; 0 and 0 and 1/2.
    r = np.array([[0, 0], [0.5, 0], [0.5, 0.5]], np.float32)
    private = np.array([0, 0, 1])
    # Means over two values of squares: of rows 0 and 1 1/8, alike, so -1/2 of it; of 0 and 2 1/4
    # and of 1 and 2 1/8, not alike. Each pair counts from both of its ends, as does the divisor.
    expected = (-0.5 / 8 + 0.5 / 4 + 0.5 / 8) / 3
    loss = declustering(jnp.arctanh(r), private)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    # Alone of their kind, rows are drawn together; all of one kind, driven apart.
    assert float(declustering(jnp.arctanh(r), np.arange(3))) == pytest.approx(
        0.5 * (1 / 8 + 1 / 4 + 1 / 8) / 3, rel=1e-5
    )
    assert float(declustering(jnp.arctanh(r), np.zeros(3, int))) < 0
    assert float(declustering(jnp.arctanh(r[:1]), private[:1])) == 0


def test_an_attribute_becomes_harder_to_tell():
    """The linear map of two numbers, one of which is the attribute, that lowers the loss."""
    rng = np.random.default_rng(0)
    private = rng.integers(0, 2, 120)
    others = rng.uniform(0, 1, 120)
    numbers = np.float32(np.stack([private + 0.1 * rng.standard_normal(120), others], axis=1))

    def represented(weights):
        return jax.nn.relu(numbers @ weights)[:, None, None]

    def told(weights):
        x = np.asarray(represented(weights))
        answering = learn_probe(Labelled(x[:80], private[:80]), 2)
        return share_right(answering, Labelled(x[80:], private[80:])).mean()

    weights = jnp.eye(2)
    assert told(weights) > 0.95
    optimiser = optax.adam(0.02)
    state = optimiser.init(weights)
    slope = jax.jit(jax.grad(lambda weights: declustering(represented(weights), private)))
    for _ in range(200):
        updates, state = optimiser.update(slope(weights), state)
        weights = optax.apply_updates(weights, updates)
    assert told(weights) < 0.75
    # It is the attribute that goes, not everything.
    assert float(represented(weights).std()) > 0.05


def test_its_words():
    text = "declustering:steps=300,rate=0.0003,attribute=brightness,weight=2"
    assert parse_mechanism("declustering:weight=2") == Declustering(weight=2.0)
    assert str(Declustering(weight=2.0)) == text
