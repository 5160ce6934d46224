"""How a cloud NN learns from a release: a part is held out, and training ends where that says.

The cloud trains on a release like this (`deployment.cloud.cloud_training`), and membership
inference the networks that it attacks and their shadows, so that they are what the cloud has.

    training = ReleaseTraining(Schedule(steps=2000, batch_size=64), patience=6)
    learnt, held_out = training.dealt(labels, seed=0)
    members = [training.member(key, representations, labels, learnt, held_out)]
    [trained] = train(cloud_task(network), members, training.course)
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from privynet_jax.errors import UserError
from privynet_jax.images.partition import split_groups
from privynet_jax.training.tasks import Schedule, check_learning_rate
from privynet_jax.training.trainer import Course, Member

# Of a whole training, equally spaced.
_VALIDATIONS = 20


@dataclasses.dataclass(frozen=True)
class ReleaseTraining:
    """What decides a training, besides the release and everything random.

    Attributes:
        schedule: steps, batch size and learning rate.
        validation_fraction: of each class's rows, held out.
        patience: validations in a row without anything better, after which training stops.

    Raises:
        UserError: a number is out of its range.
    """

    schedule: Schedule = Schedule(steps=2000, batch_size=64)  # noqa: RUF009 - frozen
    validation_fraction: float = 0.1
    patience: int = 6

    def __post_init__(self) -> None:
        schedule = self.schedule
        check_counts(steps=schedule.steps, batch_size=schedule.batch_size, patience=self.patience)
        check_learning_rate(schedule.learning_rate)
        if not 0 < self.validation_fraction < 1:
            raise UserError(
                f"validation_fraction is {self.validation_fraction}; allowed are numbers between "
                "0 and 1; 0.1 suits most releases"
            )

    @property
    def course(self) -> Course:
        """How long a network is trained, and when it is looked at."""
        steps, batch_size = self.schedule.steps, self.schedule.batch_size
        return Course(steps, batch_size, validations=_VALIDATIONS, patience=self.patience)

    def dealt(self, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows of labels int [N] to learn from, and those held out, int [n] each.

        Class by class, by the seed alone; none is held out where no class has two rows.
        """
        held_out = self.validation_fraction
        fractions = {"training": 1 - held_out, "validation": held_out}
        rows = split_groups(labels, np.arange(len(labels)), fractions, seed)
        return rows["training"], np.sort(rows["validation"])

    def member(
        self,
        key: jax.Array,
        representations: Any,
        labels: np.ndarray,
        learnt: np.ndarray,
        held_out: np.ndarray,
    ) -> Member:
        """Returns a network that learns from rows of representations [N, h, w, D], for `train`.

        The rows held out choose the moment whose parameters are kept: that of the highest accuracy,
        of equals the lowest loss. Without any, the last ones are.
        """
        return Member(
            key=key,
            inputs=representations,
            targets=labels,
            rows=learnt,
            learning_rate=self.schedule.learning_rate,
            held_out=held_out,
        )

    def longer(self, factor: float) -> "ReleaseTraining":
        """Returns the same with so many times the steps, at least one."""
        return dataclasses.replace(self, schedule=self.schedule.longer(factor))


def check_counts(**numbers: int) -> None:
    """Raises UserError for one that is less than 1."""
    for name, value in numbers.items():
        if value < 1:
            raise UserError(f"{name} is {value}; allowed are whole numbers of 1 or more")
