"""What is adapted: the local NN of four channels of layer 2, on a few real pictures."""

import jax
import pytest

from privynet_jax.attacks.scenario import make_scenario
from privynet_jax.backbone.topology import Topology
from privynet_jax.mechanisms.adapting.adapted import EarlyExit, adapted_params


@pytest.fixture(scope="session")
def clean(vgg_weights, small_parts, tmp_path_factory):
    topology = Topology(2, (3, 17, 40, 50))
    return make_scenario(vgg_weights, small_parts, topology, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def free(clean):
    """The local NN after as many steps as others learn for, without any term of theirs."""
    return adapted_params(clean, EarlyExit(25, 1e-3), jax.random.key(2))["local"]
