"""NoPeek: what its penalty measures, and that the local NN learns to lower it."""

import jax
import numpy as np
import pytest
import scipy.spatial

from privynet_jax.backbone import split
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.adapting.adapted import adapted_params
from privynet_jax.mechanisms.adapting.no_peek import NoPeek, distance_correlation


def test_distance_correlation_is_as_defined():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 3, 2))
    y = x[:, :2, 0] ** 2 + 0.3 * rng.standard_normal((20, 2))

    def covariance(a, b):
        total = 0.0
        for i, j in np.ndindex(a.shape):
            centred = [d[i, j] - d[i].mean() - d[:, j].mean() + d.mean() for d in (a, b)]
            total += centred[0] * centred[1] / a.size
        return total

    a, b = (
        scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(z.reshape(20, -1)))
        for z in (x, y)
    )
    expected = np.sqrt(covariance(a, b) / np.sqrt(covariance(a, a) * covariance(b, b)))
    assert float(distance_correlation(x, y)) == pytest.approx(expected, rel=1e-3)
    assert float(distance_correlation(x, 3 * x)) == pytest.approx(1, rel=1e-3)
    # Rows that are equal have no direction to part in, and gradients all the same.
    slopes = jax.grad(distance_correlation)(np.ones((4, 2), np.float32), y[:4])
    assert np.isfinite(slopes).all()


def test_nopeek_makes_representations_tell_less(clean, free):
    images = as_float(clean.parts.test.images[:40])

    def told(params):
        return float(distance_correlation(images, split.apply(clean.topology, params, images)))

    mechanism = NoPeek(25, 1e-3, weight=30.0)
    penalised = adapted_params(clean, mechanism, jax.random.key(2))["local"]
    assert told(penalised) < told(free) - 0.02
