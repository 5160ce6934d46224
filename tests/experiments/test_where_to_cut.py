"""The command: one number per cell of a finished run, and what is said of them."""

import csv
import shutil

import pytest

from experiments import where_to_cut
from experiments.where_to_cut import as_text


def row(layer, depth, share, accuracy, psnr):
    return {
        "num_layers": layer,
        "layer": f"conv{layer}",
        "depth": depth,
        "within_classes": share,
        "accuracy": accuracy,
        "psnr_db_mean": psnr,
    }


def test_layers_and_correlations_by_hand():
    rows = [
        row(2, 8, 0.95, 0.3, 30.0),
        row(2, 16, 0.91, 0.4, 34.0),
        row(4, 8, 0.85, 0.5, 20.0),
        row(4, 16, 0.80, 0.6, 24.0),
    ]
    lines = as_text(rows).splitlines()
    assert lines[2].split() == ["2", "conv2", "2", "93.0", "(91.0-95.0)", "35.0", "32.0"]
    # Ranks 4, 3, 2, 1 of the share: of accuracy the opposite, of PSNR 3, 4, 1, 2.
    assert lines[-2] == "  accuracy: -1.00 over all 4 cells, -1.00 at depth 8, -1.00 at depth 16"
    assert lines[-1] == "  PSNR: +0.60 over all 4 cells, +1.00 at depth 8, +1.00 at depth 16"
    assert "none over all 1 cells" in as_text(rows[:1])


@pytest.mark.slow
def test_every_cell_of_a_finished_run_has_its_number(tiny_run, run_command, tmp_path):
    workdir = shutil.copytree(tiny_run.workdir, tmp_path / "run")
    given = f"--cache_dir={tiny_run.cache_dir}", f"--data_dir={tiny_run.data_dir}"
    status, output, _ = run_command(where_to_cut, f"--workdir={workdir}", *given)
    assert not status
    with (workdir / "cuts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(tiny_run.cells())
    assert all(0 < float(one["within_classes"]) < 1.5 for one in rows)
    assert "Rank correlation" in output
