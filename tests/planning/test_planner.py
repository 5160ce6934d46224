"""The choice under limits: by hand, against brute force, and with what it says of itself."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from support.handmade_options import option, table

from privynet_jax.errors import UserError
from privynet_jax.planning import planner
from privynet_jax.planning.plan import Limits, Measured
from privynet_jax.planning.planner import choose_measured, notch, unmeasured


def choose(options, limits, margin_db=1.0, margin_ssim=0.02):
    """What is worked by hand here is worked for these margins, whatever the usual ones are."""
    return planner.choose(options, limits, {"psnr_db": margin_db, "ssim": margin_ssim})


def shape(chosen):
    return chosen and (chosen.num_layers, chosen.depth)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, (2, 16)),
        # (2, 16) needs 28 + 2 + 1 dB, (4, 16) needs 25.5.
        ({"psnr_db": 31.0}, (2, 16)),
        ({"psnr_db": 30.99}, (4, 16)),
        ({"psnr_db": 25.5}, (4, 16)),
        ({"psnr_db": 25.5, "local_mmacs": 60.0}, (4, 8)),
        ({"psnr_db": 19.0}, (7, 16)),
        # (4, 16) needs 0.6 + 0.1 + 0.02, (4, 8) 0.67.
        ({"ssim": 0.73}, (4, 16)),
        ({"ssim": 0.71}, (7, 16)),
        ({"ssim": 0.71, "local_mmacs": 149.0}, (4, 8)),
        ({"release_kib": 32.0}, (2, 8)),
        ({"storage_mib": 0.5, "release_kib": 32.0}, (2, 8)),
        ({"psnr_db": 18.9}, None),
        ({"psnr_db": 22.0, "local_mmacs": 100.0}, None),
    ],
)
def test_choices_by_hand(limits, expected):
    assert shape(choose(table(), Limits(**limits)).chosen) == expected


def test_margins_are_the_callers():
    assert planner.choose(table(), Limits()).margins == planner.MARGINS
    limits = Limits(psnr_db=24.9)
    assert shape(choose(table(), limits).chosen) == (7, 16)
    assert shape(choose(table(), limits, margin_db=0.4).chosen) == (4, 16)
    assert shape(choose(table(), limits, margin_db=0.0).chosen) == (4, 16)
    assert choose(table(), limits, margin_db=7.0).chosen is None


def test_longer_training_is_held_against_the_limit_where_it_finds_more_than_the_margin():
    # 20 + 2 + 1 with the margin; 20 + 4 + 1 after longer training.
    for further, least in ((None, 23.0), (1.0, 23.0), (4.0, 25.0)):
        options = [option(psnr_db=20.0, further=further)]
        assert choose(options, Limits(psnr_db=least)).chosen
        [shortfall] = choose(options, Limits(psnr_db=least - 0.5)).remedies
        assert shortfall.needed == least


@pytest.mark.parametrize("margin", [-1.0, math.nan, math.inf])
def test_impossible_margins_are_refused(margin):
    with pytest.raises(UserError, match="margin of psnr_db"):
        choose(table(), Limits(), margin_db=margin)
    with pytest.raises(UserError, match="margin of ssim"):
        choose(table(), Limits(), margin_ssim=margin)


def test_ties_go_to_less_privacy_loss_and_then_to_less_computation():
    leaky = option(2, 8, 0.5, 20.0, mmacs=1.0)
    private = option(4, 8, 0.5, 15.0, mmacs=60.0)
    costly = option(4, 9, 0.5, 15.0, mmacs=61.0)
    for order in itertools.permutations([leaky, private, costly]):
        assert choose(order, Limits()).feasible == (private, costly, leaky)


def test_classes_count_alike_however_frequent_they_are():
    """Of 90 % commonest images, answering nothing else is right in 90 %, and learnt nothing."""
    lazy = option(2, 8, 0.9, 15.0, balanced=0.5, commonest=0.9)
    learnt = option(4, 8, 0.88, 19.0, balanced=0.75, commonest=0.9)
    decision = choose([lazy, learnt], Limits())
    assert decision.feasible == (learnt, lazy)
    assert choose([lazy, learnt], Limits(psnr_db=20.0)).binding == ("psnr_db",)
    # What differs by rounding alone is equal: less privacy loss decides.
    noisy = option(2, 8, 0.7, 16.0, balanced=0.1 + 0.2)
    private = option(4, 8, 0.7, 15.0, balanced=0.3)
    assert choose([noisy, private], Limits()).chosen is private


def brute_force(options, limits, margin_db, margin_ssim):
    """The best feasible option, written without the planner's own parts."""
    best = None
    for one in options:
        if limits.psnr_db is not None and one.expected.psnr_db.high + margin_db > limits.psnr_db:
            continue
        if limits.ssim is not None and one.expected.ssim.high + margin_ssim > limits.ssim:
            continue
        costs = ("local_mmacs", "storage_mib", "release_kib", "latency_ms")
        bounds = {name: getattr(limits, name) for name in costs}
        if any(b is not None and one.cost[n] > b for n, b in bounds.items()):
            continue
        if best is None or one.merit > best.merit:
            best = one
    return best


