"""The benchmark counts operations rightly, compares with its own run, and ends bad flags in a line.

The command runs in processes of its own: its flags would meet those of other commands here.
"""

import functools
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarking import timing
from privynet_jax.platform.devices import default_execution
from privynet_jax.training import tasks
from privynet_jax.training.networks import attacker, cloud_nn
from privynet_jax.training.tasks import Schedule, cloud_task

PROJECT = Path(__file__).parents[2]
BATCH, SIZE, WIDTH, DEPTH, CLASSES = 2, 32, 4, 6, 5
# Representations of 16 x 16 pixels are folded by 2 to the working grid of 8 x 8.
SHAPE = (BATCH, 16, 16, DEPTH)
STEM = 8 * 8 * (2 * 2 * DEPTH) * WIDTH


def run(*arguments):
    command = [sys.executable, "-m", "experiments.benchmark", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)


def test_macs_of_the_cloud_nn_by_hand():
    block = 2 * 8 * 8 * 9 * WIDTH**2
    halving = 4 * 4 * (2 * 2 * WIDTH) * 2 * WIDTH
    narrow = 2 * 4 * 4 * 9 * (2 * WIDTH) ** 2
    by_hand = BATCH * (STEM + block + halving + narrow + 2 * WIDTH * CLASSES)
    network = cloud_nn(CLASSES, SIZE, WIDTH)
    assert sum(timing.forward_macs(network, SHAPE).values()) == by_hand
    # Backward: as much for kernels, and as much for inputs but those of the stem.
    assert timing.step_flops(network, SHAPE) == 2 * (3 * by_hand - BATCH * STEM)


def test_macs_of_the_attacker_by_hand():
    head = 8 * 8 * 9 * WIDTH * 4 * 4 * 3
    macs = timing.forward_macs(attacker(SIZE, WIDTH, num_blocks=1), SHAPE)
    assert sum(macs.values()) == BATCH * (STEM + 2 * 8 * 8 * 9 * WIDTH**2 + head)


def test_xla_counts_one_step_without_padding():
    """Of the 3 * 8 taps along an axis of 8 positions, 2 fall on padding; of 3 * 4, likewise 2."""
    network, shape = cloud_nn(CLASSES, SIZE, 64), (16, *SHAPE[1:])
    inside = {"ResidualBlock_0": (22 / 24) ** 2, "ResidualBlock_1": (10 / 12) ** 2}
    macs = {
        name: count * inside.get(name.split("/")[0], 1.0)
        for name, count in timing.forward_macs(network, shape).items()
    }
    by_hand = 2 * (3 * sum(macs.values()) - macs["WorkingGrid_0/stem"])
    task = cloud_task(network, Schedule(steps=1))
    x, y = jnp.ones(shape), jnp.zeros(16, int)
    state = jax.eval_shape(functools.partial(tasks.init_state, task), jax.random.key(0), x)
    counted = timing.counted_by_xla(functools.partial(tasks.train_step, task), state, (), x, y)
    # Element-wise operations and the optimiser's are a hundredth or two.
    assert by_hand < counted < 1.03 * by_hand


def test_a_share_is_of_the_rate_beside_it(monkeypatch):
    clock = timing.Clock(default_execution(2), size=64, repeats=3, seconds=0.01)
    monkeypatch.setattr(clock, "product_rate", lambda: 2.0)
    # A million operations in 10 ms are 0.1 GFLOP/s; sleeping may take a little longer.
    rows = clock.measure({"sleep": (1e6, lambda count: time.sleep(0.01 * count))})
    assert rows["sleep"]["gflops_best"] == pytest.approx(0.1, rel=0.2)
    assert rows["sleep"]["share"] == pytest.approx(rows["sleep"]["gflops"] / 2.0, rel=0.2)


def test_the_product_rate_counts_all_devices():
    clock = timing.Clock(default_execution(2), size=256, repeats=1, seconds=0.05)
    assert clock.product_rate() == clock.rates[-1] > 0.1  # a hundredth of any machine's


def measured(path, parts):
    done = run(
        *("--quick", "--layers=1", "--image_size=16", "--depth=4", "--width=8"),
        *(f"--parts={parts}", f"--json={path}"),
    )
    assert done.returncode == 0, done.stderr
    assert "float32 matrix product" in done.stdout
    assert parts.partition(",")[0] in done.stdout
    return json.loads(path.read_text())


def test_extraction_as_a_command(tmp_path):
    report = measured(tmp_path / "numbers.json", "extraction")
    assert [row["layers"] for row in report["extraction"]] == ["1", "all, as cached"]
    assert report["extraction"][0]["time_of_deepest"] == 1.0
    assert report["matrix_product"]["gflops"] > 0.1


@pytest.mark.slow
def test_training_cells_and_scaling_as_a_command(tmp_path):
    report = measured(tmp_path / "numbers.json", "training,cells,scaling")
    assert [row["network"] for row in report["training"]] == ["cloud NN", "attacker"]
    assert [row["devices"] for row in report["scaling"]] == [1, 1, 2, 2]
    assert [row["cells"] for row in report["scaling"]] == [1, 1, 2, 2]
    [cells] = report["cells"]
    # The first group compiles.
    assert 0 < cells["further_cell_seconds"] < cells["first_group_seconds"]


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--parts=speed", "allowed are, once each: extraction"),
        ("--layers=14", "integers 1 to 13"),
        ("--layers=two", "expected whole numbers"),
        ("--json=missing/numbers.json", "must be a file in a folder that exists"),
    ],
)
def test_bad_flags_end_in_one_line(flag, expected):
    done = run("--quick", flag)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert expected in done.stderr
