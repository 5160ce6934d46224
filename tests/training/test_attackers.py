"""Trained attackers by name: what each cell's tasks are, and that they differ where they should."""

import jax
import numpy as np
import pytest

from privynet_jax.characterisation.config import Config
from privynet_jax.errors import UserError
from privynet_jax.training import tasks as training
from privynet_jax.training.attackers import CAPACITIES, attacker_tasks, check_attackers
from privynet_jax.training.linear_attack import LinearAttack
from privynet_jax.training.networks import attacker
from privynet_jax.training.tasks import Schedule

SIZE, DEPTH = 16, 3
SCHEDULE = Schedule(steps=4, batch_size=2, learning_rate=2e-3)


def tasks():
    return attacker_tasks(tuple(CAPACITIES), attacker(SIZE, 8, 1), SCHEDULE)


def test_every_task_has_its_name_its_stream_and_the_common_schedule():
    assert [task.name for task in tasks()] == list(CAPACITIES)
    # 0 is the cloud NN's, 2 the linear attack's.
    streams = {task.stream for task in tasks()}
    assert len(streams) == len(CAPACITIES)
    assert not streams & {0, 2}
    assert all(task.schedule is SCHEDULE for task in tasks())


@pytest.mark.parametrize("name", CAPACITIES)
def test_every_attacker_begins_as_the_linear_one(name):
    (task,) = attacker_tasks((name,), attacker(SIZE, 8, 1), SCHEDULE)
    rng = np.random.default_rng(0)
    x = rng.exponential(size=(2, SIZE // 2, SIZE // 2, DEPTH)).astype(np.float32)
    attack = LinearAttack(
        rng.normal(0, 0.05, (3, 3, DEPTH, 12)).astype(np.float32), np.full(12, 0.5, np.float32)
    )
    params = task.init(jax.random.key(0), x)
    found = training.predict(task, params, attack, x)
    expected = training.predict(training.linear_task(), {}, attack, x)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_residual_attacker_is_the_given_network_and_others_have_its_dtype():
    own = attacker(SIZE, width=8, num_blocks=2, dtype="bfloat16")
    seen = []
    attacker_tasks(
        tuple(CAPACITIES), own, SCHEDULE, lambda network: seen.append(network) or network
    )
    assert [network is own for network in seen] == [name == "residual" for name in CAPACITIES]
    assert {str(np.dtype(network.dtype)) for network in seen} == {"bfloat16"}
    assert {network.image_size for network in seen} == {SIZE}


@pytest.mark.parametrize("names", [(), ("weak",), ("strong", "strong")])
def test_names_are_checked(names):
    with pytest.raises(UserError, match="allowed are paper, residual, strong, each once"):
        check_attackers(names)


@pytest.mark.parametrize(
    ("mode", "usual"), [("dedicated", ("strong",)), ("amortised", ("residual",)), ("linear", ())]
)
def test_each_mode_has_its_usual_attackers(tmp_path, mode, usual):
    assert Config(tmp_path, mode=mode).trained_attackers == usual


def test_named_attackers_are_found_in_the_settings(tmp_path):
    named = {
        **{"layers": [2], "depths": [3], "selections": ["random"]},
        **{"cloud": {"steps": 3}, "attacker": {"steps": 3}, "attackers": ["paper", "strong"]},
    }
    assert Config.of_settings(named, tmp_path).trained_attackers == ("paper", "strong")
    del named["attackers"]
    with pytest.raises(UserError, match="damaged or of another version; characterise again"):
        Config.of_settings(named, tmp_path)
