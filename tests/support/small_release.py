"""A release as the cloud's rooms see one, made of real photographs, for several test files."""

import dataclasses
import hashlib
from typing import Any

import jax
import numpy as np

from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.features.layer_features import extractor
from privynet_jax.images.parts import as_float


@dataclasses.dataclass
class SmallRelease:
    """Has what `release_folder.Release` has, in memory."""

    id: str
    representations: Any
    labels: Any
    classes: tuple | None
    dtype: str = "float16"
    plan_id: str = "1d" * 32
    name: str = ""
    signer: str = ""


def representations_of(images, weights, layer, depth):
    """float32 [N, h, w, depth], the first channels of a layer of VGG16."""
    run = jax.jit(extractor(VGG16, {layer: tuple(range(depth))}))
    return np.asarray(run(weights.params, as_float(images))[layer])


def real_releases(parts, weights, *, layer=4, depth=24):
    """Releases of the target and the test part, normalised alike."""
    features = {
        name: representations_of(getattr(parts, name).images, weights, layer, depth)
        for name in ("target", "test")
    }
    scales = 1 / np.sqrt(np.square(features["target"]).mean(axis=(0, 1, 2)) + 1e-6)
    return {
        name: SmallRelease(
            id_of(name), np.float16(x * scales), getattr(parts, name).labels, class_ids(30)
        )
        for name, x in features.items()
    }


def random_release(*, rows=24, side=4, depth=3, classes=3, seed=0):
    """Nothing but noise of the right kind, with labels that can be told apart by its strength."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows, dtype=np.int32) % classes
    x = rng.random((rows, side, side, depth)) * (1 + labels[:, None, None, None])
    return SmallRelease(id_of(f"random {rows} {seed}"), np.float16(x), labels, class_ids(classes))


def class_ids(count):
    """Ids of so many classes, ascending; of more classes, these are among them."""
    return tuple(f"{number:02x}" * 32 for number in range(count))


def id_of(name):
    """What a release's id looks like."""
    return hashlib.sha256(name.encode()).hexdigest()
