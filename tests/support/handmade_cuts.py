"""Cuts, traces and an energy model in round numbers, for tests of what is chosen among them."""

import numpy as np

from privynet_jax.scheduling.device_profile import CutProfile
from privynet_jax.scheduling.energy import EnergyModel, Radio
from privynet_jax.scheduling.traces import Trace

# 10 mJ per Mbit, and 100 mJ per second of sending.
MODEL = EnergyModel(Radio(10.0, 100.0))


def cut(num_layers=2, local_s=0.1, local_mj=1.0, mbit=1.0, accuracy=0.5):
    """A cut of 8 channels."""
    return CutProfile(num_layers, 8, local_s, local_mj, mbit, accuracy, loss_db=20.0)


def shallow_and_deep():
    """One that is quick and sends much, and one that takes its time and sends little."""
    return [cut(2, 0.1, 1.0, mbit=1.0, accuracy=0.7), cut(7, 0.4, 5.0, mbit=0.1, accuracy=0.5)]


def trace(mbit_per_s, slowdown=None):
    """One row a second; the last one ends it."""
    values = np.array(mbit_per_s, float)
    slowed = np.ones(len(values)) if slowdown is None else np.array(slowdown, float)
    return Trace("handmade", np.arange(len(values) * 1.0), values, slowed)
