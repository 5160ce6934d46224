"""What is expected of every (layers, depth), against sums worked by hand and against SciPy."""

import math

import numpy as np
import pytest
from scipy import stats
from support import handmade_results as handmade

from privynet_jax.errors import UserError
from privynet_jax.planning.options import ASSUMED_SPREAD, options_of, spread_is_assumed
from privynet_jax.results.statistics import Interval


def cell(num_layers, depth, draw, accuracy=0.5, psnr_db=20.0, ssim=0.5, gain=None):
    """A cell whose strongest attacker reaches such means on test images; see `handmade`."""
    weaker = handmade.attack("linear", psnr_db - 1, ssim - 0.1)
    stronger = handmade.attack("residual", psnr_db, ssim, gain)
    return handmade.cell(num_layers, depth, draw, accuracy, (weaker, stronger))


def test_an_interval_by_hand():
    # Layer 2: draws 19, 21 and 20, 22, 24 around means 20 and 22, so squares 2 and 8 at 1 and 2
    # degrees of freedom; layer 4: 0.5 at 1. All of them: 10.5 / 4 at 4 degrees. Each layer's is
    # shrunk towards that, which counts for 4, and each option's towards its layer's likewise.
    everywhere = 10.5 / 4
    layer_2, layer_4 = (10 + 4 * everywhere) / 7, (0.5 + 4 * everywhere) / 5
    variances = {(2, 3): (2 + 4 * layer_2) / 5, (2, 5): (8 + 4 * layer_2) / 6}
    variances[4, 3] = (0.5 + 4 * layer_4) / 5
    freedoms = {(2, 3): 5, (2, 5): 6, (4, 3): 5}
    values = {(2, 3): (19, 21), (2, 5): (20, 22, 24), (4, 3): (15.5, 16.5)}
    results = [
        cell(*shape, draw, psnr_db=value)
        for shape, psnrs in values.items()
        for draw, value in enumerate(psnrs)
    ]
    options = options_of(results[::-1], 32, "mean")
    assert [(o.num_layers, o.depth, o.draws) for o in options] == [(2, 3, 2), (2, 5, 3), (4, 3, 2)]
    for option, mean in zip(options, (20, 22, 16), strict=True):
        variance, freedom = variances[option.shape], freedoms[option.shape]
        reach = stats.t.ppf(0.95, freedom) * math.sqrt(variance * (1 + 1 / option.draws))
        # Validation is 0.25 dB below test in these results, and it alone decides.
        assert option.expected.psnr_db == Interval(
            *map(pytest.approx, (mean - 0.25, mean - 0.25 - reach, mean - 0.25 + reach))
        )
        assert option.tested["psnr_db"] == pytest.approx(mean)
    assert not spread_is_assumed(options)


def test_the_more_draws_the_more_an_option_has_its_own_spread():
    # Draws of depth 8 differ by up to 4 dB, those of depth 3 not at all.
    reaches = {}
    for draws in (5, 50):
        # One draw is told from another by its accuracy alone.
        results = [cell(2, 3, d, 0.3 + d / 1000, psnr_db=20.0) for d in range(draws)]
        results += [cell(2, 8, draw, psnr_db=20.0 + draw % 5) for draw in range(draws)]
        reaches[draws] = [
            option.expected.psnr_db.margin for option in options_of(results, 32, "mean")
        ]
    assert reaches[50][0] < reaches[5][0] / 2
    assert reaches[5][0] < reaches[5][1] / 1.5
    own = stats.t.ppf(0.95, 49) * math.sqrt(2 * 50 / 49) * math.sqrt(1 + 1 / 50)
    assert reaches[50][1] == pytest.approx(own, rel=0.05)


def test_one_draw_each_gets_an_assumed_spread():
    options = options_of([cell(2, 3, 0), cell(4, 3, 0)], 32, "mean")
    assert spread_is_assumed(options)
    reach = stats.norm.ppf(0.95) * math.sqrt(2)
    for option in options:
        psnr, accuracy = option.expected.psnr_db, option.expected.accuracy
        assert psnr.high == pytest.approx(19.75 + reach * ASSUMED_SPREAD["psnr_db"])
        assert accuracy.low == pytest.approx(0.51 - reach * ASSUMED_SPREAD["accuracy"])


