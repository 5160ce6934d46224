"""Members train as NumPy says, whatever runs beside them, and go on after an interruption."""

import dataclasses
import itertools
import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from support.small_training import (
    BATCH,
    RATE,
    examples,
    member,
    numpy_adamw,
    regression,
    seen_by,
)

from privynet_jax.errors import UserError
from privynet_jax.platform import signals
from privynet_jax.platform.devices import Spread, execution_for
from privynet_jax.training import trainer
from privynet_jax.training.batches import shuffled_rows
from privynet_jax.training.checkpoints import Checkpoint
from privynet_jax.training.convergence import relative_rate
from privynet_jax.training.mapping import DoesNotFitError, MappedTask, mapped_task
from privynet_jax.training.prediction import predicted
from privynet_jax.training.session import session
from privynet_jax.training.tasks import WEIGHT_DECAY
from privynet_jax.training.trainer import Course, train

COURSE = Course(steps=10, batch_size=BATCH, cycles=(0.3, 0.7))
# AdamW moves a parameter by its rate at most, per step. Gradients are sums of some ten products,
# known to some 1e-6 of their terms; one that is small beside its terms, and so Adam's direction,
# is known worse. A hundredth of all steps is far above that; one batch, rate or channel that is
# not the member's own moves parameters by whole steps.
CLOSE = 0.01 * COURSE.steps * RATE
SPREADS = {
    "one each": Spread(),
    "vmap": Spread(cells_per_device=2),
    "scan": Spread(steps_per_dispatch=4),  # 3 steps of the first cycle, 4 + 3 of the second
    "all": Spread(cells_per_device=2, steps_per_dispatch=4, device_memory_gib=0.1),
}


def by_numpy(index, course=COURSE, order=None):
    """A member's training, from its key's promises and NumPy alone: w, losses."""
    own, task = member(index), regression()
    initial, shuffling = jax.random.split(jax.random.fold_in(own.key, task.stream))
    x, y = np.float64(seen_by(index)).mean(axis=(1, 2)), np.float64(examples()[1])
    order = order or shuffled_rows(shuffling, own.rows, BATCH)
    rows = list(itertools.islice(order, course.steps))
    first = round(course.steps * course.cycles[0])
    shares = [
        (step - start) / (stop - start)
        for start, stop in ((0, first), (first, course.steps))
        for step in range(start, stop)
    ]
    # A warm-up over a tenth, from a hundredth of the rate; then half a cosine.
    rates = [
        max(share * 10, 0.01) if share < 0.1 else (1 + math.cos(math.pi * (share - 0.1) / 0.9)) / 2
        for share in shares
    ]
    w = np.float64(task.init(initial, seen_by(index)[:1])["params"]["w"])
    batches = [(x[mine], y[mine]) for mine in rows]
    return numpy_adamw(w, batches, own.learning_rate * np.array(rates), WEIGHT_DECAY)


def weights(trained):
    return trained.state.params["params"]["w"]


def assert_same_bits(one, other):
    for a, b in zip(map(everything, one), map(everything, other), strict=True):
        assert a.keys() == b.keys()
        for name, array in a.items():
            np.testing.assert_array_equal(array, b[name], err_msg=name)


def everything(trained):
    leaves = enumerate(jax.tree.leaves((trained.params, trained.state)))
    history = [(*moment[:1], *moment.means.values(), *moment[2:]) for moment in trained.history]
    told = {"losses": trained.losses, "history": history, "falling": trained.falling_percent}
    return {**told, **{str(index): leaf for index, leaf in leaves}}


@pytest.mark.parametrize("spread", SPREADS)
def test_members_are_trained_as_by_numpy(spread):
    with session(spread=SPREADS[spread]):
        together = train(regression(), [member(index) for index in range(3)], COURSE)
    for index, trained in enumerate(together):
        expected, losses = by_numpy(index)
        np.testing.assert_allclose(weights(trained), expected, atol=CLOSE)
        # A loss of about 1 moves by no more than its parameters, times a slope of about 1.
        np.testing.assert_allclose(trained.losses, losses, atol=CLOSE)
        assert [moment.step for moment in trained.history] == [0, 3, 10]
        assert [moment.ends_cycle for moment in trained.history] == [False, True, True]


def test_rows_come_in_order_where_they_are_made_as_they_are_read():
    rows = np.array([5, 3, 3, 8, 0, 1])
    [trained] = train(regression(), [member(0, rows=rows, in_order=True)], COURSE)
    # Again and again, in the middle of a batch too.
    batches = itertools.cycle([rows[[0, 1, 2, 3]], rows[[4, 5, 0, 1]], rows[[2, 3, 4, 5]]])
    expected, losses = by_numpy(0, order=batches)
    np.testing.assert_allclose(weights(trained), expected, atol=CLOSE)
    np.testing.assert_allclose(trained.losses, losses, atol=CLOSE)


