"""Margins from episodes, and what is proven by them: against counts worked by hand."""

import math

import numpy as np
import pytest
from scipy import stats
from support import handmade_episodes

from privynet_jax.errors import UserError
from privynet_jax.planning import promise as promises
from privynet_jax.planning.plan import Limits
from privynet_jax.planning.planner import MARGINS
from privynet_jax.planning.promise import Episode, promise_of, read_episodes, usual_margins
from privynet_jax.results.text_tables import as_csv


def episodes(differences, statistic="mean", ssim=0.0):
    """One per source, whose audit found so many dB more than the plan had measured."""
    return [
        Episode(
            f"source {index}",
            statistic,
            {"psnr_db": 20.0, "ssim": 0.5},
            {"psnr_db": 20.0 + more, "ssim": 0.5 + ssim},
            image_size=32,
        )
        for index, more in enumerate(differences)
    ]


def promised(of, limits):
    return promise_of(of, limits, image_size=32)


def test_the_margin_is_an_order_statistic_and_its_rank_is_what_proves():
    # Of 30, the 95 % bound is number ceil(31 * 0.95) = 30: the largest.
    differences = np.arange(30) / 10
    margins, promise = promised(episodes(differences[::-1], ssim=-0.1), Limits(psnr_db=20))
    assert margins == {"psnr_db": pytest.approx(2.9), "ssim": 0.0}
    # All further ones are below it with probability p, where all 30 are with p ** 30.
    assert (promise.episodes, promise.kept) == (30, 30)
    assert promise.proven == pytest.approx(0.05 ** (1 / 30))
    # Of 60 number ceil(61 * 0.95) = 58: up to that share, 58 or more are kept in 5 % of tables.
    margins, promise = promised(episodes(np.arange(60) / 10), Limits(psnr_db=20))
    assert margins["psnr_db"] == pytest.approx(5.7)
    assert promise.kept == 58
    assert stats.binom.cdf(57, 60, promise.proven) == pytest.approx(0.95)


def test_two_limits_are_kept_together_less_often():
    both = Limits(psnr_db=20, ssim=0.6)
    _, promise = promised(episodes(np.arange(30) / 10, ssim=0.1), both)
    assert promise.proven == pytest.approx(1 - 2 * (1 - 0.025 ** (1 / 30)))


def test_what_is_proven_holds_of_independent_sources_in_nineteen_of_twenty_tables():
    stream, right = np.random.default_rng(1), 0
    for _ in range(400):
        margins, promise = promised(episodes(stream.normal(1, 1, 30)), Limits(psnr_db=20))
        right += stats.norm(1, 1).cdf(margins["psnr_db"]) >= promise.proven
    assert right / 400 > 0.95 - 3 * 0.011


def test_thirty_of_thirty_prove_nine_in_ten():
    margins, promise = promised(episodes([-1.0] * 30), Limits(psnr_db=20))
    assert margins["psnr_db"] == 0
    assert promise.kept == 30
    assert promise.proven == pytest.approx(0.05 ** (1 / 30))


def test_a_source_counts_once_with_its_largest_difference():
    both = episodes([0.0] * 20) + episodes([1.0] * 20)
    margins, promise = promised(both, Limits(psnr_db=20))
    assert (margins["psnr_db"], promise.episodes) == (1.0, 20)


def test_of_a_new_source_as_many_are_kept_as_is_promised():
    stream, kept = np.random.default_rng(0), 0
    for _ in range(400):
        *known, new = stream.standard_cauchy(31)
        kept += new <= promised(episodes(known), Limits(psnr_db=20))[0]["psnr_db"]
    # 30 of 31 are, on average, and 0 at least: a standard deviation of 0.9 points.
    assert kept / 400 > 30 / 31 - 0.03


@pytest.mark.parametrize("count", [0, 19])
def test_too_few_sources_promise_nothing(count):
    with pytest.raises(UserError, match=f"of {count} sources .* 95 % take 20"):
        promised(episodes([0.0] * count), Limits(psnr_db=20))
    with pytest.raises(UserError, match="of 0 sources with the statistic p95"):
        promised(episodes([0.0] * 30), Limits(psnr_db=20, statistic="p95"))
    with pytest.raises(UserError, match=r"of 0 sources .* images of 64 pixels"):
        promise_of(episodes([0.0] * 30), Limits(psnr_db=20), image_size=64)


def test_usual_margins_are_of_episodes_where_these_are_many_and_alike(tmp_path, monkeypatch):
    table, limits = tmp_path / "episodes.csv", Limits(psnr_db=20, ssim=0.5)
    monkeypatch.setattr(promises, "USUAL_EPISODES", table)
    handmade_episodes.write(table, np.arange(20) / 10)
    margins, promise = usual_margins(limits, 32)
    assert margins == {"psnr_db": pytest.approx(1.9), "ssim": pytest.approx(0.25)}
    assert (promise.episodes, promise.kept) == (20, 20)
    others = (limits, 64), (Limits(psnr_db=20, statistic="p95"), 32)
    assert [usual_margins(*other) for other in others] == [(MARGINS, None)] * 2
    handmade_episodes.write(table, np.arange(19) / 10)
    assert usual_margins(limits, 32) == (MARGINS, None)


def test_the_library_s_own_episodes_can_be_read():
    assert len({episode.source for episode in read_episodes(promises.USUAL_EPISODES)}) > 8


ROW = {
    "rule": "measured",
    "source": "a",
    "statistic": "mean",
    "measured_psnr_db": 18.0,
    "measured_ssim": 0.5,
    "audited_psnr_db": 19.0,
    "audited_ssim": 0.75,
    "image_size": 32,
}


def test_a_table_is_read_without_sources_that_had_no_plan_and_other_rules(tmp_path):
    table = tmp_path / "episodes.csv"
    unplanned = {**dict.fromkeys(ROW, ""), "rule": "measured", "source": "b", "statistic": "mean"}
    other = {**ROW, "rule": "marginless", "audited_psnr_db": 30.0}
    table.write_bytes(as_csv([ROW, unplanned, other]).encode())
    [found] = read_episodes(table)
    assert found.source == "a"
    assert (found.excess("psnr_db"), found.excess("ssim")) == (1.0, 0.25)


@pytest.mark.parametrize(
    "rows",
    [
        [{k: v for k, v in ROW.items() if k != "audited_ssim"}],
        [{**ROW, "measured_ssim": "much"}],
        [{**ROW, "audited_psnr_db": math.inf}],
    ],
)
def test_other_tables_are_refused(tmp_path, rows):
    table = tmp_path / "episodes.csv"
    table.write_text(as_csv(rows))
    with pytest.raises(UserError, match="has no episodes; give the"):
        read_episodes(table)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(f'{{"id": "{"0" * 200_000}"}}')  # longer than the csv module takes a field
    with pytest.raises(UserError, match=r"plan\.json has no episodes; give the"):
        read_episodes(plan)
