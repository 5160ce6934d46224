"""A decision in words: every figure with its unit, and honest about where it comes from."""

import dataclasses

import pytest
from support.handmade_options import option, table

from privynet_jax.planning import planner
from privynet_jax.planning.explanation import explained, refusal
from privynet_jax.planning.plan import Limits


def choose(options, limits):
    """What is worked by hand here is worked for a margin of 1 dB, whatever the usual one is."""
    return planner.choose(options, limits, {**planner.MARGINS, "psnr_db": 1.0})


CONFIG = {
    "dataset": "photo_patches",
    "image_size": 32,
    "mode": "dedicated",
    "seed": 3,
    "attacker": {"steps": 2000},
    "cloud": {"steps": 1000},
}


def text_for(options=None, config=CONFIG, **limits):
    return explained(choose(options or table(), Limits(**limits)), config)


def test_the_summary_of_a_choice():
    text = text_for(psnr_db=25.5, local_mmacs=60.0)
    for part in (
        "privacy loss: the mean over images",
        "at most 25.50 dB, kept with a margin of 1.00 dB",
        "at most 60.00 MMAC per image",
        "Chosen: 4 layers (conv2_2), 8 channels",
        "90 % intervals, from 2 draws on validation images",
        "accuracy  55.0 (50.0 to 60.0) %",
        "PSNR      20.00 (18.00 to 22.00) dB",
        "SSIM      0.550 (0.450 to 0.650)",
        "that of always answering the commonest class is 10.0 %",
        "balanced  55.0 (50.0 to 60.0) %, the mean over classes",
        "decided nothing: accuracy 54.0 %, balanced 53.0 %, PSNR 20.25 dB, SSIM 0.560",
        "local storage 1.00 MiB, released data 32.00 KiB per image",
        "Binding: privacy loss in PSNR and local computation",
        "--max_psnr_db=26.5: buys nothing; the next value that helps: --max_psnr_db=27, "
        "5.0 more points of balanced accuracy, with 2 layers (conv1_2), 8 channels",
        "--max_local_mmacs=75: 10.0 more points of balanced accuracy, with 4 layers (conv2_2), 16",
        "4 layers (conv2_2), 16 channels: 65.0 % balanced, exceeds local computation by 5.00 MMAC",
        "on photo_patches, images of 32 pixels, mode dedicated, 2000 attacker steps",
        "It bounds no other attacker",
    ):
        assert part in text
    assert "WARNING" not in text


def test_longer_training_is_told():
    text = text_for([option(psnr_db=20.0, further=4.0)], psnr_db=25.5)
    assert "what attackers would reach who train ten times as long, extrapolated, must" in text
    assert "after ten times the training 24.00 (23.00 to 25.00) dB, extrapolated" in text
    text = text_for(psnr_db=25.5)
    assert "what ten times the training would reach is not known" in text
    assert "after ten times" not in text


def test_without_limits_nothing_is_said_of_them():
    text = text_for()
    assert text.startswith("Limits: none")
    assert "Chosen: 2 layers (conv1_2), 16 channels" in text
    assert "Binding" not in text
    assert "Near misses" not in text


def test_limits_that_bind_nothing():
    text = text_for(psnr_db=50.0)
    assert "Binding: no limit by itself" in text
    assert "--max_psnr_db=51: buys nothing, and no other value of it helps" in text


def test_latency_says_where_it_was_measured():
    one = option(latency=1.25)
    text = explained(choose([one], Limits(latency_ms=2.0)), CONFIG, "one core of an abacus")
    assert "latency 1.25 ms per image" in text
    assert "latency is of one image on one core of an abacus" in text
    # Options that were never measured are not promised.
    fast = dataclasses.replace(one, cost={**one.cost, "latency_ms": 1.0})
    better = option(4, 8, 0.9, 18.5)
    text = text_for([fast, better], latency_ms=2.0, psnr_db=21.0)
    assert "with 4 layers (conv2_2), 8 channels (its latency was not measured)" in text