def test_a_single_member_spreads_its_examples():
    for index in (0, 1):
        [alone] = train(regression(), [member(index)], COURSE)
        np.testing.assert_allclose(weights(alone), by_numpy(index)[0], atol=CLOSE)


def test_one_per_device_until_there_are_fewer_than_devices():
    three = [member(index) for index in range(3)]
    with session(spread=SPREADS["vmap"]):
        together = train(regression(), three, COURSE, one_per_device=True)
        [last] = train(regression(), three[:1], COURSE, one_per_device=True)
    assert_same_bits(together, train(regression(), three, COURSE))
    assert_same_bits([last], train(regression(), three[:1], COURSE))


_ELSEWHERE = """
import sys, jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
import numpy as np
from support.small_training import member, regression
from privynet_jax.training.trainer import Course, train
course = Course(steps=10, batch_size=4, cycles=(0.3, 0.7))
found = train(regression(), [member(index) for index in range(3)], course)
found += train(regression(), [member(0)], course)
np.save(sys.argv[2], [one.state.params["params"]["w"] for one in found])
"""


@pytest.mark.parametrize("devices", [1, 4])
def test_the_number_of_devices_does_not_matter(tmp_path, devices):
    command = [sys.executable, "-c", _ELSEWHERE, str(devices), str(tmp_path / "found.npy")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(command, check=True, timeout=120, env=environment)
    found = np.load(tmp_path / "found.npy")
    for weight, index in zip(found, (0, 1, 2, 0), strict=True):
        np.testing.assert_allclose(weight, by_numpy(index)[0], atol=CLOSE)


def test_rate_and_length_are_arguments():
    task = regression(stream=11)
    before = mapped_task.cache_info().misses
    for rate, steps in ((1e-3, 4), (0.1, 4), (0.1, 9)):
        members = [member(index, learning_rate=rate) for index in range(2)]
        train(task, members, Course(steps, BATCH))
    assert mapped_task.cache_info().misses == before + 1
    execution = execution_for(2, BATCH)
    assert len(mapped_task(task, execution)._compiled) == 1


def test_rates_warm_up_and_go_down_to_zero():
    rates = np.array([relative_rate(share) for share in np.linspace(0, 1.5, 31)])
    assert rates[0] == 0.01  # the first step of a short cycle may be its only one
    assert rates.argmax() == 2
    assert (np.diff(rates[2:21]) < 0).all()
    assert not rates[20:].any()


def test_every_cycle_has_a_step():
    cycles = (0.5, 0.01, 0.5)
    [trained] = train(regression(), [member(0)], Course(10, BATCH, cycles))
    ends = [moment.step for moment in trained.history if moment.ends_cycle]
    assert ends == [5, 6, 10]


def test_validations_come_at_intervals_and_at_ends_of_cycles():
    course = dataclasses.replace(COURSE, validations=4)  # every 3 of 10 steps
    [trained] = train(regression(), [member(0)], course)
    assert [moment.step for moment in trained.history] == [0, 3, 6, 9, 10]
    for earlier, moment in itertools.pairwise(trained.history):
        losses = trained.losses[earlier.step : moment.step]
        assert moment.training_loss == pytest.approx(losses.mean(dtype=np.float64))
    _, y = examples()
    held = slice(-4, None)
    last = np.square(seen_by(0).mean(axis=(1, 2)) @ weights(trained) - y)[held].mean()
    # Means of 4 and products of 4 numbers in float32.
    assert trained.history[-1].means["error"] == pytest.approx(last, rel=1e-5)


def test_what_is_not_judged_is_trained_all_the_same():
    judged = train(regression(), [member(0), member(1)], COURSE)
    bare = [member(0), member(1, held_out=np.zeros(0, int))]
    kept, unjudged = train(regression(), bare, COURSE)
    assert_same_bits([kept], judged[:1])
    assert unjudged.history == ()
    np.testing.assert_array_equal(weights(unjudged), weights(judged[1]))
    np.testing.assert_array_equal(unjudged.params["params"]["w"], weights(unjudged))
    with pytest.raises(ValueError, match="at least one row"):
        member(0, rows=np.zeros(0, int))
    with pytest.raises(UserError, match="learning rate None; allowed are positive numbers"):
        member(0, learning_rate=None)


def test_a_training_goes_on_where_it_ended():
    members = [member(0), member(1)]
    begun = train(regression(), members, Course(4, BATCH))
    again = [member(0, begun=begun[0]), member(1, begun=begun[1])]
    longer = train(regression(), again, Course(6, BATCH))
    for index, trained in enumerate(longer):
        shuffling = jax.random.split(jax.random.fold_in(members[index].key, 0))[1]
        rows = list(itertools.islice(shuffled_rows(shuffling, members[index].rows, BATCH), 5))
        # The fifth batch is the first that the second training sees.
        error = seen_by(index)[rows[4]].mean(axis=(1, 2)) @ weights(begun[index])
        loss = np.square(error - examples()[1][rows[4]]).mean()
        assert trained.losses[4] == pytest.approx(loss, rel=1e-5)
        np.testing.assert_array_equal(trained.losses[:4], begun[index].losses)
        assert [moment.step for moment in trained.history] == [0, 4, 10]
        assert trained.epochs == 10 * BATCH / len(members[index].rows)
    # One that goes on beside one that begins, neither judged.
    no_rows = {"held_out": np.zeros(0, int)}
    [old, _] = train(regression(), [member(i, **no_rows) for i in (0, 1)], Course(4, BATCH))
    pair = [member(0, begun=old, **no_rows), member(1, **no_rows)]
    on, new = train(regression(), pair, Course(4, BATCH))
    assert (on.steps, new.steps) == (8, 4)
    np.testing.assert_array_equal(on.params["params"]["w"], weights(on))


def test_the_best_params_are_kept_and_patience_ends():
    # What is held out is told the opposite of what is learnt: any step makes it worse.
    _, y = examples()
    lying = y.copy()
    lying[-4:] = seen_by(0)[-4:].mean(axis=(1, 2)) @ first_weights(0)
    course = dataclasses.replace(COURSE, validations=10, patience=3)
    liar = member(0, targets=lying)
    both = train(regression(), [liar, member(1)], course)
    [alone] = train(regression(), [liar, liar], course)[:1]
    # It ends by itself, however long the other one goes on.
    assert_same_bits(both[:1], [alone])
    assert alone.steps == 3
    np.testing.assert_array_equal(alone.params["params"]["w"], first_weights(0))
    # What was kept is a copy, whatever the devices write where it lay.
    [spread] = train(regression(), [liar], course)
    np.testing.assert_array_equal(spread.params["params"]["w"], first_weights(0))
    assert both[1].steps == 10
    assert both[1].history[-1].means["error"] < both[1].history[0].means["error"]


def first_weights(index):
    key = jax.random.split(jax.random.fold_in(member(index).key, 0))[0]
    return np.asarray(regression().init(key, seen_by(index)[:1])["params"]["w"])


def test_one_that_diverges_stops_no_other():
    usual = train(regression(), [member(0), member(1)], COURSE)
    found = train(regression(), [member(0, learning_rate=1e38), member(1)], COURSE)
    assert found[0].diverged
    assert not np.isfinite(weights(found[0])).all()
    assert np.isfinite(found[0].params["params"]["w"]).all()  # the best, before
    assert not found[0].converged
    assert_same_bits(found[1:], usual[1:])


def test_seconds_end_a_training_and_all_of_it_is_told():
    told = []
    with session(progress=told.append):
        found = train(regression(), [member(0), member(1)], Course(5, BATCH, seconds=0.2))
    assert all(trained.steps > 5 for trained in found)
    assert sum(told) == pytest.approx(2)
    assert min(told) >= 0


def test_a_training_that_ends_early_is_told_without_a_leap():
    told = []
    course = Course(200, BATCH, validations=20, patience=4)
    with session(progress=told.append):
        [found] = train(regression(), [member(0, learning_rate=1e-30)], course)
    assert found.steps == 40  # no validation brings anything better than the first, before them
    assert sum(told) == pytest.approx(1)
    # The nearest to the end are the fastest: 39 steps of 40 + 160 / 40 that are expected then.
    assert 0 <= min(told) <= max(told) == pytest.approx(1 - 39 / 44)


def noisy(key, _, x, y):
    return x, y + jax.random.normal(key, y.shape)


def test_what_is_drawn_depends_on_the_member_and_its_step_alone():
    task = regression(draw=noisy, name="drawn")
    members = [member(0), member(0, key=jax.random.key(9))]
    steps = []
    for spread in (SPREADS["one each"], SPREADS["all"]):
        with session(spread=spread):
            steps.append(train(task, members, COURSE))
    for one, other in zip(*steps, strict=True):
        np.testing.assert_allclose(weights(one), weights(other), atol=CLOSE)
    # Targets that are off by 1 add about 1 to the squared error, another amount in every step.
    quiet = train(regression(), members, COURSE)
    added = steps[0][0].losses - quiet[0].losses
    assert added.mean() > 0.3
    assert added.std() > 0.1
    assert abs(added - (steps[0][1].losses - quiet[1].losses)).min() > 1e-4
    # And on the task's stream, so that two tasks of one key draw for themselves.
    other = train(dataclasses.replace(task, stream=1), members, COURSE)
    assert abs(other[0].losses - steps[0][0].losses).min() > 1e-4


def asked(number):
    """Says yes to the question of this number, and to all after it."""
    questions = itertools.count()
    return lambda: next(questions) >= number


@pytest.mark.parametrize("count", [1, 3])
def test_every_interruption_goes_on_to_the_same_bits(tmp_path, count):
    members = [member(index) for index in range(count)]
    course = dataclasses.replace(COURSE, steps=5, cycles=(0.4, 0.6))
    expected = train(regression(), members, course)
    for number in itertools.count():
        folder, told = tmp_path / str(number), []
        try:
            with session(checkpoint=Checkpoint(folder, 1e9), stop_requested=asked(number)):
                train(regression(), members, course)
            break
        except signals.Terminated:
            pass
        with session(checkpoint=Checkpoint(folder, 1e9), progress=told.append):
            assert_same_bits(train(regression(), members, course), expected)
        assert sum(told) == pytest.approx(count)  # what was restored counts as well
    # One question per step of a group, and one per network that is judged, three times each.
    groups = -(-count // 2)
    assert number == 5 * groups + 3 * count


def test_nothing_is_lost_while_a_finished_network_is_looked_at(tmp_path, monkeypatch):
    tasks, pair = (regression(), regression(name="other", stream=3)), [member(0), member(1)]

    def work(**fields):
        with session(checkpoint=Checkpoint(tmp_path / "kept", 1e9), **fields):
            found = [train(task, pair, COURSE) for task in tasks]
            predicted(tasks[1], found[1][0].params, (), seen_by(0))
            return found

    expected = work()
    questions = 2 * (COURSE.steps + 2 * 3)
    with pytest.raises(signals.Terminated):
        work(stop_requested=asked(questions - 5))  # in the second task
    with pytest.raises(signals.Terminated):  # again, while its network is looked at
        work(stop_requested=asked(4))
    monkeypatch.setattr(MappedTask, "compiled_steps", None)  # so nothing is trained again
    for one, other in zip(work(), expected, strict=True):
        assert_same_bits(one, other)


def test_a_checkpoint_of_other_members_is_not_taken(tmp_path):
    expected = train(regression(), [member(1), member(0)], COURSE)
    with session(checkpoint=Checkpoint(tmp_path / "kept", 1e9)) as opened:
        train(regression(), [member(0), member(1)], COURSE)
        opened.checkpoint.save(wait=True)
    with session(checkpoint=Checkpoint(tmp_path / "kept", 1e9)):
        assert_same_bits(train(regression(), [member(1), member(0)], COURSE), expected)


def test_checkpoints_come_at_the_interval(tmp_path, monkeypatch):
    kept, saved = Checkpoint(tmp_path / "kept", 0), []
    monkeypatch.setattr(kept, "save", lambda wait: saved.append(wait))
    with session(checkpoint=kept):
        train(regression(), [member(0)], COURSE)
    assert saved == [False] * (COURSE.steps + 3)  # steps and validations
    monkeypatch.undo()
    kept._every = 1e9
    with session(checkpoint=kept):
        train(regression(), [member(0)], COURSE)
    assert not (tmp_path / "kept").exists()


def test_memory_takes_steps_per_dispatch_before_cells_per_device(monkeypatch):
    tried = []

    def refusal(mapped, *_):
        own = mapped._execution
        tried.append((own.cells_per_device, own.steps_per_dispatch))
        return DoesNotFitError("too large") if own.cells_per_device > 1 else None

    monkeypatch.setattr(MappedTask, "_refusal", refusal)
    task, spread = regression(name="large"), Spread(4, 4, device_memory_gib=0.1)
    members = [member(index % 3) for index in range(5)]
    for _ in range(2):  # the second time, nothing is compiled any more
        with session(spread=spread):
            train(task, members, COURSE)
    assert tried == [(4, 4), (4, 2), (4, 1), (2, 1), (1, 1)]


def test_what_fits_nowhere_is_refused_in_one_line(monkeypatch):
    execution = dataclasses.replace(execution_for(1, BATCH), step_bytes=1, resident_bytes=10**9)
    monkeypatch.setattr(trainer, "execution_for", lambda *_: execution)
    # What lies there for good is not counted with a step: ten times as many rows need as much.
    needed = []
    for repeats in (1, 10):
        x, y = (np.repeat(array, repeats, axis=0) for array in examples())
        with pytest.raises(UserError) as raised:
            train(regression(), [member(0, inputs=x, targets=y)], COURSE)
        needed.append(str(raised.value))
    assert needed[0] == needed[1]
    assert "\n" not in needed[0]
    assert "MiB of a device's memory, and 0.0 MiB are for it; give smaller batches" in needed[0]
