"""Bounds beside the strongest attack, by hand, and of a local NN that is known."""

import numpy as np
import pytest

from experiments.comparing import mechanism_bounds
from experiments.comparing.mechanism_bounds import as_text, columns, compared
from privynet_jax.backbone.topology import Topology
from privynet_jax.mechanisms.information import ErrorBounds
from privynet_jax.results.cells import Cell, Measurement

# Four images, of two sources.
CLUSTERS = np.array([0, 0, 1, 1])
ERRORS = {
    # In the mean error the second is the better one; in mean PSNR, the first (25 dB to 20).
    "uneven": [1e-4, 1e-4, 0.1, 0.1],
    "even": [0.01, 0.01, 0.01, 0.01],
    "even, mean of 8": [0.002, 0.002, 0.002, 0.002],
}


def measurement(errors):
    attacks = {
        name: {"test": {"psnr_db": -10 * np.log10(np.float32(own))}} for name, own in errors.items()
    }
    return Measurement(Cell(Topology(4, (1, 2)), 0), {}, attacks, {}, 1.0, {}, {})


def of(van_trees, unbiased=0.5):
    return ErrorBounds(unbiased, van_trees, 0.001, 0.0001, 12.0)


def test_each_number_of_releases_has_its_own_strongest_attacker_by_mean_error():
    better = ERRORS | {"uneven": [0.03, 0.03, 0.001, 0.001], "even": [0.02, 0.02, 0.02, 0.02]}
    measured = [measurement(ERRORS), measurement(better)]
    bounds = [{1: of(0.005), 8: of(0.001)}, {1: of(0.015), 8: of(0.001)}]
    once, often = compared(measured, bounds, CLUSTERS)
    assert (once["releases"], often["releases"]) == (1, 8)
    # 0.01 and 0.0155 on average over images, of the first and the second draw.
    assert once["attacker"] == "even/uneven"
    assert once["attack_db"] == pytest.approx(-10 * np.log10(0.01275), abs=1e-4)
    assert once["van_trees_bound_db"] == pytest.approx(20.0)
    # Sources have mean errors of 0.02 and 0.0055: either may come twice.
    assert once["attack_db_low"] == pytest.approx(-10 * np.log10(0.02), abs=1e-4)
    assert once["attack_db_high"] == pytest.approx(-10 * np.log10(0.0055), abs=1e-4)
    assert once["unbiased_bound_db"] == pytest.approx(3.0103, abs=1e-4)
    assert often["attacker"] == "even, mean of 8"
    assert often["attack_db"] == often["attack_db_low"] == pytest.approx(26.9897, abs=1e-4)


def test_of_one_release_alone_all_attackers_count():
    [once] = compared([measurement(ERRORS)], [{1: of(0.005)}], CLUSTERS)
    assert once["attacker"] == "even, mean of 8"  # a name like any other


def test_where_no_attacker_averages_there_is_nothing_to_compare():
    alone = {name: own for name, own in ERRORS.items() if "mean" not in name}
    [once] = compared([measurement(alone)], [{1: of(0.005), 8: of(0.001)}], CLUSTERS)
    assert (once["releases"], once["attacker"]) == (1, "even")


def test_what_is_beaten_for_certain_is_told_with_its_assumption():
    bounds = [{1: of(0.0125), 8: of(0.0001)}]
    found = compared([measurement(ERRORS)], bounds, CLUSTERS)
    text = as_text({"layers 4": (12.5, found)})
    told = [line for line in text.splitlines() if line.startswith("BEATEN")]
    # 0.01 lies below 0.0125 by 0.97 dB; of eight releases, 0.002 above all.
    assert len(told) == 1
    assert "layers 4, 1 release: even" in told[0]
    assert "bound van trees by 0.97 dB" in told[0]
    assert "that pictures are Gaussian" in told[0]
    # Nor is the bound of attackers without bias, which others need not heed.
    assert "unbiased by" not in text
    spared = compared([measurement(ERRORS)], [{1: of(0.005), 8: of(0.001)}], CLUSTERS)
    assert "BEATEN" not in as_text({"layers 4": (12.5, spared)})
    wide = ERRORS | {"even": [0.001, 0.001, 0.0235, 0.0235]}
    # The mean, 0.01225, is below 0.0125; with other sources it need not be.
    unsure = compared([measurement(wide)], bounds, CLUSTERS)
    assert "BEATEN" not in as_text({"layers 4": (12.5, unsure)})


def test_rows_without_noise_have_empty_columns():
    found = compared([measurement(ERRORS)], [{1: of(0.005), 8: of(0.001)}], CLUSTERS)
    full = columns(found)
    assert columns([]).keys() == full.keys() == columns(found[:1]).keys()
    assert set(columns([]).values()) == {""}
    assert full["averaged_van_trees_bound_db"] == pytest.approx(30.0)
    assert full["single_attacker"] == "even"
    assert columns(found[:1])["averaged_nats"] == ""
    assert as_text({"layers 4": (1.0, [])}) == ""


def test_every_bound_is_said_what_it_assumes():
    for assumed in mechanism_bounds.ASSUMED.values():
        assert assumed in mechanism_bounds.NOTE
