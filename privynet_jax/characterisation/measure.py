"""Measures topologies of one layer: a cloud NN and every attacker, side by side.

Whoever wants to know a topology's accuracy and privacy loss asks here: the grid, audits, and the
comparisons of attackers, knowledge and mechanisms.

    protocol = Protocol(cloud=CloudNN(30, 32), schedule=Schedule(steps=300), attacks=attacks)
    for measurement in measure(cells, scenes, protocol, seed=0):
        ...
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from privynet_jax.attacks.base import Attack, FittedAttack, optimises_images
from privynet_jax.attacks.closed_form import LINEAR, MEAN_IMAGE
from privynet_jax.attacks.scenario import Scenario, fit_attack, score
from privynet_jax.errors import DivergedError
from privynet_jax.images.metrics import correct
from privynet_jax.images.parts import Parts, as_bytes
from privynet_jax.results.cells import Cell, Measurement, training_key
from privynet_jax.training.prediction import predicted
from privynet_jax.training.session import current_session, session
from privynet_jax.training.tasks import CLOUD, Schedule, Task, task_of
from privynet_jax.training.trainer import Course, Member, train

REPORTED = ("validation", "test")
# What a training takes, and what a closed form or a scoring does: of the quickstart's networks at
# half its steps 20 seconds and 2.
_TRAINED, _QUICK = 10, 1
_SCORING = "scoring"


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
        optimised: part -> int [n], the images that attackers are scored on who optimise each image
            for itself, about a second each on two CPU cores; None: they are scored as all others.
        hardness: of what the cloud NN learns from (`tasks.Task`).
    """

    cloud: nn.Module | None = None
    schedule: Schedule | None = None
    attacks: Sequence[Attack] = ()
    examples: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, int))
    attacked: np.ndarray | None = None
    optimised: Mapping[str, np.ndarray] | None = None
    hardness: float = 0.0

    def __post_init__(self) -> None:
        names = [attack.name for attack in self.attacks]
        if len(set(names)) < len(names):  # the last would take the others' place
            raise ValueError(f"Expected attacks of different names, got {names}.")

    def rows(self, attack: Attack) -> Mapping[str, np.ndarray | None]:
        """Returns part -> images that an attack is scored on; None: all of them."""
        if self.optimised is not None and optimises_images(attack):
            return self.optimised
        return dict.fromkeys(REPORTED) if self.attacked is None else {"test": self.attacked}


def measure(
    cells: Sequence[Cell], scenes: Sequence[Scenario], protocol: Protocol, seed: int
) -> list[Measurement]:
    """Returns a measurement per cell; arguments and errors are those of `outcomes`.

    Raises:
        DivergedError: training diverged for a cell; `outcomes` has what the others gave.
    """
    found = outcomes(cells, scenes, protocol, seed)
    for each in found:
        if isinstance(each, DivergedError):
            raise each
    return found


def outcomes(
    cells: Sequence[Cell], scenes: Sequence[Scenario], protocol: Protocol, seed: int
) -> list[Measurement | DivergedError]:
    """Returns a measurement per cell, or how training diverged for it.

    Args:
        cells: of one layer, all different.
        scenes: theirs, with representations of one shape.
        protocol: what is measured.
        seed: each cell derives its own key from it, so that no number depends on its company.

    Raises:
        UserError: a cell does not fit into a device's memory.
        signals.Terminated: a stop was requested; what was trained is in the session's checkpoint.
    """
    begun, keys = time.perf_counter(), [training_key(cell, seed) for cell in cells]
    accuracy: list[dict[str, np.ndarray]] = [{} for _ in cells]
    shares = _shares(protocol)
    with piece(len(cells), shares[CLOUD]):
        if protocol.cloud is not None:
            accuracy = cloud_accuracies(
                protocol.cloud,
                protocol.schedule,
                keys,
                [{part: scene.asked(part) for part in ("target", *REPORTED)} for scene in scenes],
                [scene.parts for scene in scenes],
                protocol.hardness,
            )
    fitted = []
    for attack in protocol.attacks:
        with piece(len(cells), shares[attack.name]):
            fitted.append(fit_attack(attack, scenes, keys))
    found = []
    for i, (cell, scene, right) in enumerate(zip(cells, scenes, accuracy, strict=True)):
        try:
            if protocol.cloud is not None:
                check_converges(f"cell {cell.name}", CLOUD, bool(right))
            fields = _attacked(cell, scene, protocol, [own[i] for own in fitted])
            labels = {part: getattr(scene.parts, part).answers for part in REPORTED}
            found.append(Measurement(cell, accuracy=right, labels=labels, seconds=0.0, **fields))
        except DivergedError as error:
            found.append(error)
        current_session().progress(shares[_SCORING])
    seconds = (time.perf_counter() - begun) / len(cells)
    return [
        dataclasses.replace(each, seconds=seconds) if isinstance(each, Measurement) else each
        for each in found
    ]


