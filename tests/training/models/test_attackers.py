"""Inverse networks by name: what each is, and that they differ where they should."""

import jax
import numpy as np

from privynet_jax.training.models.attackers import CAPACITIES, RESIDUAL, capacities_of_size
from privynet_jax.training.models.linear_attack import LinearAttack, reconstruct
from privynet_jax.training.models.networks import attacker

SIZE, DEPTH = 16, 3


def test_an_attacker_begins_as_the_linear_one():
    task = capacities_of_size(8, 0)[RESIDUAL].task(SIZE)
    rng = np.random.default_rng(0)
    x = np.float32(rng.exponential(size=(2, SIZE // 2, SIZE // 2, DEPTH)))
    kernel = np.float32(rng.normal(0, 0.05, (3, 3, DEPTH, 12)))
    attack = LinearAttack(kernel, np.full(12, 0.5, np.float32))
    params = jax.jit(task.init)(jax.random.key(0), x)
    # Its last layer begins at zero, which added to an estimate leaves all bits.
    np.testing.assert_array_equal(task.predict(params, attack, x), reconstruct(attack, x))


def test_names_streams_types_and_sizes():
    tasks = {name: capacity.task(SIZE) for name, capacity in CAPACITIES.items()}
    assert [task.name for task in tasks.values()] == list(CAPACITIES)
    # 0 is the cloud NN's: a cell's networks share its key.
    assert len({0, *(task.stream for task in tasks.values())}) == len(tasks) + 1
    seen = []
    for capacity in CAPACITIES.values():
        capacity.task(SIZE, "bfloat16", lambda network: seen.append(network) or network)
    assert {str(np.dtype(network.dtype)) for network in seen} == {"bfloat16"}
    assert {network.image_size for network in seen} == {SIZE}
    small = capacities_of_size(width=8, num_blocks=2)
    assert small[RESIDUAL].network(SIZE) == attacker(SIZE, width=8, num_blocks=2)
    assert all(small[name] is CAPACITIES[name] for name in CAPACITIES if name != RESIDUAL)
