"""Who chooses what: by hand, against brute force, and what must hold on any trace."""

import numpy as np
import pytest
from support.handmade_cuts import MODEL, cut, shallow_and_deep, trace

from privynet_jax.errors import UserError
from privynet_jax.scheduling.policies import (
    SKIPPED,
    Caution,
    choose_clairvoyant,
    choose_fixed,
    choose_online,
    score,
)
from privynet_jax.scheduling.simulation import Demand, simulate
from privynet_jax.scheduling.traces import KINDS, generated

DEMAND = Demand(every_s=1.0, deadline_s=0.6, round_trip_s=0.07, cloud_s=0.03)
SHALLOW, DEEP = 0, 1


def many_cuts():
    """The longer on the device, the less to send, but for the last, which is never worth it."""
    sizes = ((0.02, 1.0), (0.05, 0.6), (0.1, 0.4), (0.15, 0.25), (0.2, 0.15), (0.3, 0.05))
    sizes += ((0.3, 0.5),)
    return [cut(i + 1, local_s, 100 * local_s, mbit) for i, (local_s, mbit) in enumerate(sizes)]


def test_the_references_by_hand():
    # Energies of `test_simulation`: 21 and 7, late and 11, 21 and late; the end is as the third.
    cuts = shallow_and_deep()
    found = simulate(trace([10, 2, 10, 10], [1, 1, 2, 2]), cuts, DEMAND, MODEL)
    assert choose_clairvoyant(found).tolist() == [DEEP, DEEP, SHALLOW, SHALLOW]
    assert choose_fixed(found).tolist() == [SHALLOW] * 4
    best, fixed = (
        score(choose(found), found, cuts) for choose in (choose_clairvoyant, choose_fixed)
    )
    assert best["energy_mj"] == pytest.approx((7 + 11 + 21 + 21) / 4)
    assert (best["in_time"], best["missed"], best["regret_mj"]) == (1, 0, 0)
    assert best["accuracy"] == pytest.approx(0.6)
    assert best["cuts"] == {"2:8": 0.5, "7:8": 0.5}
    # The second picture is missed, for which 49 mJ are spent; of the first, 14 too much.
    assert fixed["energy_mj"] == pytest.approx((21 + 49 + 21 + 21) / 4)
    assert (fixed["in_time"], fixed["missed"], fixed["unmeetable"]) == (0.75, 0.25, 0)
    assert fixed["regret_mj"] == pytest.approx((14 + 49) / 4)


def test_what_nobody_can_meet_is_skipped_by_who_knows():
    cuts = shallow_and_deep()
    found = simulate(trace([10, 0, 10]), cuts, DEMAND, MODEL)
    chosen = choose_clairvoyant(found)
    assert chosen.tolist() == [DEEP, SKIPPED, DEEP]
    told = score(chosen, found, cuts)
    assert told["energy_mj"] == pytest.approx(14 / 3)
    assert told["unmeetable"] == pytest.approx(1 / 3)
    assert told["cuts"] == {"7:8": pytest.approx(2 / 3), "skipped": pytest.approx(1 / 3)}
    nothing = simulate(trace([0, 0]), cuts, DEMAND, MODEL)
    assert np.isnan(score(choose_clairvoyant(nothing), nothing, cuts)["accuracy"])


def test_on_line_by_hand():
    # It looks back at one picture, so it expects what the last one found.
    cuts, last = shallow_and_deep(), Caution(remembered=1)
    found = simulate(trace([10] * 6, [1, 1, 2, 2, 1, 1]), cuts, DEMAND, MODEL)
    chosen = choose_online(found, cuts, DEMAND, MODEL, last)
    # The third is caught by the load, the fifth does not know yet that it is over.
    assert chosen.tolist() == [DEEP, DEEP, DEEP, SHALLOW, SHALLOW, DEEP]
    assert found.in_time[np.arange(6), chosen].tolist() == [True, True, False, True, True, True]


