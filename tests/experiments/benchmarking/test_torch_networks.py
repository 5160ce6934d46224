"""The peer in PyTorch is the same: as many parameters, and the same outputs from the same ones."""

import jax
import numpy as np
import pytest

from experiments.benchmarking.inputs import Setup, learnt, members, random_images, random_layer
from privynet_jax import UserError, grid_cells
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.split import activations, made_up_params
from privynet_jax.training.steps import as_targets

torch = pytest.importorskip("torch")
torch_networks = pytest.importorskip("experiments.benchmarking.torch_networks")
torch_peer = pytest.importorskip("experiments.benchmarking.torch_peer")
SETUP = Setup(depth=8, width=16, images=4)


def filled(params):
    """Parameters, of which none is zero: else whole branches could be missing."""
    leaves, structure = jax.tree.flatten(params)
    stream = np.random.default_rng(1)
    noise = [0.1 * stream.standard_normal(leaf.shape, np.float32) for leaf in leaves]
    return structure.unflatten([leaf + more for leaf, more in zip(leaves, noise, strict=True)])


# Fine and without attention; folded once; on the working grid; unfolded.
@pytest.mark.parametrize("layer", [2, 4, 7, 10])
def test_networks_give_the_same(layer):
    chosen = grid_cells((layer,), (SETUP.depth,), 1, seed=0)
    stored = random_layer(layer, chosen, SETUP)
    for what in learnt(SETUP, layer).values():
        [member] = members(chosen, stored, what)
        x = np.float32(member.inputs[:])
        params = filled(jax.jit(what.task.init)(member.key, x))
        network = torch_peer.network_of(what, params, x.shape[1:], SETUP)
        count = sum(parameter.numel() for parameter in network.parameters())
        assert count == sum(leaf.size for leaf in jax.tree.leaves(params))
        expected = what.task.predict(params, what.constants, x)
        with torch.no_grad():
            found = network(torch.tensor(x))
        # Sums of some thousand products of about 1, float32 in another order.
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        targets = torch.as_tensor(what.targets)
        found = torch_peer.loss_of(targets)(found, torch_peer.as_answers(targets))
        loss = what.task.loss(expected, as_targets(jax.numpy.asarray(what.targets)))
        np.testing.assert_allclose(found, loss, rtol=1e-3)


def test_the_trunk_gives_the_same():
    params = made_up_params(VGG16, 5)
    images = np.float32(random_images(2, 16)) / 255
    expected = activations(VGG16, params, images, [5])[5]
    with torch.no_grad():
        found = torch_networks.Trunk(params, 5)(torch.tensor(images).permute(0, 3, 1, 2))
    np.testing.assert_allclose(found.permute(0, 2, 3, 1), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [32, 16, 8, 4])
def test_the_decoder_makes_images_of_all_layers(side):
    network = torch_networks.Decoder((side, side, 8), image_size=32, width=4)
    assert network(torch.zeros(2, side, side, 8)).shape == (2, 32, 32, 3)


def test_training_lowers_the_loss():
    what = learnt(SETUP, 7)["strong"]
    chosen = grid_cells((7,), (SETUP.depth,), 1, seed=0)
    [member] = members(chosen, random_layer(7, chosen, SETUP), what)
    x = np.asarray(member.inputs[:])
    params = jax.jit(what.task.init)(member.key, np.float32(x))
    network = torch_peer.network_of(what, params, x.shape[1:], SETUP)
    training = torch_peer.Training(network, (x, what.targets), torch_peer.Recipe(4, 1e-3))
    answers = torch_peer.as_answers(torch.tensor(what.targets))

    def loss():
        with torch.no_grad():
            return torch_peer.log_loss(network(torch.tensor(x).float()), answers)

    before = loss()
    training.run(20)
    assert loss() < before


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_pytorch_that_cannot_compute_where_jax_does_is_refused():
    with pytest.raises(UserError, match="finds no CUDA device"):
        torch_peer.start("cuda")
