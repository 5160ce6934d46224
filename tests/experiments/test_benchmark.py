"""The benchmark counts operations rightly, compares with its own run, and ends bad flags in a line.

The command runs in processes of its own: its flags would meet those of other commands here.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import pytest
from support.commands import refused_apart

from experiments.benchmarking import device_parts, evaluation_parts, parts, timing
from experiments.benchmarking.inputs import Setup
from privynet_jax.platform.devices import execution_for

PROJECT = Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, "-m", "experiments.benchmark", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)


def test_xla_counts_a_matrix_product():
    x, y = jnp.ones((7, 5)), jnp.ones((5, 3))
    assert timing.counted_by_xla(jnp.matmul, x, y) == 2 * 7 * 5 * 3


def test_a_share_is_of_the_rate_beside_it(monkeypatch):
    clock = timing.Clock(execution_for(2, 8), size=64, repeats=3, seconds=0.01)
    monkeypatch.setattr(clock, "product_rate", lambda: 2.0)
    # A million operations in 10 ms are 0.1 GFLOP/s; sleeping may take a little longer.
    rows = clock.measure({"sleep": (1e6, lambda count: time.sleep(0.01 * count))})
    assert rows["sleep"]["gflops_best"] == pytest.approx(0.1, rel=0.2)
    assert rows["sleep"]["share"] == pytest.approx(rows["sleep"]["gflops"] / 2.0, rel=0.2)


def test_the_product_rate_counts_all_devices():
    clock = timing.Clock(execution_for(2, 8), size=256, repeats=1, seconds=0.05)
    assert clock.product_rate() == clock.rates[-1] > 0.1  # a hundredth of any machine's


def measured(path, part):
    done = run(
        *("--quick", "--layers=1", "--image_size=16", "--depth=4", "--width=8"),
        *(f"--parts={part}", f"--json={path}", f"--data_dir={path.parent}"),
    )
    assert done.returncode == 0, done.stderr
    assert "float32 matrix product" in done.stdout
    assert part in done.stdout
    return json.loads(path.read_text())


def test_extraction_as_a_command(tmp_path):
    report = measured(tmp_path / "numbers.json", "extraction")
    assert [row["layers"] for row in report["extraction"]] == ["1", "all, as cached"]
    assert report["extraction"][0]["time_of_deepest"] == 1.0
    assert report["matrix_product"]["gflops"] > 0.1


@pytest.mark.slow
def test_all_other_parts(small_strong):
    setup = Setup((1,), image_size=16, depth=4, width=8, images=100, steps=4)
    execution = execution_for(2, 8)
    clock = timing.Clock(execution, size=1024, repeats=2, seconds=0.05)

    def rows(part):
        return list(part(setup, clock, execution))

    assert [row["network"] for row in rows(parts.training)] == ["cloud NN", "strong"]
    [tuning] = rows(parts.tuning)
    assert tuning["candidates_per_cells"] > 0
    assert [row["network"] for row in rows(evaluation_parts.evaluation)] == ["cloud NN", "strong"]
    assert [row["kind"] for row in rows(parts.decoding)] == ["JPEG", "PNG"]
    [white_box] = rows(evaluation_parts.white_box)
    assert 0 < white_box["share"] < 2  # operations are counted, not guessed
    [device] = rows(device_parts.device)
    assert device["jax_per_onnxruntime"] > 0


@pytest.mark.slow
def test_beside_pytorch_as_a_command(tmp_path):
    pytest.importorskip("torch", reason="compares with PyTorch: pip install '.[torch]'")
    rows = measured(tmp_path / "numbers.json", "torch")["torch"]
    assert [row["what"] for row in rows] == ["extraction", "cloud NN", "strong"]
    assert all(row["of_torch"] > 0 for row in rows)


def test_bad_flags_end_in_one_line():
    refusals = {
        "--parts=speed": "allowed are extraction",
        "--layers=14": "integers 1 to 13",
        "--layers=two": "expected whole numbers",
        "--json=missing/numbers.json": "must be a file in a folder that exists",
    }
    refused_apart("benchmark", [(("--quick", flag), named) for flag, named in refusals.items()])
