"""A classifier that nobody trained, for tests of what is kept of one and read from it."""

import functools

import jax
import numpy as np

from privynet_jax.deployment.cloud.classifier import Classifier, Validation
from privynet_jax.training.checkpoints import by_path
from privynet_jax.training.models.networks import network_for
from support.small_release import class_ids


@functools.cache
def handmade_classifier(shape, seed=0, **changes):
    """Of three classes; made once, as initialising compiles."""
    network = network_for(shape, 3, width=4)
    params = jax.jit(network.init)(jax.random.key(seed), np.ones((1, *shape), np.float32))
    fields = {
        "params": by_path(params),
        "shape": shape,
        "classes": class_ids(3),
        "width": 4,
        "data": "b" * 64,
        "plan_id": "1d" * 32,
        "held_out": (0.1, 0.0, 0.25),
        "settings": {"steps": 20, "learning_rate": 0.002},
        "balanced_accuracy": 0.25,
        "commonest_class_share": 0.5,
        "history": (Validation(1, 1.0, 0.5, 1.0),),
    }
    return Classifier(**{**fields, **changes})
