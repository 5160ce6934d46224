"""The command: which cuts may be chosen, what comes of it in its files, and what it refuses."""

import csv
import functools
import io
import itertools

import numpy as np
import pytest
from PIL import Image
from support import handmade_results as handmade
from support.commands import everything_in, refused

from experiments import schedule
from privynet_jax.planning.options import options_of
from privynet_jax.planning.planner import MARGINS, least_limit
from privynet_jax.results.latencies import Latencies, Latency
from privynet_jax.results.work_directory import ResultStore

# Of 2 and 4 layers at depths 8 and 16, with made-up milliseconds.
LATENCIES = Latencies(
    "an abacus",
    "vgg16",
    32,
    tuple(Latency(m, d, m * 5.0 + d) for m, d in itertools.product((2, 4), (8, 16))),
)


@pytest.fixture
def workdir(tmp_path):
    """Finished, of handmade numbers: two layers lose 25 dB and more, four 19 dB and more."""
    store = ResultStore.open(tmp_path / "run", handmade.settings())
    for m, depth, draw in itertools.product((2, 4), (8, 16), (0, 1)):
        attacks = (handmade.attack("residual", 31 - 3 * m + depth / 8),)
        accuracy = 0.5 + depth / 100 - m / 50
        store.save(handmade.cell(m, depth, draw, accuracy, attacks), {"a": np.ones(1)})
    return store.workdir


@pytest.fixture
def command(run_command, workdir, tmp_path):
    """Runs the command with usual arguments and more; returns status, output and error."""
    LATENCIES.write(tmp_path / "latency.json")
    return functools.partial(
        run_command,
        schedule,
        f"--workdir={workdir}",
        f"--latency={tmp_path / 'latency.json'}",
        f"--out={tmp_path / 'out'}",
    )


def rows_of(tmp_path):
    with (tmp_path / "out" / "schedule.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_by_hand(command, tmp_path):
    """Nothing changes on this trace, so that all come to the same but for the first picture."""
    figures = "--pj_per_mac=0", "--pj_per_weight_byte=0", "--mw_per_mbit_s=100", "--base_mw=0"
    status, output, _ = command("--traces=steady", "--trace_seconds=9", *figures)
    assert not status
    rows = {row["policy"]: row for row in rows_of(tmp_path)}
    assert [*rows] == ["best fixed cut", "on line", "clairvoyant"]
    for row in rows.values():
        # Energy is of bytes alone: 8 x 8 pixels of 8 float32, after two poolings, at 100 mJ a Mbit.
        assert float(row["energy_mj"]) == pytest.approx(100 * 16 * 16 * 8 * 32 / 1e6)
        assert (row["trace"], row["generated"], row["cuts"]) == ("steady", "True", "4:8=1.000")
        assert float(row["in_time"]) == 1
        # Expected of validation images, balanced.
        assert float(row["accuracy"]) == pytest.approx(0.5 + 0.08 - 0.08 - 0.04)
    assert "Times are of an abacus." in output
    assert "Energy is modelled, not measured: 0 pJ per multiply-accumulate" in output
    assert "Generated traces: steady." in output
    assert "its own (dedicated characterisation)" in output
    picture = Image.open(io.BytesIO((tmp_path / "out" / "schedule.png").read_bytes()))
    assert picture.format == "PNG"


def test_limits_take_cuts_away(command, workdir):
    """The planner's margin counts: 4:8 is expected to lose 19.75 dB, and needs more than that."""
    store, config = ResultStore.existing(workdir)
    options = options_of(store.grid_results(config), 32, "mean")
    needs = {o.shape: least_limit(o, "psnr_db", MARGINS) for o in options}
    assert needs[4, 8] > 19.75 + 2

    def cuts_at(*given):
        status, output, _ = command("--traces=busy", *given)
        assert not status
        return [line.split()[0] for line in output.split("\n\n")[0].splitlines()[2:]]

    assert cuts_at() == ["2:8", "2:16", "4:8", "4:16"]
    assert cuts_at(f"--max_psnr_db={needs[4, 16] + 1e-6:.6f}") == ["4:8", "4:16"]
    assert cuts_at(f"--max_psnr_db={needs[4, 8] + 1e-6:.6f}") == ["4:8"]
    assert cuts_at("--least_accuracy=0.52") == ["2:16", "4:16"]


def test_a_file_and_a_slower_device(command, tmp_path):
    trace = tmp_path / "train.csv"
    trace.write_text("time_s,mbit_per_s\n0,6\n5,0\n10,6\n")
    status, output, _ = command(f"--traces={trace}", "--times_slower=3")
    assert not status
    assert "Times are of an abacus, taken 3 times." in output
    assert "Read from files: train.csv." in output
    assert "Generated" not in output
    rows = {row["policy"]: row for row in rows_of(tmp_path)}
    # Eleven pictures, of which the five that come within the tunnel cannot be answered.
    assert all(float(row["unmeetable"]) == pytest.approx(5 / 11) for row in rows.values())
    assert "skipped=0.455" in rows["clairvoyant"]["cuts"]


def test_the_seed_decides(command, tmp_path):
    tables = []
    for seed in (0, 0, 1):
        assert not command("--traces=commute", f"--trace_seed={seed}").status
        tables.append(rows_of(tmp_path))
    assert tables[0] == tables[1]
    assert tables[0] != tables[2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--traces=moon", "no trace is called moon; allowed are steady"),
        ("--traces=", "give traces of different names, at least one"),
        ("--traces=busy,busy", "give traces of different names"),
        ("--trace_seconds=0", "--trace_seconds is 0"),
        ("--mbit_per_s=-3", "--mbit_per_s is -3.0"),
        ("--deadline_ms=2000", "pictures would wait for one another"),
        ("--round_trip_ms=200", "nothing is left for the device"),
        ("--times_slower=0", "--times_slower is 0.0; allowed are positive numbers"),
        ("--pj_per_mac=-1", "--pj_per_mac is -1.0"),
        ("--base_mw=-1", "--base_mw is -1.0"),
        ("--quantile=0.6", "--quantile is 0.6"),
        ("--remembered=0", "--remembered is 0"),
        ("--max_psnr_db=1", "no characterised topology keeps --max_psnr_db=1"),
        ("--max_psnr_db=0", "the limit psnr_db is 0.0"),
        ("--least_accuracy=0.9", "--least_accuracy=0.9 is more than 0.58"),
        ("--latency=none.json", "does not exist"),
        ("--workdir=none", "none"),
        ("--out=", "no --out is given"),
    ],
)
def test_refusals(command, tmp_path, given, message):
    before = everything_in(tmp_path)
    refused(command(given), message)
    assert {path for path in everything_in(tmp_path) if path not in before} <= {
        tmp_path / "latency.json"
    }


def test_networks_that_the_device_did_not_measure(command, tmp_path):
    Latencies("an abacus", "vgg16", 32, LATENCIES.networks[:1]).write(tmp_path / "few.json")
    refused(command(f"--latency={tmp_path / 'few.json'}"), "--latency has nothing of 2 layers")
    assert not (tmp_path / "out").exists()
