"""Whether a VGG16's first kernels are those that its authors published, and what they expect.

Files with the same names hold numbers of different origin: torchvision's own VGG16 wants normalised
RGB, its `IMAGENET1K_FEATURES` and other conversions from Caffe want 0 to 255 minus a mean, in RGB
or in BGR. No shape tells them apart, and a wrong transform is no error, only another network. Three
kernels, compared in every order of colours and every direction, tell. NumPy only.

    found = published_kernels(params["conv1_1"]["kernel"])
    found.order  # (0, 1, 2): they expect RGB
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from privynet_jax.backbone.weights.families import FEATURES_INPUT, KERAS_INPUT

# Of VGG16's first convolution, as Keras has it: three of its filters, which differ by colour and
# direction as no others do, [filter, height, width, colour], colours BGR, to three digits.
_FILTERS = (38, 52, 55)
_KERNELS = np.array(
    [
        [[0.171, 0.294, 0.131], [0.217, 0.329, 0.155], [0.056, 0.150, -0.001]],
        [[0.016, 0.101, -0.063], [0.004, 0.074, -0.099], [-0.084, -0.031, -0.183]],
        [[-0.089, -0.037, -0.170], [-0.129, -0.096, -0.236], [-0.134, -0.111, -0.235]],
        [[0.053, -0.074, 0.127], [0.025, -0.078, 0.169], [0.088, 0.015, 0.238]],
        [[-0.080, -0.233, -0.001], [-0.150, -0.278, 0.001], [0.041, -0.046, 0.205]],
        [[0.002, -0.157, 0.036], [-0.047, -0.183, 0.054], [0.056, -0.043, 0.170]],
        [[-0.118, -0.074, -0.238], [-0.047, 0.021, -0.175], [0.056, 0.153, -0.042]],
        [[-0.099, -0.043, -0.228], [0.014, 0.095, -0.122], [0.143, 0.254, 0.035]],
        [[-0.035, 0.042, -0.134], [0.051, 0.150, -0.057], [0.123, 0.246, 0.040]],
    ]
).reshape(3, 3, 3, 3)
# Cosine from which on kernels are the published ones, perhaps trained a little further. In a wrong
# order these reach 0.83, and any other three filters of the same network in their best one 0.85.
_ALIKE = 0.95


class Published(NamedTuple):
    """How kernels resemble the published ones.

    Attributes:
        order: indices into RGB, of the colours that the kernels' inputs are.
        is_turned: whether they are mirrored, upside down or transposed.
        factor: how many times as large they are.
    """

    order: tuple[int, ...]
    is_turned: bool
    factor: float

    def input(self) -> dict[str, np.ndarray]:
        """Returns the transform of Caffe's numbers: from 0 to 255, minus each colour's mean."""
        known = FEATURES_INPUT if self.order == (0, 1, 2) else KERAS_INPUT
        places = [list(known["channel_order"]).index(colour) for colour in self.order]
        order = np.asarray(self.order, np.int32)
        return {"channel_order": order, "scale": known["scale"], "shift": known["shift"][places]}

    def is_given_its_input(self, transform: Mapping[str, np.ndarray]) -> bool:
        """Whether a transform gives them the colours in their order, from 0 to 255."""
        is_ordered = tuple(transform["channel_order"]) == self.order
        return is_ordered and bool((transform["scale"] == 255).all())


def published_kernels(kernel: np.ndarray) -> Published | None:
    """Returns what conv1_1's kernels HWIO [3, 3, 3, O] are; None if they are of another origin."""
    if kernel.shape[-1] <= max(_FILTERS):
        return None
    ours = np.float64(kernel[..., _FILTERS]).transpose(3, 0, 1, 2)
    size = np.linalg.norm(ours) / np.linalg.norm(_KERNELS)
    for places in itertools.permutations(range(3)):
        for *turned, transposed in itertools.product((1, -1), (1, -1), (False, True)):
            axes = (0, 2, 1, 3) if transposed else (0, 1, 2, 3)
            seen = ours[:, :: turned[0], :: turned[1]].transpose(axes)[..., places]
            if np.vdot(seen, _KERNELS) >= _ALIKE * size * np.vdot(_KERNELS, _KERNELS) > 0:
                # Of the published BGR, the first, blue, is where `places` begins.
                order = tuple(2 - places.index(place) for place in range(3))
                return Published(order, turned != [1, 1] or transposed, float(size))
    return None
