"""A cloud NN that learns on: from where an earlier classifier of the same plan stands.

    check_start(start, data, settings)
    bounds = bounds_as_before(start, data.classes, bounds)
    task = begun_from(cloud_task(network), start, data.classes)

What the network learnt stays, also of classes that no row has now; classes are found by their ids,
and new ones begin at random.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from privynet_jax.deployment.cloud.classifier import Classifier, check_same_plan
from privynet_jax.deployment.cloud.contributions import Contributions
from privynet_jax.errors import UserError
from privynet_jax.training.tasks import Task

# Of the last layer, which has a column for each class.
_BY_CLASS = ("params/Dense_0/kernel", "params/Dense_0/bias")


def check_start(start: Classifier, data: Contributions, settings: dict[str, int | float]) -> None:
    """Raises UserError where a classifier cannot learn on from these rows with these settings."""
    check_same_plan({"the classifier to start from": start.plan_id, "the releases": data.plan_id})
    if start.several != (data.labels.ndim == 2):
        raise UserError(
            "of the classifier to start from and the releases, one has one class for each picture "
            "and the other may have several; train anew, without --start"
        )
    start.check_fits(tuple(data.representations.shape[1:]), "the releases")
    for name, value in settings.items():
        if start.settings.get(name) != value:
            raise UserError(
                f"{name} is {value}, and was {start.settings.get(name)} of the classifier to start "
                f"from; give --{name}={start.settings.get(name)}, or train anew without --start"
            )


def bounds_as_before(start: Classifier, classes: Sequence[str], bounds: np.ndarray) -> np.ndarray:
    """Returns the bounds (`held_out`) of classes, a classifier's own of those that it knows."""
    if start.several:  # one for all rows
        return np.full_like(bounds, start.held_out[0])
    known = dict(zip(start.classes, start.held_out, strict=True))
    return np.array(
        [known.get(class_id, own) for class_id, own in zip(classes, bounds, strict=True)]
    )


def begun_from(task: Task, start: Classifier, classes: Sequence[str]) -> Task:
    """Returns a cloud NN's task whose first parameters are a classifier's, for these classes."""
    places = {class_id: place for place, class_id in enumerate(start.classes)}
    kept = [place for place, class_id in enumerate(classes) if class_id in places]
    before = [places[classes[place]] for place in kept]

    def init(key: jax.Array, x: jax.Array) -> Any:
        def first(path: Any, fresh: jax.Array) -> jax.Array:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            learnt = start.params[name]
            if name in _BY_CLASS:
                return fresh.at[..., kept].set(learnt[..., before])
            return jax.numpy.asarray(learnt)

        return jax.tree_util.tree_map_with_path(first, task.init(key, x))

    return dataclasses.replace(task, init=init)
