"""What networks learn: losses, measures and scores by hand; Muon against decompositions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small_training import ChannelMeans

from privynet_jax.errors import UserError
from privynet_jax.training.models.networks import attacker
from privynet_jax.training.tasks import (
    Schedule,
    attacker_task,
    cloud_task,
    log_loss,
    squared_error,
    squared_loss,
)


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


def test_the_logarithmic_loss_is_psnr_on_another_scale():
    rng = np.random.default_rng(0)
    images, estimates = (np.float32(rng.random((5, 4, 4, 3))) for _ in range(2))
    estimates[0] = images[0]
    # An exact image counts as 1e-5 in squared error; ten decibels are one factor of ten.
    errors = np.mean(np.square(np.float64(estimates) - images), axis=(1, 2, 3)) + 1e-5
    psnr = np.mean(-10 * np.log10(errors))
    # Sums of 48 squares and 5 logarithms in float32.
    found = float(log_loss(estimates, images))
    assert found == pytest.approx(-0.02 * psnr * np.log(10) / 10, rel=1e-5)


def test_both_losses_pull_equally_at_the_usual_error():
    images = np.full((1, 2, 2, 3), 0.5, np.float32)
    estimates = images + np.float32(np.sqrt(0.02))
    one, other = (jax.grad(loss)(estimates, images) for loss in (squared_loss, log_loss))
    # The error that counts as none is 1e-5 / 0.02 of the usual one.
    np.testing.assert_allclose(one, other, rtol=1e-3)
