"""Budgets and halving, with a network whose training is known by hand."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from privynet_jax.attacks.base import Pairs
from privynet_jax.attacks.tuning import Budget, Candidate, Problem, tune
from privynet_jax.errors import UserError
from privynet_jax.training import mapping
from privynet_jax.training.models.linear_attack import LinearAttack
from privynet_jax.training.session import session
from privynet_jax.training.tasks import attacker_task

SIDE = 12  # SSIM has a window of 11
NO_ATTACK = LinearAttack(np.zeros((3, 3, 1, 3), np.float32), np.zeros(3, np.float32))


class Constant(nn.Module):
    """Answers one number everywhere: the best is the images' mean."""

    image_size: int = SIDE

    @nn.compact
    def __call__(self, x):
        value = self.param("value", nn.initializers.zeros, ())
        return jnp.full((len(x), SIDE, SIDE, 3), value)


def sgd(rate, weight_decay):
    return optax.sgd(rate)


def grey_pairs(count=40, value=51):
    images = np.full((count, SIDE, SIDE, 3), value, np.uint8)
    return Pairs(np.ones((count, SIDE, SIDE, 1), np.float32), images)


TASK = attacker_task(Constant(), name="constant", optimiser=sgd)


def candidates(*rates, task=TASK):
    return [Candidate(f"at {rate}", task, rate) for rate in rates]


def tuned(rates, budget, *pairs, task=TASK):
    """What is found for each of the pairs; for grey ones alone by default."""
    problems = [
        Problem(own, NO_ATTACK, jax.random.key(number))
        for number, own in enumerate(pairs or [grey_pairs()])
    ]
    return tune(candidates(*rates, task=task), problems, budget)


def test_the_better_rate_wins_and_gets_most_of_the_budget():
    [found] = tuned([1e-6, 0.5, 1e-5], Budget(steps=80, batch_size=4))
    assert found.candidate.learning_rate == 0.5
    # Ten steps for three candidates, three each; ten for two; then all of the 60 that are left.
    assert found.trained.steps == 3 + 5 + 60
    # From 0 to 51 / 255, where every step at a rate near 0.5 leaves less than half of the way.
    np.testing.assert_allclose(found.trained.params["params"]["value"], 0.2, atol=1e-3)
    assert found.report["held_out_psnr_db"] > 55


def test_topologies_are_tuned_as_alone_and_told_as_one_each():
    told, budget = [], Budget(steps=40, batch_size=4)
    pairs = [grey_pairs(), grey_pairs(value=153), grey_pairs(value=0)]
    with session(progress=told.append):
        together = tuned([1e-6, 0.2], budget, *pairs)
    assert sum(told) == pytest.approx(3)
    for found, own in zip(together, pairs, strict=True):
        [alone] = tuned([1e-6, 0.2], budget, own)
        # Every example is the same, so nothing random is left; sums of 1,728 values in float32.
        np.testing.assert_allclose(
            found.trained.params["params"]["value"],
            alone.trained.params["params"]["value"],
            rtol=1e-5,
            atol=1e-7,
        )
        assert found.report["learning_rate"] == alone.report["learning_rate"]


def test_six_candidates_compile_once_side_by_side_and_once_for_the_last(monkeypatch):
    compiled = []
    monkeypatch.setattr(mapping.MappedTask, "_refusal", lambda *_: compiled.append(1))
    task = dataclasses.replace(TASK, name="compiled once")
    rates = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    [found] = tuned(rates, Budget(steps=60, batch_size=4), task=task)
    assert found.candidate.task is task
    assert compiled == [1] * 2  # on a single device these are one program


@pytest.mark.parametrize("rate", [0.0, -1e-3, np.inf, np.nan])
def test_a_rate_that_trains_nothing_is_refused(rate):
    with pytest.raises(UserError, match=r"learning rate \S+; allowed are positive"):
        tuned([rate], Budget(steps=20, batch_size=4))


def test_diverging_candidates_lose_and_no_other_is_told():
    [found] = tuned([1e9, 0.1], Budget(steps=40, batch_size=4))
    assert found.candidate.learning_rate == 0.1
    broken = dataclasses.replace(TASK, loss=lambda estimates, _: jnp.nan * jnp.mean(estimates))
    [lost] = tuned([0.1, 0.2], Budget(steps=20, batch_size=4), task=broken)
    assert lost.trained.diverged


def test_convergence_is_the_fall_per_doubling():
    # Far too low a rate: the value creeps up in proportion to the steps, and so does the fall.
    [slow] = tuned([2e-3], Budget(steps=400, batch_size=4))
    assert slow.report["falling_percent_per_doubling"] > 5
    assert not slow.report["converged"]
    # There is nothing to learn from black images: the start is the answer.
    [done] = tuned([0.1], Budget(steps=40, batch_size=4), grey_pairs(value=0))
    assert done.report["falling_percent_per_doubling"] == 0
    assert done.report["converged"]


def test_held_out_pairs_are_never_learnt_from():
    pairs = grey_pairs()
    _, held = pairs.hold_out()
    pairs.images[held] = 255
    [found] = tuned([0.5], Budget(steps=80, batch_size=4), pairs)
    # White would have drawn the value up, and is what the best is judged by.
    np.testing.assert_allclose(found.trained.state.params["params"]["value"], 0.2, atol=1e-3)
    # 0.8 away from white, or 1.94 dB; the float32 mean of 432 squares is known to 1e-6.
    assert found.report["held_out_psnr_db"] == pytest.approx(-20 * np.log10(0.8), abs=0.02)


def test_a_budget_in_seconds_ends_in_time_and_leaves_out_compilation():
    [found] = tuned([0.1], Budget(seconds=0.5, batch_size=4))
    assert found.trained.steps > 20


def test_a_budget_must_be_positive():
    with pytest.raises(UserError, match="a budget of 0 steps"):
        Budget(steps=0)
    with pytest.raises(UserError, match="a budget of -1 seconds"):
        Budget(seconds=-1)


def test_what_are_no_pairs_is_refused():
    pairs = grey_pairs()
    with pytest.raises(UserError, match="0 representations and 40 images are no pairs"):
        Pairs(pairs.representations[:0], pairs.images).hold_out()
    with pytest.raises(UserError, match="1 representations and 1 images are no pairs"):
        grey_pairs(1).hold_out()
