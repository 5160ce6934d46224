"""PATROL: its penalty by hand, which channels go and what that saves, and who learns from what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from privynet_jax.backbone import split
from privynet_jax.backbone.topology import Topology, local_cost
from privynet_jax.errors import UserError
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.adapting.adapted import Seen, adapted_params
from privynet_jax.mechanisms.adapting.patrol import InversionNN, Patrol, lipschitz_sum
from privynet_jax.mechanisms.words import parse_mechanism

KEY, TOPOLOGY = jax.random.key(2), Topology(2, (3, 17, 40, 50))


def test_the_penalty_is_as_worked_by_hand():
    x = np.array([[3.0, 4.0], [4.0, 3.0]])  # a root mean square of sqrt(12.5)
    by = np.array([[0.1, 0.1], [0.2, 0.0]])  # moves of 0.1 and sqrt(0.02)
    first = 2 * x, 2 * (x + by)  # twice of everything moves relatively as far
    second = np.ones((2, 2)), np.array([[1.3, 1.3], [1.1, 1.1]])  # moves of 0.3 and 0.1
    clean, nudged = zip((x, x + by), first, second, strict=True)
    # The first block's constant is 1; the second's the first picture's, 0.3 of 1 by 0.1 of
    # sqrt(12.5). Numbers that keep norms from being zero are a millionth.
    expected = 1 + 0.3 / (0.1 / np.sqrt(12.5))
    assert float(lipschitz_sum(clean, nudged)) == pytest.approx(expected, rel=1e-3)


def test_pruned_channels_are_exactly_as_many_and_do_nothing(clean):
    mechanism = Patrol(steps=2, pruned=0.75)
    params = adapted_params(clean, mechanism, KEY)
    kept = mechanism.used(params)
    gone = ~np.any(kept["conv1_1"]["kernel"], axis=(0, 1, 2))
    assert gone.sum() == 48
    assert not np.any(kept["conv1_1"]["bias"][gone])
    assert np.any(kept["conv1_2"]["kernel"], axis=(0, 1, 2)).all()
    # Without the channels, as a device would store them.
    small = {
        **kept,
        "conv1_1": {name: x[..., ~gone] for name, x in kept["conv1_1"].items()},
        "conv1_2": {**kept["conv1_2"], "kernel": kept["conv1_2"]["kernel"][:, :, ~gone]},
    }
    images = as_float(clean.parts.test.images[:4])
    x = images[..., small["preprocessing"]["channel_order"]]
    x = x * small["preprocessing"]["scale"] + small["preprocessing"]["shift"]
    for name in ("conv1_1", "conv1_2"):
        shape = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, small[name]["kernel"], (1, 1), "SAME", dimension_numbers=shape
        )
        x = jax.nn.relu(x + small[name]["bias"])
    z = mechanism.representing(clean)(kept, images)
    np.testing.assert_allclose(x * clean.scales, z, rtol=1e-3, atol=1e-3)


def test_what_pruning_saves():
    # 32 x 32 pixels, 9 taps: 48 filters of 3 channels, and 48 channels of the next layer's 4.
    saved = 32 * 32 * 9 * (48 * 3 + 48 * 4)
    assert Patrol(pruned=0.75).macs((32, 32, 3), TOPOLOGY) == -saved
    whole = local_cost(TOPOLOGY, 32).macs
    assert whole - saved == 32 * 32 * 9 * (3 * 16 + 16 * 4)
    assert Patrol(pruned=0.0).macs((32, 32, 3), TOPOLOGY) == 0
    assert Patrol().macs((32, 32, 3), Topology(1, (3, 5))) == 0
    # conv1_1 and conv1_2 at full size, conv2_1 and conv2_2 at half: 16 of 64 and 32 of 128 go.
    deep = Topology(4, tuple(range(8)))
    before = 1024 * (3 * 64 + 64 * 64) + 256 * (64 * 128 + 128 * 8)
    after = 1024 * (3 * 48 + 48 * 48) + 256 * (48 * 96 + 96 * 8)
    assert Patrol(pruned=0.25).macs((32, 32, 3), deep) == 9 * (after - before)


def test_local_nn_and_inversion_network_pull_at_one_error_from_two_sides():
    rng = np.random.default_rng(0)
    z = jnp.float32(rng.uniform(0, 2, (2, 4, 4, 3)))
    images = jnp.float32(rng.uniform(0, 1, (2, 8, 8, 3)))
    network, mechanism = InversionNN(8), Patrol(weight=5.0, lipschitz=0.0)
    params = network.init(KEY, z)
    # Its last layer is zero at first, so that nothing reaches what comes before.
    params = jax.tree.map(lambda x: x + 0.05 * rng.standard_normal(x.shape), params)
    seen = Seen({}, images, z, None, KEY, TOPOLOGY, None)

    def term(params, z):
        return mechanism.term(seen._replace(params={"inversion": params}, z=z))

    def error(params, z):
        return jnp.mean(jnp.square(network.apply(params, z) - images))

    slopes = jax.grad(term, argnums=(0, 1))(params, z)
    of_network, of_z = jax.grad(error, argnums=(0, 1))(params, z)
    assert float(abs(of_z).max()) > 1e-5
    pairs = zip(jax.tree.leaves(slopes), jax.tree.leaves((of_network, -5 * of_z)), strict=True)
    # float32 sums of some hundreds of products, written in two ways.
    for got, wanted in pairs:
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-6)


def test_the_penalty_alone_makes_the_local_nn_answer_less(clean, free):
    images = as_float(clean.parts.auxiliary.images[:32])
    nudged = images + 0.02 * np.random.default_rng(0).standard_normal(images.shape)
    mechanism = Patrol(25, 1e-3, 0.0, lipschitz=1.0, pruned=0.0)
    penalised = mechanism.used(adapted_params(clean, mechanism, KEY))

    def moved(params):
        both = ([x, split.apply(TOPOLOGY, params, x)] for x in (images, jnp.float32(nudged)))
        return float(lipschitz_sum(*both))

    assert moved(penalised) < 0.95 * moved(free)


def test_its_words():
    assert parse_mechanism(str(Patrol(pruned=0.5))) == Patrol(pruned=0.5)
    with pytest.raises(UserError, match=r"pruned=1.0; allowed: 0 to less than 1"):
        parse_mechanism("patrol:pruned=1")
