"""What becomes of pictures, worked by hand."""

import numpy as np
import pytest
from support.handmade_cuts import MODEL, cut, shallow_and_deep, trace

from privynet_jax.errors import UserError
from privynet_jax.scheduling.simulation import Demand, simulate

# 0.5 s are left for device and upload.
DEMAND = Demand(every_s=1.0, deadline_s=0.6, round_trip_s=0.07, cloud_s=0.03)


def test_three_seconds_by_hand():
    # Fast; slow; fast, on a device that takes twice as long. The last row ends the trace.
    found = simulate(trace([10, 2, 10, 10], [1, 1, 2, 2]), shallow_and_deep(), DEMAND, MODEL)
    assert found.arrivals.tolist() == [0, 1, 2, 3]
    assert found.in_time[:3].tolist() == [[True, True], [False, True], [True, False]]
    assert found.meetable.all()
    expected = [
        # 1 Mbit in 0.1 s after 1 mJ; 0.1 Mbit in 0.01 s after 5 mJ.
        [1 + 10 + 10, 5 + 1 + 1],
        # From 0.1 to 0.5 s, 0.8 of 1 Mbit; 0.1 Mbit in 0.05 s.
        [1 + 8 + 40, 5 + 1 + 5],
        # Ready after 0.2 s, and sent in 0.1; after 0.5 of 0.8 s given up.
        [1 + 10 + 10, 5 * 0.5 / 0.8],
    ]
    assert np.allclose(found.energy_mj[:3], expected)
    assert np.allclose(found.slowdown[:3], [[1, 1], [1, 1], [2, 2]])
    assert np.allclose(found.mbit_per_s[:3], [[10, 10], [2, 2], [10, np.nan]], equal_nan=True)


def test_conditions_change_while_a_picture_is_under_way():
    # Nothing is sent before second 1; then 2 Mbit/s. The device is slow until second 1.
    slow = Demand(every_s=4.0, deadline_s=4.0)
    found = simulate(trace([0, 2, 2], [2, 1, 1]), [cut(local_s=0.3, mbit=1.0)], slow, MODEL)
    # Ready at 0.6, sent from 1 to 1.5, when there is a connection.
    assert found.in_time.tolist() == [[True]]
    assert np.allclose(found.energy_mj, 1 + 10 + 100 * 0.5)
    assert np.allclose(found.mbit_per_s, 1 / 0.9)
    # Of 0.9 s of work half a second is done by second 1, the rest takes 0.4 s.
    found = simulate(trace([0, 2, 2], [2, 1, 1]), [cut(local_s=0.9, mbit=1.0)], slow, MODEL)
    assert np.allclose(found.slowdown, 1.4 / 0.9)
    assert np.allclose(found.energy_mj, 1 + 10 + 100 * 0.5)


def test_without_bandwidth_nothing_arrives():
    found = simulate(trace([0, 0]), [cut()], DEMAND, MODEL)
    assert not found.in_time.any()
    assert np.allclose(found.energy_mj, 1)  # of the layers on the device
    assert (found.mbit_per_s == 0).all()


def test_a_deadline_that_is_met_to_the_bit():
    # 0.1 s on the device, and 0.4 s for 1 Mbit, at any time of the trace.
    found = simulate(trace([2.5] * 5000), [cut(), cut(mbit=1.0001)], DEMAND, MODEL)
    assert found.in_time[:, 0].all()
    assert not found.in_time[:, 1].any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"every_s": 0.5}, "pictures would wait for one another"),
        ({"deadline_s": 0.1}, "nothing is left for the device"),
        ({"deadline_s": -1.0}, "--deadline_ms is -1000, .* allowed are 0 and more"),
        ({"cloud_s": np.nan}, "allowed are 0 and more"),
    ],
)
def test_demands_that_make_no_sense(given, message):
    usual = {"every_s": 1.0, "deadline_s": 0.6, "round_trip_s": 0.07, "cloud_s": 0.03}
    with pytest.raises(UserError, match=message):
        Demand(**usual | given)


def test_too_many_pictures():
    often = Demand(every_s=1e-5, deadline_s=1e-5)
    with pytest.raises(UserError, match="give a larger --every_ms"):
        simulate(trace([1] * 20), [cut()], often, MODEL)