def test_quantiles_are_on_the_bad_side():
    # Of four that took 1, 1, 1 and 2 times as long, the upper quartile is 1.25: 0.5 s, and 0.01 s
    # of sending are too much. Without caution it is as if nothing had been.
    cuts = shallow_and_deep()
    found = simulate(trace([10] * 5, [1, 1, 1, 2, 1]), cuts, DEMAND, MODEL)
    for quantile, fifth in ((0.25, SHALLOW), (0.5, DEEP)):
        chosen = choose_online(found, cuts, DEMAND, MODEL, Caution(4, quantile))
        assert chosen.tolist() == [DEEP] * 4 + [fifth]


def test_it_comes_out_of_a_tunnel_and_out_of_a_load():
    cuts = shallow_and_deep()
    found = simulate(trace([10, 0, 0, 0, 0, 0, *[10] * 6]), cuts, DEMAND, MODEL)
    chosen = choose_online(found, cuts, DEMAND, MODEL)
    assert found.in_time[np.arange(12), chosen].tolist() == [True] + 5 * [False] + 6 * [True]
    # From the beginning the deep cut does not get to an upload, by which to know the bandwidth.
    found = simulate(trace([10] * 5, [2] * 5), cuts, DEMAND, MODEL)
    assert choose_online(found, cuts, DEMAND, MODEL)[1:].tolist() == [SHALLOW] * 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_holds_on_any_trace(kind, seed):
    cuts, here = many_cuts(), generated(kind, 200, 3.0, seed)
    found = simulate(here, cuts, DEMAND, MODEL)
    every = np.arange(len(found.arrivals))
    best = score(choose_clairvoyant(found), found, cuts)
    constant = [np.full(len(every), index) for index in range(len(cuts))]
    draws = np.random.default_rng(seed).integers(len(cuts), size=(20, len(every)))
    online = choose_online(found, cuts, DEMAND, MODEL)
    for chosen in (*constant, *draws, online, choose_fixed(found)):
        own = score(chosen, found, cuts)
        assert own["in_time"] <= best["in_time"]
        assert own["regret_mj"] >= 0
        if own["in_time"] == best["in_time"]:
            assert own["energy_mj"] >= best["energy_mj"]
        shares = own["in_time"] + own["missed"] + own["unmeetable"]
        assert shares == pytest.approx(1)
        # Who is in time with the same pictures, and least energy for each, spends as much.
        assert own["energy_mj"] - own["regret_mj"] <= best["energy_mj"] + 1e-9
    # The best fixed cut is that of a search through all.
    told = [score(chosen, found, cuts) for chosen in constant]
    searched = min(range(len(cuts)), key=lambda i: (-told[i]["in_time"], told[i]["energy_mj"]))
    assert choose_fixed(found).tolist() == [searched] * len(every)
    again = choose_online(simulate(here, cuts, DEMAND, MODEL), cuts, DEMAND, MODEL)
    assert online.tolist() == again.tolist()


def test_where_nothing_changes_it_learns_at_once():
    cuts = many_cuts()
    found = simulate(generated("steady", 50, 3.0, seed=0), cuts, DEMAND, MODEL)
    chosen = choose_online(found, cuts, DEMAND, MODEL)
    assert chosen[1:].tolist() == choose_clairvoyant(found)[1:].tolist()


def test_it_knows_no_future():
    cuts = many_cuts()
    here = generated("commute", 100, 3.0, seed=0)
    other = generated("markov", 100, 3.0, seed=1)
    later = here.mbit_per_s.copy()
    later[60:] = other.mbit_per_s[60:]
    first, second = (
        choose_online(simulate(trace(values), cuts, DEMAND, MODEL), cuts, DEMAND, MODEL)
        for values in (here.mbit_per_s, later)
    )
    assert first[:61].tolist() == second[:61].tolist()
    assert first[61:].tolist() != second[61:].tolist()


def test_refusals():
    with pytest.raises(UserError, match="--remembered is 0; allowed are 1 and more"):
        Caution(remembered=0)
    with pytest.raises(UserError, match=r"--quantile is 0\.7; allowed are 0 to 0\.5"):
        Caution(quantile=0.7)