def random_case(stream):
    options = [
        option(
            int(m),
            int(d),
            stream.uniform(0.2, 0.9),
            stream.uniform(10, 30),
            stream.uniform(0.1, 0.8),
            mmacs=stream.uniform(1, 200),
            latency=stream.uniform(1, 20),
        )
        for m in range(1, 6)
        for d in (4, 8, 16)
        if stream.random() < 0.6
    ] or [option(latency=1.0)]
    ranges = {
        "psnr_db": (12, 34),
        "ssim": (0.2, 1.0),
        "local_mmacs": (5, 200),
        "storage_mib": (0.2, 1.5),
        "release_kib": (10, 70),
        "latency_ms": (1, 20),
    }
    given = {n: stream.uniform(*r) for n, r in ranges.items() if stream.random() < 0.5}
    return options, Limits(**given), stream.uniform(0, 3), stream.uniform(0, 0.1)


def without(limits, name):
    return dataclasses.replace(limits, **{name: None})


def merit_of(chosen):
    return -math.inf if chosen is None else chosen.merit


def test_choices_and_what_is_said_of_them_by_brute_force():
    stream = np.random.default_rng(1)
    kinds = {"chosen": 0, "single": 0, "joint": 0, "binding": 0, "near": 0, "pair": 0}
    for _ in range(400):
        options, limits, *margins = random_case(stream)
        decision = choose(options, limits, *margins)
        best = brute_force(options, limits, *margins)
        assert decision.chosen is best

        free = {
            n: merit_of(brute_force(options, without(limits, n), *margins)) for n in limits.given()
        }
        assert set(decision.binding) == {n for n, a in free.items() if a > merit_of(best)}
        kinds["binding"] += bool(best and decision.binding)

        for limit, value in limits.given().items():
            relaxed = decision.relaxed(limit)
            changed = dataclasses.replace(limits, **{limit: value + notch(limit, value)})
            assert relaxed.limits == changed
            assert relaxed.chosen is brute_force(options, changed, *margins)
            assert relaxed.merit == merit_of(relaxed.chosen)

        kinds["near"] += bool(decision.near_misses)
        for miss in decision.near_misses:
            assert merit_of(miss) > merit_of(best)
            moved = {s.limit: s.needed for s in decision.shortfalls(miss)}
            assert brute_force([miss], dataclasses.replace(limits, **moved), *margins)
        if best:
            kinds["chosen"] += 1
            assert not decision.impossible
            assert not decision.remedies
        else:
            check_refusal(decision, options, limits, margins)
            kinds["joint" if decision.remedy_is_joint else "single"] += 1
            kinds["pair"] += len(decision.impossible[0]) == 2
    assert min(kinds.values()) >= 10, kinds  # every kind of answer was seen


def check_refusal(decision, options, limits, margins):
    """Every remedy works, no smaller one does, and what is called impossible is so, minimally."""
    given = limits.given()
    none = Limits()
    for names in decision.impossible:
        alone = dataclasses.replace(none, **{name: given[name] for name in names})
        assert brute_force(options, alone, *margins) is None
        for name in names if len(names) > 1 else ():
            assert brute_force(options, without(alone, name), *margins)
    helpful = {n for n in given if brute_force(options, without(limits, n), *margins)}
    if decision.remedy_is_joint:
        assert not helpful
        moved = {s.limit: s.needed for s in decision.remedies}
        assert brute_force(options, dataclasses.replace(limits, **moved), *margins)
        return
    assert {s.limit for s in decision.remedies} == helpful
    assert [s.notches for s in decision.remedies] == sorted(s.notches for s in decision.remedies)
    for remedy in decision.remedies:
        enough = dataclasses.replace(limits, **{remedy.limit: remedy.needed})
        assert brute_force(options, enough, *margins)
        # Two units in the last place shown, at most one of which is rounding.
        less = remedy.needed - (0.002 if remedy.limit == "ssim" else 0.02)
        if less > remedy.value:
            short = dataclasses.replace(limits, **{remedy.limit: less})
            assert brute_force(options, short, *margins) is None


