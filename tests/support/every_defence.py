"""Every defence, with settings that do something."""

from privynet_jax.defences.mechanisms import (
    Arden,
    ChannelDropout,
    GaussianNoise,
    LaplaceNoise,
    Quantisation,
    Undefended,
)

ALL = [
    Undefended(),
    GaussianNoise(0.5, 0.3),
    LaplaceNoise(0.3, 0.2),
    Arden(0.3, 0.2, 0.4),
    ChannelDropout(0.5),
    Quantisation(2),
    Quantisation(2, 4.0, "stochastic"),
]
