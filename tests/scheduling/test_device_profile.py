"""What a cut takes of a device, by hand."""

import math

from support.handmade_options import option

from privynet_jax.scheduling.device_profile import profile_of
from privynet_jax.scheduling.energy import EnergyModel, Radio

MODEL = EnergyModel(Radio(100.0, 50.0), pj_per_mac=10.0, pj_per_weight_byte=100.0)


def test_a_cut_by_hand():
    cut = profile_of(option(2, 8, 0.6, 24.0), 4.0, MODEL, image_size=32)
    assert cut.name == "2:8"
    assert cut.local_s == 0.004
    # 32 x 32 pixels of 8 float32.
    assert math.isclose(cut.mbit, 32 * 32 * 8 * 32 / 1e6)
    # Of 9 * 3 * 64 and 9 * 64 * 8 weights, and 72 biases; all but these at each pixel.
    weights = 9 * 3 * 64 + 9 * 64 * 8
    assert math.isclose(cut.local_mj, 1e-9 * (10 * 1024 * weights + 100 * 4 * (weights + 72)))
    assert (cut.accuracy, cut.loss_db) == (0.6, 24.0)


def test_bytes_are_a_quarter():
    floats, packed = (
        profile_of(option(4, 8), 4.0, MODEL, 32, dtype=dtype) for dtype in ("float32", "uint8")
    )
    assert math.isclose(floats.mbit, 16 * 16 * 8 * 32 / 1e6)
    assert packed.mbit == floats.mbit / 4