def test_what_binds_by_hand():
    decision = choose(table(), Limits(psnr_db=25.5, local_mmacs=60.0))
    # Without the limit on PSNR (2, 16) at 70 %, without that on computation (4, 16) at 65 %.
    assert decision.binding == ("psnr_db", "local_mmacs")
    # 26.5 dB do not reach (2, 8), which needs 27; 75 MMAC reach (4, 16).
    psnr, mmacs = map(decision.relaxed, decision.binding)
    assert (psnr.limits.psnr_db, shape(psnr.chosen)) == (26.5, (4, 8))
    assert (mmacs.limits.local_mmacs, shape(mmacs.chosen)) == (75.0, (4, 16))
    assert (decision.merit, psnr.merit, mmacs.merit) == (0.55, 0.55, 0.65)
    # (4, 16) misses 60 MMAC by 5 of a notch of 15. (2, 8) misses 25.5 dB by 1.5 notches, too much.
    [miss] = decision.near_misses
    assert shape(miss) == (4, 16)
    [shortfall] = decision.shortfalls(miss)
    assert (shortfall.limit, shortfall.value, shortfall.needed) == ("local_mmacs", 60.0, 65.0)
    assert shortfall.notches == pytest.approx(1 / 3)


def test_refusals_by_hand():
    alone = choose(table(), Limits(psnr_db=18.0, local_mmacs=200.0))
    assert alone.impossible == (("psnr_db",),)
    [remedy] = alone.remedies
    assert (remedy.limit, remedy.needed, remedy.notches) == ("psnr_db", 19.0, 1.0)

    pair = choose(table(), Limits(psnr_db=22.0, local_mmacs=100.0))
    assert pair.impossible == (("psnr_db", "local_mmacs"),)
    # (4, 8) needs 23 dB, one notch; (7, 16) needs 150 MMAC, two notches of 25.
    assert [(s.limit, s.needed, s.notches) for s in pair.remedies] == [
        ("psnr_db", 23.0, 1.0),
        ("local_mmacs", 150.0, 2.0),
    ]

    joint = choose(table(), Limits(psnr_db=18.0, local_mmacs=4.0))
    assert joint.impossible == (("psnr_db",), ("local_mmacs",))
    assert joint.remedy_is_joint
    # (2, 8) needs 27 dB and 5 MMAC: 9 + 1 notches, fewer than any other.
    assert [(s.limit, s.needed) for s in joint.remedies] == [("psnr_db", 27.0), ("local_mmacs", 5)]


def test_a_proposed_limit_is_rounded_towards_more():
    one = option(psnr_db=17.12341, ssim=0.51234)
    [psnr] = choose([one], Limits(psnr_db=5.0)).remedies
    [ssim] = choose([one], Limits(ssim=0.1)).remedies
    assert (psnr.needed, ssim.needed) == (20.13, 0.633)
    [small] = choose([option(mmacs=0.0101)], Limits(local_mmacs=0.01)).remedies
    assert small.needed == 0.02


def measured_choice(limits, measure):
    return choose_measured(table(), limits, planner.MARGINS, measure)


def timed(one, latency_ms):
    return dataclasses.replace(one, cost={**one.cost, "latency_ms": latency_ms})


def attacked(one, psnr_db, draws):
    """The option with what its drawn channels lose."""
    measured = Measured("public", psnr_db, one.expected.ssim.value, images=64, draws=draws)
    held = {"psnr_db": psnr_db, "ssim": measured.ssim}
    return dataclasses.replace(one, measured=measured, held=held)


