"""Every mechanism that splits, with settings that do something."""

from privynet_jax.mechanisms.mechanism import Plain
from privynet_jax.mechanisms.noises import (
    Arden,
    ChannelDropout,
    GaussianNoise,
    LaplaceNoise,
    NoisilyTrainedArden,
    Quantisation,
)

ALL = [
    Plain(),
    GaussianNoise(0.5, 0.3),
    LaplaceNoise(0.3, 0.2),
    Arden(0.3, 0.2, 0.4),
    NoisilyTrainedArden(0.3, 0.2, 0.4),
    ChannelDropout(0.5),
    Quantisation(2),
    Quantisation(2, 4.0, "stochastic"),
]
