"""Budgets, halving and convergence, with a network whose training is known by hand."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from privynet_jax.attacks.fitting import (
    Run,
    _cycle,
    _shuffled,
    _steps_at_once,
    predicted,
    steps_of,
)
from privynet_jax.attacks.rated import init_state

from privynet_jax.attacks import fitting
from privynet_jax.attacks.base import Pairs
from privynet_jax.attacks.inverse import _task
from privynet_jax.attacks.tuning import Budget, Candidate, Tuned, hold_out, tune
from privynet_jax.errors import UserError
from privynet_jax.training.attackers import CAPACITIES
from privynet_jax.training.linear_attack import LinearAttack
from privynet_jax.training.networks import attacker
from privynet_jax.training.tasks import Schedule, attacker_task, muon

NO_ATTACK = LinearAttack(np.zeros((3, 3, 1, 3), np.float32), np.zeros(3, np.float32))


class Constant(nn.Module):
    """Answers one number everywhere: the best is the images' mean."""

    image_size: int = 4

    @nn.compact
    def __call__(self, x):
        value = self.param("value", nn.initializers.zeros, ())
        return jnp.full((len(x), 4, 4, 3), value)


def sgd(rate, weight_decay):
    return optax.sgd(rate)


def grey_pairs(count=40, value=51):
    images = np.full((count, 4, 4, 3), value, np.uint8)
    return Pairs(np.ones((count, 4, 4, 1), np.float32), images)


TASK = attacker_task(Constant(), Schedule(steps=1), optimiser=sgd)


def tuned(rates, budget, pairs=None, task=TASK):
    fitted_on, held_out = hold_out(pairs or grey_pairs(), jax.random.key(0))
    candidates = [Candidate(f"at {rate}", task, rate) for rate in rates]
    return tune(candidates, fitted_on, held_out, NO_ATTACK, jax.random.key(1), budget)


def test_the_better_rate_wins_and_gets_most_of_the_budget():
    found = tuned([1e-6, 0.5, 1e-5], Budget(steps=80, batch_size=4))
    assert found.candidate.learning_rate == 0.5
    # Ten steps for three candidates, three each; ten for two; then all of the 61 that are left.
    assert found.steps == 3 + 5 + 61
    np.testing.assert_allclose(found.params["params"]["value"], 0.2, atol=1e-3)
    assert found.held_out_psnr_db > 55


@pytest.mark.parametrize("rate", [0.0, -1e-3, np.inf, np.nan])
def test_a_rate_that_trains_nothing_is_refused(rate):
    with pytest.raises(UserError, match=r"learning rate \S+ of the network any; allowed are"):
        Candidate("any", TASK, rate)


def test_a_diverging_candidate_loses():
    assert tuned([1e9, 0.1], Budget(steps=40, batch_size=4)).candidate.learning_rate == 0.1


def test_nothing_but_diverging_candidates_is_refused():
    task = dataclasses.replace(TASK, loss=lambda estimates, _: jnp.nan * jnp.mean(estimates))
    with pytest.raises(UserError, match=r"diverged at every learning rate.*give lower ones"):
        tuned([0.1, 0.2], Budget(steps=20, batch_size=4), task=task)


def test_convergence_is_the_fall_per_doubling():
    # Far too low a rate: the value creeps up in proportion to the steps, and so does the fall.
    slow = tuned([2e-3], Budget(steps=400, batch_size=4))
    assert slow.falling_percent_per_doubling > 5
    assert not slow.report["converged"]
    # There is nothing to learn from black images: the start is the answer.
    done = tuned([0.1], Budget(steps=40, batch_size=4), grey_pairs(value=0))
    assert done.falling_percent_per_doubling == 0
    assert done.report["converged"]


def test_what_has_hardly_begun_has_not_converged():
    begun = Tuned({}, Candidate("any", TASK, 0.1), 10, 0.5, 14.0, falling_percent_per_doubling=0.1)
    assert not begun.converged
    assert dataclasses.replace(begun, epochs=1.0).converged


def test_a_budget_in_seconds_ends_in_time_and_leaves_out_compilation():
    found = tuned([0.1], Budget(seconds=0.5, batch_size=4))
    assert found.steps > 20


def test_the_best_cycle_is_kept():
    pairs = grey_pairs(8)
    run = Run(TASK, 0.5, pairs, pairs, NO_ATTACK, jax.random.key(0), 4)
    run.train(40, in_steps=True)
    kept, error = run.best, run.best_error
    run._pairs = grey_pairs(8, value=255)  # from now on it learns what does not help
    run.train(40, in_steps=True)
    assert run.errors[-1][1] > error
    assert run.best is kept
    assert run.steps == 80