def _shares(protocol: Protocol) -> dict[str, float]:
    """About what share of a cell's time the cloud NN, each attack's fit and all scoring take."""
    took = {CLOUD: _TRAINED if protocol.cloud else 0, _SCORING: 0}
    for attack in protocol.attacks:
        took[attack.name] = _QUICK if attack.name in (LINEAR, MEAN_IMAGE) else _TRAINED
        took[_SCORING] += _TRAINED if optimises_images(attack) else _QUICK
    total = max(1, sum(took.values()))
    return {name: each / total for name, each in took.items()}


@contextlib.contextmanager
def piece(count: int, share: float) -> Iterator[None]:
    """Tells of so many trainings, each a share of a cell's work: in the end of all of them."""
    progress, left = current_session().progress, float(count)

    def tell(done: float) -> None:
        nonlocal left
        done = min(done, left)
        left -= done
        progress(done * share)

    with session(progress=tell):
        yield
    tell(left)


def cloud_accuracies(
    network: nn.Module,
    schedule: Schedule,
    keys: Sequence[jax.Array],
    representations: Sequence[Mapping[str, Any]],
    parts: Sequence[Parts],
    hardness: float = 0.0,
) -> list[dict[str, np.ndarray]]:
    """Trains cloud NNs side by side; returns per network: part -> float32 [N], 1 where it is right.

    Where each image may have several labels, it is [N, L], of each label. Nothing is returned of a
    network that diverged. Keys, representations [N, h, w, D] by part, and the images whose they
    are, come per network.
    """
    task, found = task_of(network, parts[0].target.several is not None), []
    task = dataclasses.replace(task, hardness=hardness)
    members = [
        Member(
            key=key,
            inputs=stored["target"],
            targets=own.target.answers,
            rows=np.arange(len(own.target)),
            learning_rate=schedule.learning_rate,
        )
        for key, stored, own in zip(keys, representations, parts, strict=True)
    ]
    trained = train(task, members, Course(schedule.steps, schedule.batch_size))
    for i, (own, stored, labelled) in enumerate(zip(trained, representations, parts, strict=True)):
        evaluate = functools.partial(_right, task, own.params, stored, labelled)
        right = current_session().kept(f"accuracy of {i}", evaluate)
        found.append({} if own.diverged or not np.isfinite(right["test"]).all() else right)
    return found


def _right(
    task: Task, params: Any, stored: Mapping[str, Any], parts: Parts
) -> dict[str, np.ndarray]:
    found = {}
    for part in REPORTED:
        logits = predicted(task, params, (), stored[part])
        found[part] = np.asarray(correct(logits, getattr(parts, part).answers))
    return found


def _attacked(
    cell: Cell, scene: Scenario, protocol: Protocol, fitted: Sequence[FittedAttack]
) -> dict[str, dict[str, Any]]:
    """A `Measurement`'s fields about attacks."""
    found: dict[str, dict[str, Any]] = {"attacks": {}, "examples": {}, "reports": {}}
    for attack, own in zip(protocol.attacks, fitted, strict=True):
        rows = protocol.rows(attack)
        evaluate = functools.partial(_evaluated, own, scene, rows, protocol.examples)
        try:
            arrays = current_session().kept(f"{attack.name} of {cell.name}", evaluate)
        except DivergedError as error:
            raise DivergedError(f"cell {cell.name}: {error}") from None
        finite = bool(np.isfinite(arrays["test/psnr_db"]).all())
        check_converges(f"cell {cell.name}", attack.name, finite)
        found["attacks"][attack.name] = {
            part: {
                name.removeprefix(f"{part}/"): values
                for name, values in arrays.items()
                if name.startswith(f"{part}/")
            }
            for part in rows
        }
        found["examples"][attack.name] = arrays["examples"]
        found["reports"][attack.name] = {**own.report, "knowledge": attack.knowledge}
    return found


def _evaluated(
    fitted: FittedAttack,
    scene: Scenario,
    rows: Mapping[str, np.ndarray | None],
    examples: np.ndarray,
) -> dict[str, np.ndarray]:
    """The quality of some images of each part, flat, and reconstructions of test images."""
    found = {"examples": _rebuilt(fitted, scene, examples)}
    for part, own in rows.items():
        quality = score(fitted, scene, part, own)
        found |= {f"{part}/{metric}": values for metric, values in quality.items()}
    return found


def _rebuilt(fitted: FittedAttack, scene: Scenario, rows: np.ndarray) -> np.ndarray:
    """Reconstructions of test images, uint8 [K, H, W, 3]."""
    if not len(rows):
        return np.zeros((0, *scene.parts.test.images.shape[1:]), np.uint8)
    estimates = fitted.reconstruct(scene.representations("test", rows))
    return as_bytes(estimates)  # what is not finite is refused by who looks at its quality


def check_converges(whose: str, name: str, finite: bool) -> None:
    """Raises DivergedError for what would pass for a weak attacker or an inaccurate cloud NN."""
    if not finite:
        raise DivergedError(
            f"the network {name} of {whose} diverged: its outputs are not finite; "
            "train it with a lower learning rate"
        )
