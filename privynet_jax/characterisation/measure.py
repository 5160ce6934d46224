"""Measures topologies of one layer: a cloud NN and every attacker, side by side.

Whoever wants to know a topology's accuracy and privacy loss asks here: the grid, audits, and the
comparisons of attackers, knowledge and defences.

    protocol = Protocol(cloud=cloud_nn(30, 32), schedule=Schedule(steps=300), attacks=attacks)
    for measurement in measure(cells, scenes, protocol, seed=0):
        ...
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from privynet_jax.attacks.base import Attack, FittedAttack
from privynet_jax.attacks.scenario import Scenario, fit_attack, score
from privynet_jax.attacks.white_box import WhiteBox
from privynet_jax.errors import UserError
from privynet_jax.results.cells import Cell, training_key
from privynet_jax.results.measurement import Measurement
from privynet_jax.training.prediction import measured
from privynet_jax.training.session import current_session, session
from privynet_jax.training.tasks import CLOUD, Schedule, cloud_task
from privynet_jax.training.trainer import Course, Member, train

REPORTED = ("validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Protocol:
    """What is measured of every topology.

    Attributes:
        cloud: the cloud NN; None where accuracy is not asked for.
        schedule: of the cloud NN, where there is one.
        attacks: all attackers; may be empty.
        examples: int [K], test images whose reconstructions are kept.
        attacked: int [n], test images that attackers are scored on; None means all. Validation
            images are then left alone.
        optimised: the same for attackers that optimise each image for itself, about a second each
            on two CPU cores; None: they are scored as all others.
    """

    cloud: nn.Module | None = None
    schedule: Schedule | None = None
    attacks: Sequence[Attack] = ()
    examples: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, int))
    attacked: np.ndarray | None = None
    optimised: np.ndarray | None = None

    def rows(self, attack: Attack) -> np.ndarray | None:
        """Returns the test images that an attack is scored on; None: all, and validation images."""
        few = self.optimised is not None and isinstance(attack, WhiteBox)
        return self.optimised if few else self.attacked


def measure(
    cells: Sequence[Cell], scenes: Sequence[Scenario], protocol: Protocol, seed: int
) -> list[Measurement]:
    """Returns a measurement per cell.

    Args:
        cells: of one layer, all different.
        scenes: theirs, with representations of one shape.
        protocol: what is measured.
        seed: each cell derives its own key from it, so that no number depends on its company.

    Raises:
        UserError: training diverged, or a cell does not fit into a device's memory.
        signals.Terminated: a stop was requested; what was trained is in the session's checkpoint.
    """
    begun, keys = time.perf_counter(), [training_key(cell, seed) for cell in cells]
    with _piece(len(cells), protocol):
        accuracy = _accuracies(cells, scenes, protocol, keys)
    attacks = {}
    for attack in protocol.attacks:
        with _piece(len(cells), protocol):
            attacks[attack.name] = fit_attack(attack, scenes, keys)
    found = [
        _attacked(cell, scene, protocol, {name: fitted[i] for name, fitted in attacks.items()})
        for i, (cell, scene) in enumerate(zip(cells, scenes, strict=True))
    ]
    seconds = (time.perf_counter() - begun) / len(cells)
    return [
        Measurement(cell=cell, accuracy=right, seconds=seconds, **fields)
        for cell, right, fields in zip(cells, accuracy, found, strict=True)
    ]


@contextlib.contextmanager
def _piece(cells: int, protocol: Protocol) -> Iterator[None]:
    """Tells of one piece of the work on cells: in the end its whole share, whatever was trained."""
    progress, left = current_session().progress, float(cells)
    pieces = 1 + len(protocol.attacks)

    def tell(done: float) -> None:
        nonlocal left
        done = min(done, left)
        left -= done
        progress(done / pieces)

    with session(progress=tell):
        yield
    tell(left)


def cloud_members(
    scenes: Sequence[Scenario], keys: Sequence[jax.Array], schedule: Schedule
) -> list[Member]:
    """Returns the cloud NNs of topologies as the trainer takes them."""
    return [
        Member(
            key=key,
            inputs=scene.stored("target"),
            targets=scene.parts.target.labels,
            rows=np.arange(len(scene.parts.target)),
            learning_rate=schedule.learning_rate,
        )
        for scene, key in zip(scenes, keys, strict=True)
    ]


def _accuracies(
    cells: Sequence[Cell],
    scenes: Sequence[Scenario],
    protocol: Protocol,
    keys: Sequence[jax.Array],
) -> list[dict[str, np.ndarray]]:
    """Per cell: part -> float32 [N], 1 where its cloud NN was right."""
    if protocol.cloud is None:
        return [{} for _ in cells]
    task, schedule = cloud_task(protocol.cloud), protocol.schedule
    members = cloud_members(scenes, keys, schedule)
    trained = train(task, members, Course(schedule.steps, schedule.batch_size))
    found = [
        {
            part: measured(
                task, own.params, (), scene.stored(part), getattr(scene.parts, part).labels
            )["accuracy"]
            for part in REPORTED
        }
        for own, scene in zip(trained, scenes, strict=True)
    ]
    for cell, own, right in zip(cells, trained, found, strict=True):
        _check(cell, CLOUD, not own.diverged and np.isfinite(right["test"]).all())
    return found


def _attacked(
    cell: Cell, scene: Scenario, protocol: Protocol, attacks: Mapping[str, FittedAttack]
) -> dict[str, Any]:
    """A `Measurement`'s fields about attacks."""
    quality = {
        attack.name: _quality(attacks[attack.name], scene, protocol.rows(attack))
        for attack in protocol.attacks
    }
    for name, by_part in quality.items():
        _check(cell, name, np.isfinite(by_part["test"]["psnr_db"]).all())
    return {
        "attacks": quality,
        "examples": {
            name: _as_bytes(fitted, scene, protocol.examples) for name, fitted in attacks.items()
        },
        "reports": {
            attack.name: {**attacks[attack.name].report, "knowledge": attack.knowledge}
            for attack in protocol.attacks
        },
    }


def _quality(
    fitted: FittedAttack, scene: Scenario, rows: np.ndarray | None
) -> dict[str, dict[str, np.ndarray]]:
    if rows is not None:
        return {"test": score(fitted, scene, "test", rows)}
    return {part: score(fitted, scene, part) for part in REPORTED}


def _as_bytes(fitted: FittedAttack, scene: Scenario, rows: np.ndarray) -> np.ndarray:
    """Reconstructions of test images, uint8 [K, H, W, 3]."""
    if not len(rows):
        return np.zeros((0, *scene.parts.test.images.shape[1:]), np.uint8)
    estimates = fitted.reconstruct(scene.representations("test", rows))
    return np.uint8(np.round(255 * np.clip(estimates, 0, 1)))


def _check(cell: Cell, name: str, finite: bool) -> None:
    """Refuses what diverged: it would pass for a weak attacker, or for an inaccurate cloud NN."""
    if not finite:
        raise UserError(
            f"the network {name} of cell {cell.name} diverged: its outputs are not finite; "
            "train it with a lower learning rate"
        )