def test_what_is_measured_decides_and_tells_what_to_hope_of_the_layer():
    # Class public finds 8 dB more than is expected at layer 2, 3 at layer 4 and 1 at layer 7.
    more, asked = {2: 8.0, 4: 3.0, 7: 1.0}, []

    def measure(one):
        asked.append(shape(one))
        return attacked(one, one.expected.psnr_db.value + more[one.num_layers], len(asked))

    def choice(psnr_db):
        asked.clear()
        limits = Limits(psnr_db=psnr_db)
        return choose_measured(unmeasured(table()), limits, planner.MARGINS, measure)

    # (2, 16) is hoped for at 28 + 2 and loses 36; so (2, 8), 24 + 2, is not, at 24 + 8 + 2.
    decision = choice(30.0)
    assert asked == [(2, 16), (4, 16)]
    assert shape(decision.chosen) == (4, 16)
    assert (decision.chosen.measured.psnr_db, decision.chosen.measured.draws) == (25.5, 2)
    # 16 + 1 + 2, after (4, 8), 20 + 2, was measured at 23.
    assert shape(choice(22.0).chosen) == (7, 16)
    assert asked == [(4, 8), (7, 16)] or asked == [(7, 16)]
    # Each is measured but once, whatever is found.
    assert choice(18.5).chosen is None
    assert asked == [(7, 16)]
    [remedy] = choice(18.5).remedies[:1]
    assert remedy.needed == 19.0


def test_latency_is_measured_only_as_far_as_it_decides():
    asked = []

    def measure(one):
        asked.append(shape(one))
        return timed(one, {(2, 16): 9.0, (4, 16): 8.0, (2, 8): 3.0}[shape(one)])

    decision = measured_choice(Limits(latency_ms=5.0), measure)
    assert asked == [(2, 16), (4, 16), (2, 8)]
    assert shape(decision.chosen) == (2, 8)
    assert [o.cost.get("latency_ms") for o in decision.options] == [9.0, 8.0, 3.0, None, None]
    assert decision.binding == ("latency_ms",)

    asked.clear()
    measured_choice(Limits(psnr_db=27.0, latency_ms=8.0), measure)
    assert asked == [(4, 16)]
    asked.clear()
    assert measured_choice(Limits(psnr_db=27.0), measure).chosen.cost["latency_ms"] == 8.0
    assert asked == [(4, 16)]


def test_no_latency_fits():
    decision = measured_choice(Limits(latency_ms=5.0), lambda one: timed(one, 6.0 + one.depth))
    assert decision.chosen is None
    assert decision.impossible == (("latency_ms",),)
    assert [s.needed for s in decision.remedies] == [14.0]


def test_noise_is_chosen_where_a_guarantee_is_asked_for():
    """Those without one have no epsilon that would do; what is proposed is one that exists."""
    noisy = [
        dataclasses.replace(o, mechanism=f"laplace:clip=1,scale={scale}", cost=o.cost | cost)
        for o, scale, cost in (
            (option(4, 16, 0.50, 15.0), 3, {"epsilon": 8.0}),
            (option(4, 16, 0.60, 17.0), 1, {"epsilon": 24.0}),
        )
    ]
    options = [*table(), *noisy]
    assert choose(options, Limits()).chosen.mechanism == "none"
    for limit, scale in ((30.0, 1), (24.0, 1), (23.9, 3), (8.0, 3)):
        assert choose(options, Limits(epsilon=limit)).chosen.mechanism.endswith(f"scale={scale}")
    # At equal privacy loss noise may simply be better: (7, 16) has 58 %.
    assert choose(options, Limits(psnr_db=20.5)).chosen is noisy[1]
    refused = choose(options, Limits(epsilon=7.995))
    assert (refused.chosen, refused.binding) == (None, ("epsilon",))
    [remedy] = refused.remedies
    assert (remedy.limit, remedy.needed) == ("epsilon", 8.0)
    assert refused.impossible == (("epsilon",),)
    assert refused.next_value("epsilon").limits.epsilon == 8.0
    assert choose(options, Limits(epsilon=24.0)).next_value("epsilon") is None
    assert all(math.isinf(planner.least_limit(o, "epsilon", {})) for o in table())
    assert not choose(table(), Limits(epsilon=5.0)).near_misses


def test_what_is_measured_tells_nothing_of_other_mechanisms():
    clean, noisy = (
        dataclasses.replace(option(4, depth, accuracy, 18.0), mechanism=mechanism)
        for depth, accuracy, mechanism in ((8, 0.6, "none"), (16, 0.5, "dropout:rate=0.5"))
    )

    def measure(option):
        found = Measured("public", 30.0, 0.9, images=9, draws=1)
        held = {"psnr_db": 30.0, "ssim": 0.9} if option.mechanism == "none" else option.held
        return dataclasses.replace(option, measured=found, held=held)

    margins = {"psnr_db": 1.0, "ssim": 0.02}
    known = choose_measured(unmeasured([clean, noisy]), Limits(psnr_db=20.0), margins, measure)
    assert known.chosen.mechanism == "dropout:rate=0.5"