def test_limits_are_moved_by_the_mean_gain_and_as_uncertain_as_draw_and_gain():
    gains = [(1.0, 0.7, 1.4), (2.0, 1.7, 2.4)]
    results = [cell(2, 3, d, psnr_db=19.0 + d, gain=gain) for d, gain in enumerate(gains)]
    [option] = options_of(results, 32, "p95")
    reached, limit = option.expected.psnr_db, option.expected.psnr_db_limit
    assert limit.value == pytest.approx(reached.value + 1.5)
    assert limit.low == pytest.approx(limit.value - math.hypot(reached.margin, 0.3))
    assert limit.high == pytest.approx(limit.value + math.hypot(reached.margin, 0.4))
    # A cell of before says nothing, and no option is judged by another measure than the others.
    [option, other] = options_of([*results, cell(4, 3, 0)], 32, "mean")
    assert option.expected.psnr_db_limit is other.expected.psnr_db_limit is None


def test_intervals_promise_nothing_impossible():
    results = [cell(2, 3, d, accuracy=a, ssim=a) for d, a in enumerate((0.1, 0.9))]
    [option] = options_of(results, 32, "mean")
    assert option.expected.balanced_accuracy.value == pytest.approx(0.46)
    assert option.tested["balanced_accuracy"] == pytest.approx(0.45)
    assert option.expected.commonest_class_share == 0.25
    accuracy, ssim = option.expected.accuracy, option.expected.ssim
    assert (accuracy.low, accuracy.high) == (0, 1)
    assert ssim.high == 1


@pytest.mark.parametrize(
    ("statistic", "offset"),
    [("mean", 0.0), ("median", 1.0), ("p95", 5.0), ("p99", 7.0)],
)
def test_the_statistic_is_that_over_images(statistic, offset):
    [option] = options_of([cell(2, 3, 0, psnr_db=20.0)], 32, statistic)
    assert option.expected.psnr_db.value == pytest.approx(19.75 + offset)
    assert option.tested["psnr_db"] == pytest.approx(20 + offset)


def test_the_strongest_attacker_counts_column_by_column():
    attacks = (handmade.attack("linear", 12.0, 0.9), handmade.attack("residual", 20.0, 0.5))
    [option] = options_of([handmade.cell(attacks=attacks)], 32, "mean")
    assert option.expected.psnr_db.value == pytest.approx(19.75)
    assert option.expected.ssim.value == pytest.approx(0.89)


def test_nine_in_ten_new_draws_fall_inside():
    stream = np.random.default_rng(0)
    inside = total = 0
    for _ in range(150):
        draws = 20 + 1.5 * stream.standard_normal((4, 3))  # 4 depths of one layer, 2 draws + 1 new
        results = [
            cell(2, depth + 1, draw, psnr_db=draws[depth, draw])
            for depth in range(4)
            for draw in range(2)
        ]
        for option, new in zip(options_of(results, 32, "mean"), draws[:, 2] - 0.25, strict=True):
            inside += option.expected.psnr_db.low <= new <= option.expected.psnr_db.high
            total += 1
    # 600 trials, four at a time with one spread: a standard deviation of at most 2.5 points.
    assert 0.83 < inside / total < 0.97


def test_costs_are_those_of_the_topology():
    [option] = options_of([cell(1, 4, 0)], 16, "mean")
    # conv1_1 with 4 channels at 16 x 16: 256 * 9 * 3 * 4 products, 9 * 3 * 4 + 4 parameters.
    assert option.cost == {
        "local_mmacs": pytest.approx(0.027648),
        "storage_mib": 112 * 4 / 2**20,
        "release_kib": 4.0,
    }
    assert option.layer == "conv1_1"


def test_nothing_is_expected_of_no_cells():
    with pytest.raises(UserError, match="no characterised cells"):
        options_of([], 32, "mean")


def test_estimates_of_the_same_channels_are_one():
    """As of direct, where nothing is trained per cell: their agreement is no small spread."""
    [option] = options_of([cell(2, 3, draw) for draw in range(3)], 32, "mean")
    assert option.draws == 1
    assert spread_is_assumed([option])
    [alone] = options_of([cell(2, 3, 0)], 32, "mean")
    assert option.expected == alone.expected
