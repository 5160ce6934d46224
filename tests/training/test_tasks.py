"""What networks learn: losses, measures and scores by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from support.small_training import ChannelMeans

from privynet_jax.errors import UserError
from privynet_jax.training.networks import attacker
from privynet_jax.training.tasks import Schedule, attacker_task, cloud_task, squared_error


def test_smoothed_cross_entropy_by_hand():
    probabilities = np.array([[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]], np.float32)
    task, logits, labels = cloud_task(ChannelMeans()), jnp.log(probabilities), jnp.array([0, 2])
    # A tenth of the label is shared out among four classes: 0.925 for the right, 0.025 for others.
    first = -(0.925 * np.log(0.7) + 3 * 0.025 * np.log(0.1))
    assert float(task.loss(logits, labels)) == pytest.approx((first + np.log(4)) / 2, rel=1e-6)
    found = task.measure(logits, labels)
    np.testing.assert_allclose(found["loss"], [first, np.log(4)], rtol=1e-6)
    assert found["accuracy"].tolist() == [1, 0]


def test_more_is_better_and_less_error_is():
    cloud = cloud_task(ChannelMeans())
    right, sure = {"accuracy": 0.5, "loss": 2.0}, {"accuracy": 0.4, "loss": 1.0}
    assert cloud.score(right) > cloud.score(sure)
    assert cloud.score({**right, "loss": 1.0}) > cloud.score(right)
    assert cloud.error(right) == 2
    task = attacker_task(attacker(16, 4, 0), name="any")
    assert task.score({"psnr_db": 21.0}) > task.score({"psnr_db": 20.0})
    assert task.error is squared_error
    assert squared_error({"psnr_db": 20.0}) == pytest.approx(0.01)


def test_equal_tasks_are_one():
    assert cloud_task(ChannelMeans()) is cloud_task(ChannelMeans())
    one, other = (attacker_task(attacker(16, 4, 0), name=name) for name in "ab")
    assert one != other
    assert len({cloud_task(ChannelMeans()).stream, one.stream}) == 2


@pytest.mark.parametrize("rate", [0.0, -1e-3, np.inf, np.nan])
def test_a_rate_that_trains_nothing_is_refused(rate):
    with pytest.raises(UserError, match=r"learning rate \S+; allowed are positive numbers"):
        Schedule(3, learning_rate=rate)