@pytest.mark.parametrize("mode", ["amortised", "linear"])
def test_estimates_are_warned_of(mode):
    text = text_for(config={**CONFIG, "mode": mode})
    assert f"WARNING: the mode {mode} estimates" in text
    assert "real privacy loss is higher" in text


def test_of_direct_trainings_differ_and_no_draws():
    direct = [dataclasses.replace(one, selection="direct", draws=1) for one in table()]
    text = text_for(direct)
    assert "expected of a new training with the channels that the search found, with 90 %" in text
    assert "from 1 training on validation images" in text
    assert "WARNING: there is one training per depth, so how trainings differ is not known" in text
    assert "draws" not in text.replace("--draws=2", "")


def test_what_is_no_better_than_the_commonest_class_is_warned_of():
    warning = "WARNING: always answering the commonest class would be right as often."
    frequent = option(accuracy=0.8, balanced=0.6, commonest=0.8)
    assert warning in text_for([frequent])
    assert warning not in text_for([option(accuracy=0.81, balanced=0.6, commonest=0.8)])


def test_single_draws_are_warned_of():
    single = [dataclasses.replace(one, draws=1) for one in table()]
    text = text_for(single)
    assert "from 1 draw on" in text
    assert "WARNING: there is one draw per depth" in text
    # One option with a second draw is enough for a spread.
    assert "WARNING" not in text_for([*single[1:], table()[0]])


def test_only_a_few_near_misses_are_listed():
    near = [option(4, depth, 0.6 + depth / 100, 19.5) for depth in range(1, 6)]
    text = text_for([option(7, 1, 0.5, 15.0), *near], psnr_db=22.0)
    assert text.count("exceeds privacy loss in PSNR by 0.50 dB") == 3
    assert "  and 2 more" in text


@pytest.mark.parametrize(
    ("limits", "line"),
    [
        (
            {"psnr_db": 18.0, "local_mmacs": 200.0},
            "no characterised topology keeps --max_psnr_db=18; the smallest change that helps is "
            "--max_psnr_db=19 (was 18)",
        ),
        (
            {"psnr_db": 22.0, "local_mmacs": 100.0},
            "no characterised topology keeps --max_psnr_db=22 together with --max_local_mmacs=100; "
            "the smallest change that helps is --max_psnr_db=23 (was 22)",
        ),
        (
            {"psnr_db": 18.0, "local_mmacs": 4.0},
            "no characterised topology keeps --max_psnr_db=18 or --max_local_mmacs=4; give "
            "--max_psnr_db=27 (was 18) and --max_local_mmacs=5 (was 4), the smallest change",
        ),
    ],
)
def test_refusals_in_one_line(limits, line):
    assert refusal(choose(table(), Limits(**limits))) == line


def test_the_long_refusal():
    text = text_for(psnr_db=22.0, local_mmacs=100.0)
    for part in (
        "Nothing that was characterised keeps the limits.",
        "--max_psnr_db=22 and --max_local_mmacs=100: no topology keeps them together",
        "--max_psnr_db=23 (was 22) (1.0 notches more)",
        "--max_local_mmacs=150 (was 100) (2.0 notches more)",
        "--max_psnr_db=23: 55.0 % balanced accuracy, with 4 layers (conv2_2), 8 channels",
        "--max_local_mmacs=125: still nothing fits; the next value that helps: "
        "--max_local_mmacs=150, 58.0 % balanced accuracy, with 7 layers",
    ):
        assert part in text
    # All that could be taken away is said already.
    assert "Binding" not in text
    joint = text_for(psnr_db=18.0, local_mmacs=4.0)
    assert "No change of one limit helps. The smallest change: --max_psnr_db=27" in joint
    assert "--max_psnr_db=18: no topology keeps it alone" in joint


def test_a_limit_with_many_digits_is_shown_as_given():
    line = refusal(choose([option()], Limits(psnr_db=4.123456)))
    assert "--max_psnr_db=4.123456;" in line
