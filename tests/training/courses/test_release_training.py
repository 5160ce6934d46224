"""What is held out of a release, how long a training lasts, and which moment is kept."""

import jax
import numpy as np
import pytest

from privynet_jax.errors import UserError
from privynet_jax.training.courses.release_training import ReleaseTraining
from privynet_jax.training.models.networks import network_for
from privynet_jax.training.tasks import Schedule, cloud_task
from privynet_jax.training.trainer import Course, train


def test_a_tenth_of_each_class_is_held_out():
    labels = np.repeat([0, 1, 2], [100, 40, 1])
    learnt, held_out = ReleaseTraining().dealt(labels, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate([learnt, held_out])), np.arange(141))
    assert np.bincount(labels[held_out], minlength=3).tolist() == [10, 4, 0]
    again, other = (ReleaseTraining().dealt(labels, seed)[1] for seed in (3, 4))
    np.testing.assert_array_equal(held_out, again)
    assert set(other) != set(held_out)


def test_a_course_is_looked_at_twenty_times():
    training = ReleaseTraining(Schedule(2000, 64), patience=4)
    assert training.course == Course(2000, 64, validations=20, patience=4)
    assert training.course.interval == 100
    assert training.longer(0.25).course == Course(500, 64, validations=20, patience=4)


def test_the_moment_that_is_kept_is_the_best_of_rows_held_out():
    stream = np.random.default_rng(0)
    x, labels = np.abs(stream.normal(size=(60, 4, 4, 3))).astype(np.float32), np.arange(60) % 3
    training = ReleaseTraining(Schedule(20, 8, 0.01), validation_fraction=0.25, patience=20)
    network = network_for(x.shape[1:], 3, 4)
    rows = training.dealt(labels, seed=0)
    member = training.member(jax.random.key(0), x, labels.astype(np.int32), *rows)
    [trained] = train(cloud_task(network), [member], training.course)
    best = max(trained.history, key=lambda now: (now.means["accuracy"], -now.means["loss"]))
    answers = np.asarray(network.apply(trained.params, x[rows[1]])).argmax(axis=1)
    assert (answers == labels[rows[1]]).mean() == pytest.approx(best.means["accuracy"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"schedule": Schedule(0, 8)}, "steps is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"schedule": Schedule(1, 8, None)}, "learning rate None"),
    ],
)
def test_numbers_out_of_range(wrong, message):
    with pytest.raises(UserError, match=message):
        ReleaseTraining(**wrong)