def test_pairs_as_they_are_stored_train_as_in_float32():
    stored = np.float16(np.random.default_rng(0).exponential(size=(12, 4, 4, 5)))
    images = np.random.default_rng(1).integers(0, 256, (12, 16, 16, 3), np.uint8)
    attack = LinearAttack(np.zeros((3, 3, 5, 48), np.float32), np.zeros(48, np.float32))
    task = attacker_task(attacker(16, width=8, num_blocks=0), Schedule(steps=1))
    found = []
    for representations in (stored, np.float32(stored)):
        pairs = Pairs(representations, images)
        run = Run(task, 1e-2, pairs, pairs.chosen(slice(3)), attack, jax.random.key(0), 4)
        run.train(4, in_steps=True)
        found.append(run.best)
    assert found[0] is not found[1]
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_large_images_come_in_smaller_dispatches():
    small, large = (
        grey_pairs(4),
        Pairs(np.ones((4, 224, 224, 64), np.float16), grey_pairs(4).images),
    )
    assert _steps_at_once(small, 32) == 10
    # 6.4 MB each: 20 of them are 128 MiB.
    assert [_steps_at_once(large, size) for size in (2, 4, 20, 32)] == [10, 5, 1, 1]


def test_dispatches_and_batches_of_any_size_give_the_same(monkeypatch):
    found = []
    monkeypatch.setattr(fitting, "on_cpu", lambda: False)
    for limit in (2**27, 1000):  # all 10 steps, then 2 of them, as each takes 448 bytes
        monkeypatch.setattr(fitting, "_BYTES_AT_ONCE", limit)
        run = Run(TASK, 0.1, grey_pairs(), grey_pairs(5), NO_ATTACK, jax.random.key(0), 4)
        run.train(12, in_steps=True)
        value = run.best["params"]["value"]
        found.append((run._chunk, value, predicted(TASK, run.best, NO_ATTACK, grey_pairs(9)[0])))
    assert [chunk for chunk, *_ in found] == [10, 2]
    assert found[0][1] > 0.1
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-6)
    assert found[0][2].shape == (9, 4, 4, 3)
    np.testing.assert_allclose(found[0][2], found[1][2], rtol=1e-6)


def test_a_cycle_warms_up_and_ends_at_zero():
    shares = np.linspace(0, 1.5, 31)
    rates = np.array([_cycle(share) for share in shares])
    assert rates.argmax() == 2
    assert rates[0] > 0
    assert (np.diff(rates[2:21]) < 0).all()
    assert not rates[20:].any()


def test_every_epoch_shows_each_pair_once():
    rows = _shuffled(np.random.default_rng(0), 10, 4)
    seen = np.concatenate([next(rows) for _ in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))


def test_held_out_pairs_are_a_tenth_of_their_own():
    pairs = Pairs(np.arange(40, dtype=np.float32).reshape(40, 1, 1, 1), grey_pairs().images)
    fitted_on, held_out = hold_out(pairs, jax.random.key(0))
    together = [x.item() for kept in (fitted_on, held_out) for x in kept.representations]
    assert sorted(together) == list(range(40))
    assert len(held_out.images) == 4
    # Those to learn from are no copy.
    pairs.representations[:] = -1
    assert (fitted_on.representations[:] == -1).all()
    with pytest.raises(UserError, match="0 representations and 40 images are no pairs"):
        hold_out(Pairs(pairs.representations[:0], pairs.images), jax.random.key(0))


def test_a_budget_must_be_positive():
    with pytest.raises(UserError, match="a budget of 0 steps"):
        Budget(steps=0)
    with pytest.raises(UserError, match="a budget of -1 seconds"):
        Budget(seconds=-1)


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("side", [4, 16])
def test_steps_lower_for_every_backend(capacity, steps, side):
    task = _task(CAPACITIES[capacity], 16)
    attack = LinearAttack(
        np.zeros((3, 3, 5, (16 // side) ** 2 * 3), np.float32),
        np.zeros((16 // side) ** 2 * 3, np.float32),
    )
    state = jax.eval_shape(
        lambda key: init_state(task, key, jnp.zeros((1, side, side, 5))), jax.random.key(0)
    )
    arguments = (
        state,
        attack,
        jax.ShapeDtypeStruct((8, steps, side, side, 5), np.float32),
        jax.ShapeDtypeStruct((8, steps, 16, 16, 3), np.uint8),
        jax.ShapeDtypeStruct((steps,), np.float32),
    )
    platforms = ("cpu", "cuda", "tpu")
    assert jax.export.export(jax.jit(steps_of(task)), platforms=platforms)(*arguments).mlir_module()


def test_several_steps_of_one_dispatch_are_several_dispatches():
    attack = LinearAttack(np.zeros((3, 3, 5, 48), np.float32), np.zeros(48, np.float32))
    task = attacker_task(attacker(16, width=8, num_blocks=1), Schedule(steps=1), optimiser=muon)
    stream = np.random.default_rng(0)
    x = np.float32(stream.exponential(size=(4, 3, 4, 4, 5)))
    images = stream.integers(0, 256, (4, 3, 16, 16, 3), np.uint8)
    rates = np.float32([1e-3, 2e-3, 0])
    steps, start = jax.jit(steps_of(task)), init_state(task, jax.random.key(0), x[:, 0])
    together, _ = steps(start, attack, x, images, rates)
    alone = start
    for index in (0, 1):  # the third only fills up
        chosen = slice(index, index + 1)
        alone, _ = steps(alone, attack, x[:, chosen], images[:, chosen], rates[chosen])
    for a, b in zip(jax.tree.leaves(together.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)
