"""Random limits, the plans made for them, and what audits of the plans find."""

import csv
import shutil

import pytest
from support import handmade_results as handmade

from experiments import check_planning
from experiments.check_planning import as_text, drawn_cases
from privynet_jax.backbone.topology import RANDOM
from privynet_jax.errors import UserError
from privynet_jax.planning.options import options_of


def grid_of(selections=("random", "direct")):
    """Accuracy and PSNR grow with depth and fall with layers; direct has 0.1 more accuracy."""
    return [
        handmade.cell(
            layers,
            depth,
            draw,
            0.3 + depth / 100 + 0.1 * (selection == "direct") + 0.001 * draw,
            (handmade.attack("residual", 30 - 3 * layers + depth / 4 + 0.1 * draw),),
            selection,
        )
        for layers in (2, 4, 7)
        for depth in (8, 16)
        for selection in selections
        for draw in range(3)
    ]


def test_cases_are_limits_that_can_be_planned_for_with_the_best_cells_that_keep_them():
    results = grid_of()
    direct = [result for result in results if result.selection == "direct"]
    cases = drawn_cases(options_of(direct, 32, "mean"), results, 12, margin_db=0.5, seed=3)
    assert len(cases) == 12
    assert {case.limits.local_mmacs is None for case in cases} == {True, False}
    for case in cases:
        assert case.option.expected.psnr_db.high + 0.5 <= case.limits.psnr_db
        macs = 1e6 * (case.limits.local_mmacs or 1e9)
        kept = [
            result
            for result in results
            if result.row()["psnr_db_mean"] <= case.limits.psnr_db
            and result.cost["local_macs"] <= macs
        ]
        assert case.best.accuracy == max(result.accuracy for result in kept)
        random = [result.accuracy for result in kept if result.selection == RANDOM]
        assert case.best_random.accuracy == max(random)
    again = drawn_cases(options_of(direct, 32, "mean"), results, 12, margin_db=0.5, seed=3)
    assert [case.limits for case in again] == [case.limits for case in cases]


def test_limits_that_no_cell_keeps_are_refused():
    attacks = (handmade.attack("residual", 60.0),)
    worse = [handmade.cell(layers, 8, attacks=attacks) for layers in (2, 4)]
    with pytest.raises(UserError, match="hardly any cell of the grid keeps on test images"):
        drawn_cases(options_of(grid_of(["direct"]), 32, "mean"), worse, 3, margin_db=0, seed=0)


def test_the_summary_counts_and_averages():
    row = {"expected_psnr_db": 18.0, "best_balanced_accuracy": 0.6}
    random = {"best_random_balanced_accuracy": 0.5}
    rows = [
        {**row, **random, "psnr_db": 19.0, "kept": True, "balanced_accuracy": 0.58},
        {
            **row,
            **dict.fromkeys(random, ""),
            "psnr_db": 21.0,
            "kept": False,
            "balanced_accuracy": 0.6,
        },
    ]
    text = as_text(rows)
    assert "1 of 2 plans kept their limit. Audited PSNR was +2.0 dB" in text
    assert "best feasible cell: -1.0; against the best one with random channels: +8.0." in text


def test_the_command_audits_plans_of_a_real_grid(tiny_run, tmp_path, run_command):
    workdir = shutil.copytree(tiny_run.workdir, tmp_path / "run")
    arguments = [
        f"--workdir={workdir}",
        f"--cache_dir={tiny_run.cache_dir}",
        f"--data_dir={tiny_run.data_dir}",
        "--num_limits=2",
        "--planned_margin_db=5",
        "--training=1",
    ]
    status, output, error = run_command(check_planning, *arguments)
    assert status == 0, error
    rows = list(csv.DictReader((workdir / "planning.csv").open()))
    assert len(rows) == 2
    assert all(10 < float(row["psnr_db"]) < 30 for row in rows)
    assert "of 2 plans kept their limit" in output
