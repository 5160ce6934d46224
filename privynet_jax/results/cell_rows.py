"""What is kept of a cell that was measured: its result, and arrays beside it.

store.save(*cell_row(measurement, parts.test, "dedicated", examples=10))
"""

import numpy as np

from privynet_jax.backbone.topology import local_cost
from privynet_jax.images.parts import Part
from privynet_jax.platform.devices import environment
from privynet_jax.results.accuracies import of_images
from privynet_jax.results.cell_results import AttackResult, CellResult, accuracy_columns
from privynet_jax.results.cells import Measurement
from privynet_jax.results.risk_tables import INTERVALS, intervals_of, scored, strongest_values

# What `ResultStore.save` takes.
Row = tuple[CellResult, dict[str, np.ndarray]]


def cell_row(measurement: Measurement, test: Part, mode: str, examples: int) -> Row:
    """Returns what is kept of a cell that was measured on these devices.

    Args:
        measurement: of the test images `test`, in one of the modes of a characterisation.
        test: the test images.
        mode: which says which of them attackers were scored on.
        examples: the most reconstructions that are kept.
    """
    result = _result(measurement, test.images.shape[1])
    arrays = _arrays(measurement, examples)
    count = len(strongest_values(result, arrays)["psnr_db"])
    clusters = test.clusters(scored(test.labels, count, mode))
    return result, {**arrays, INTERVALS: intervals_of(result, arrays, clusters)}


def _result(measurement: Measurement, image_size: int) -> CellResult:
    topology = measurement.cell.topology
    cost = local_cost(topology, image_size)
    return CellResult(
        name=measurement.cell.name,
        num_layers=topology.num_layers,
        layer=topology.layer.name,
        depth=topology.depth,
        selection=measurement.cell.selection,
        draw=measurement.cell.draw,
        channels=topology.channels,
        **accuracy_columns(measurement.accuracy, measurement.labels),
        attacks=tuple(
            AttackResult.of_images(name, by_part, measurement.reports[name])
            for name, by_part in measurement.attacks.items()
        ),
        cost={
            "local_macs": cost.macs,
            "local_param_bytes": cost.param_bytes,
            "local_activation_bytes": cost.peak_activation_bytes,
            "release_bytes": cost.release_bytes,
        },
        environment=environment(),
        train_seconds=measurement.seconds,
        backbone=topology.backbone,
    )


def _arrays(measurement: Measurement, examples: int) -> dict[str, np.ndarray]:
    """The arrays kept beside a cell's result: test images' metrics, and example estimates."""
    arrays = {"accuracy": of_images(measurement.accuracy["test"])}
    for name, by_part in measurement.attacks.items():
        for metric, values in by_part["test"].items():
            arrays[f"{name}_{metric}"] = values
    for name, estimates in measurement.examples.items():
        arrays[f"{name}_examples"] = estimates[:examples]
    return arrays
