"""Summaries over draws, of results made by hand, and the frontier of a trade-off."""

import dataclasses

import pytest
from support import handmade_results as handmade

from privynet_jax.results.statistics import Interval
from privynet_jax.results.summaries import (
    Point,
    Spread,
    best_accuracy,
    convergence_note,
    frontier,
    frontier_cells,
    over_draws,
    summary_table,
)


def results():
    """Two draws at (2 layers, 8 channels), and one each at two other shapes; in no order."""
    attack = handmade.attack
    return [
        handmade.cell(10, 4, 0, accuracy=0.875),
        handmade.cell(2, 8, 1, 0.75, (attack("linear", 12.0, 0.25), attack("residual", 20.0, 0.5))),
        handmade.cell(2, 16, 0),
        # Here the linear attacker is the stronger one.
        handmade.cell(
            2, 8, 0, 0.25, (attack("linear", 26.0, 0.75), attack("residual", 11.0, 0.25))
        ),
    ]


def test_means_and_ranges_by_hand():
    summary = over_draws(results())[0]
    # In the order given: the second of the list came first.
    assert [cell.draw for cell in summary.cells] == [1, 0]
    assert summary.accuracy == Spread(mean=0.5, least=0.25, greatest=0.75)
    # Each cell's strongest attacker: 20 and 26 dB, never the 12 and 11 of the weaker ones.
    assert summary.psnr_db == Spread(mean=23.0, least=20.0, greatest=26.0)
    assert summary.psnr_db_p95 == Spread(mean=28.0, least=25.0, greatest=31.0)
    assert summary.ssim == Spread(mean=0.625, least=0.5, greatest=0.75)


def test_layers_and_depths_ascend():
    shapes = [(s.cells[0].num_layers, s.cells[0].depth) for s in over_draws(results())]
    # As numbers: as text, 10 would come before 2, and 16 before 8.
    assert shapes == [(2, 8), (2, 16), (10, 4)]
    assert [len(s.cells) for s in over_draws(results())] == [2, 1, 1]
    assert over_draws([]) == []


def test_one_draw_has_no_range():
    single = over_draws(results())[2]
    assert single.accuracy == Spread(0.875, 0.875, 0.875)


def test_the_text_table():
    header, rule, *rows = summary_table(results()).splitlines()
    assert len(rule) == len(header)
    for part in ("layers", "accuracy %", "balanced %", "PSNR dB", "p95 dB", "SSIM", "attacker"):
        assert part in header
    *rows, note = rows
    assert note == "for comparison, always the commonest class: 12.5 % accuracy"
    first, second, third = (row.split() for row in rows)
    # 3.0 million multiply-accumulates and 8 KiB, as the cell made by hand says.
    assert first == [
        *("2", "conv1_2", "8", "random", "2", "50.0", "(25.0-75.0)", "45.0", "23.0", "(20.0-26.0)"),
        *("28.0", "0.62", "linear/residual", "3.0", "8.0"),
    ]
    assert second[:5] == ["2", "conv1_2", "16", "random", "1"]
    assert third == [
        *(
            "10",
            "conv4_3",
            "4",
            "random",
            "1",
            "87.5",
            "(87.5-87.5)",
            "82.5",
            "20.0",
            "(20.0-20.0)",
        ),
        *("25.0", "0.50", "residual", "15.0", "4.0"),
    ]


@pytest.mark.parametrize("num_layers", [1, 9, 13])
@pytest.mark.parametrize("depth", [1, 512])
def test_columns_stand_under_their_headings(num_layers, depth):
    result = handmade.cell(num_layers, 3, attacks=(handmade.attack("residual", 20.0),))
    result = dataclasses.replace(result, depth=depth)
    header, _, row, _ = summary_table([result]).splitlines()
    assert row.index("residual") == header.index("attacker")
    assert row.rindex("20.0 (") == header.index("PSNR dB")
    assert row.index("50.0 (") == header.index("accuracy %")
    assert len(row) == len(header)


