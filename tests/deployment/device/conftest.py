"""Packages of two plans, which tests leave as they are."""

import pytest
from support import package_samples as samples

from privynet_jax.backbone.topology import Topology
from privynet_jax.deployment.device.package_export import DTYPES, write_package
from privynet_jax.images.pixels.reading import Reading

TOPOLOGIES = {32: Topology(4, (3, 17, 90)), 64: Topology(7, tuple(range(5, 256, 8)))}


@pytest.fixture(scope="session")
def plans(vgg_weights):
    return {
        size: samples.plan(vgg_weights, t, size, reading=Reading(4095))
        for size, t in TOPOLOGIES.items()
    }


@pytest.fixture(scope="session")
def folders(vgg_weights, plans, tmp_path_factory):
    """(image size, type) -> a package; tests leave them as they are."""
    root = tmp_path_factory.mktemp("packages")
    written = {}
    for size, plan in plans.items():
        for dtype in DTYPES:
            written[size, dtype] = root / f"{size}-{dtype}"
            write_package(written[size, dtype], plan, vgg_weights.params, dtype=dtype)
    return written
