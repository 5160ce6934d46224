"""Estimates that are off by what depends on the place of a cell are put right by a few cells."""

import itertools

import numpy as np
import pytest

from experiments.comparing.calibration import Estimated, calibrated, spread_out


def grid():
    """Estimates of 40 cells, and true values that a line through their places explains."""
    rng = np.random.default_rng(0)
    places = list(itertools.product((2, 4, 7, 10), (8, 32), range(5)))
    truths = np.array([30 - 1.5 * m + 2 * np.log2(d) + rng.normal() for m, d, _ in places])
    lacking = np.array([4 - 0.3 * m + 0.2 * np.log2(d) for m, d, _ in places])
    cells = [Estimated(m, d, x) for (m, d, _), x in zip(places, truths - lacking, strict=True)]
    return cells, truths


def test_cells_to_calibrate_on_reach_over_the_grid():
    cells, _ = grid()
    chosen = spread_out(cells, 8)
    assert len(chosen) == 8
    assert {cells[i].num_layers for i in chosen} == {2, 4, 7, 10}
    assert {cells[i].depth for i in chosen} == {8, 32}
    assert spread_out(cells[:3], 8) == [0, 1, 2]


def test_what_estimates_lack_is_found_from_eight_cells():
    cells, truths = grid()
    chosen = spread_out(cells, 8)
    found = calibrated(cells, {i: truths[i] for i in chosen})
    others = [i for i in range(len(cells)) if i not in chosen]
    before = np.array([cell.value for cell in cells]) - truths
    assert abs(np.mean((found - truths)[others])) < 0.15 < abs(before.mean())
    # Slopes are held back, so some of what depends on the place is left.
    assert np.std((found - truths)[others]) < 0.6 * np.std(before)


def test_one_cell_gives_an_offset_and_none_nothing():
    cells, truths = grid()
    found = calibrated(cells, {3: truths[3]})
    np.testing.assert_allclose(found - [cell.value for cell in cells], truths[3] - cells[3].value)
    with pytest.raises(ValueError, match="at least one cell"):
        calibrated(cells, {})