def test_limits_are_shown_where_they_are_known():
    known = handmade.cell(attacks=(handmade.attack("strong", 20.0, gain=(3.0, 1.0, 4.0)),))
    header, _, row, *_ = summary_table([known]).splitlines()
    assert header.split("PSNR dB")[1].split()[:2] == ["limit", "dB"]
    assert row.split(")")[2].split()[0] == "23.0"
    assert "limit" not in summary_table([handmade.cell()])


def test_the_mean_of_equal_numbers_is_that_number():
    # 0.1 + 0.1 + 0.1 is rounded up, and a third of it is more than 0.1.
    summary = over_draws([handmade.cell(draw=draw, accuracy=0.1) for draw in range(3)])[0]
    assert summary.accuracy.least <= summary.accuracy.mean <= summary.accuracy.greatest


def test_references_follow_the_cells():
    accuracies = {"accuracy": "0.4955", "balanced_accuracy": "0.25"}
    references = [
        {"reference": "no_split", **accuracies, "psnr_db_mean": "", "ssim_mean": ""},
        {"reference": "mean_image", "accuracy": "", "psnr_db_mean": "13.26", "ssim_mean": "0.338"},
    ]
    lines = summary_table([handmade.cell()], references).splitlines()
    assert lines[-2:] == [
        "for comparison, no split: 49.5 % accuracy, 25.0 % balanced",
        "for comparison, mean image: 13.3 dB, SSIM 0.34",
    ]


def test_the_note_counts_cells_whose_strongest_attacker_still_improved():
    def trained(falling):
        attack = dataclasses.replace(
            handmade.attack("strong", 30.0),
            falling_percent_per_doubling=falling,
            converged=None if falling is None else falling <= 5,
            gain_db=Interval(falling / 8, 0.0, falling / 4) if falling == 8.0 else None,
        )
        return handmade.cell(attacks=(handmade.attack("linear", 12.0), attack))

    note = convergence_note([trained(3.0), trained(8.0), trained(20.4), trained(None)])
    assert note.startswith("In 2 of 4 cells ")
    assert "8 to 20 %" in note
    assert note.endswith("about 1.0 dB, with intervals up to 2.0 (psnr_db_limit).")
    assert "all 2 cells had converged" in convergence_note([trained(3.0), trained(0.0)])
    short = convergence_note([trained(100.0), trained(100.0)])
    assert "not converged (its training was too short to tell): privacy loss" in short
    assert "by 8 % per doubling" in convergence_note([trained(8.0), trained(100.0)])
    assert "or its training was too short" in convergence_note([trained(8.0), trained(100.0)])
    assert "not recorded" in convergence_note([trained(None)])
    linear = handmade.cell(attacks=(handmade.attack("linear", 12.0),))
    assert "all 2 cells are closed forms" in convergence_note([linear, linear])


# The third loses more than the second and is less accurate; the fourth repeats the first's loss.
POINTS = [Point(14, 0.3), Point(18, 0.6), Point(19, 0.5), Point(14, 0.2), Point(22, 0.7)]


def test_the_frontier_leaves_out_what_another_point_beats():
    assert frontier(POINTS) == [(14, 0.3), (18, 0.6), (22, 0.7)]
    assert frontier([]) == []


def test_the_cells_of_the_frontier_are_those_of_validation_images():
    cells = results()
    # Of the strongest attackers 20, 20, 20 and 26 dB; by test images the last would be the worst.
    best = dataclasses.replace(cells[3], validation_balanced_accuracy=0.9)
    assert frontier_cells([*cells[:3], best]) == [cells[0], best]


@pytest.mark.parametrize(
    ("psnr_db", "expected"), [(14, 0.3), (16, 0.45), (18, 0.6), (19, 0.625), (22, 0.7), (40, 0.7)]
)
def test_accuracy_at_a_privacy_loss(psnr_db, expected):
    assert best_accuracy(POINTS, psnr_db) == pytest.approx(expected)


def test_nothing_is_promised_below_the_least_loss():
    assert best_accuracy(POINTS, 13.9) is None
    assert best_accuracy([], 20) is None
