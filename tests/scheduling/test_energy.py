"""The energy model, by hand from the published figures."""

import math

import pytest

from privynet_jax.errors import UserError
from privynet_jax.scheduling.energy import PJ_PER_MAC, RADIOS, EnergyModel, Radio


def test_figures_by_hand():
    model = EnergyModel(RADIOS["lte"])
    assert math.isclose(PJ_PER_MAC, 14.6)
    # 100 million at 14.6 pJ are 1.46 mJ; a million bytes at 160 pJ, 0.16 mJ.
    assert math.isclose(model.local_mj(100e6, 1e6), 1.62)
    # 2 Mbit in half a second: 4 Mbit/s draw 438.39 * 4 + 1288.04 = 3041.6 mW, for 0.5 s.
    assert math.isclose(model.radio_mj(2.0, 0.5), 1520.8)
    assert EnergyModel(Radio(0, 0)).radio_mj(2.0, 0.5) == 0


def test_it_is_told_with_its_figures():
    told = EnergyModel(RADIOS["wifi"], pj_per_mac=20).told()
    assert "modelled, not measured: 20 pJ" in told
    assert "283.17 mW per Mbit/s and 132.86 mW" in told


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_figures_out_of_range(wrong):
    for figures in ({"pj_per_mac": wrong}, {"pj_per_weight_byte": wrong}):
        with pytest.raises(UserError, match=f"--{next(iter(figures))} is {wrong}; allowed"):
            EnergyModel(RADIOS["lte"], **figures)
    with pytest.raises(UserError, match=f"--base_mw is {wrong}; allowed"):
        EnergyModel(Radio(1.0, wrong))
