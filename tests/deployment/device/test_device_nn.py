"""The device's program: which images it takes, and what its trial would notice."""

import jax
import numpy as np
import pytest

from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.split import local_nn
from privynet_jax.backbone.topology import Topology
from privynet_jax.deployment.device import device_nn
from privynet_jax.images.parts import as_float


def test_the_digest_leaves_out_itself_and_nothing_else():
    settings = {"b": [1, 2.5], "a": "ü", "sha256": "x"}
    digest = device_nn.settings_digest(settings)
    assert digest == device_nn.settings_digest({"a": "ü", "b": [1, 2.5]})
    assert digest != device_nn.settings_digest({"a": "u", "b": [1, 2.5]})


def test_trial_images_tell_channels_and_axes_apart(vgg_weights):
    """Each layer's channels respond to the made-up images, so what is wrong shows."""
    for num_layers, size in ((1, 32), (4, 32), (13, 32), (13, 64)):
        topology = Topology(num_layers, tuple(range(VGG16.cuts[num_layers - 1].channels)))
        network = jax.jit(local_nn(vgg_weights.params, topology))
        images = device_nn.trial_images(size)
        assert (images.dtype, images.shape) == (np.uint8, (8, size, size, 3))
        means = np.asarray(network(as_float(images))).mean((0, 1, 2))
        assert (means > 0).mean() > 0.4  # deep layers are sparse; a real image's are too
        assert len(np.unique(means[means > 0])) == (means > 0).sum()
        turned = np.asarray(network(as_float(images.transpose(0, 2, 1, 3)))).mean((0, 1, 2))
        assert np.abs(turned - means).max() > 10 * device_nn._TOLERANCE * means.max()


def test_the_trial_images_are_those_of_the_readme():
    images = device_nn.trial_images(40)
    for n, y, x, c in ((0, 0, 0, 0), (3, 39, 17, 2), (7, 20, 39, 1)):
        assert images[n, y, x, c] == (x * y * (c + 1) // (n + 1) + 40 * n * c + 3 * y) % 251


@pytest.mark.parametrize("count", [device_nn._BATCH + 3, 0])
def test_convert_takes_images_in_batches(tmp_path, count):
    images = np.random.default_rng(0).integers(0, 256, (count, 2, 2, 3), np.uint8)
    np.save(tmp_path / "in.npy", images)
    seen = []

    def represent(batch):
        seen.append(len(batch))
        return np.float32(batch) * 2

    device_nn.convert(represent, str(tmp_path / "in.npy"), str(tmp_path / "out.npy"))
    assert seen == ([device_nn._BATCH, 3] if count else [0])
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.float32(images) * 2)
