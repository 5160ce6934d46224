"""The cloud NN as the cloud runs it: on representations of any side, of images it knows nothing of.

`cloud_training` trains it and `classifier` keeps it.

    network = network_for((16, 16, 24), num_classes=10, width=64)
"""

from privynet_jax.errors import UserError
from privynet_jax.training.models.networks import WORKING_STRIDE, CloudNN, cloud_nn

# A working grid has at least so many positions along a side, where folding allows.
_LEAST_SIDE = 8


def nominal_image_size(side: int) -> int:
    """Returns the `image_size` that makes `models.CloudNN` work on the grid that suits a side.

    The cloud does not know the images' size, which is what the network folds by, but any size that
    leads to a good working grid will do: representations are folded by the largest f of 4, 2, 1
    that leaves at least 8 positions, and smaller ones are unfolded to 8 or as near as the
    network's factors 2 and 4 come. For images of 32 x 32 that is the grid of the
    characterisation, at every layer.

    Args:
        side: height and width of a representation, at least 1.
    """
    for folding in (WORKING_STRIDE, WORKING_STRIDE // 2):
        if side % folding == 0 and side // folding >= _LEAST_SIDE:
            return WORKING_STRIDE * (side // folding)
    for unfolding in (1, 2):
        if side * unfolding >= _LEAST_SIDE:
            return WORKING_STRIDE * side * unfolding
    return WORKING_STRIDE * side * 4


def network_for(shape: tuple[int, ...], num_classes: int, width: int) -> CloudNN:
    """Returns the cloud NN for representations of a shape (h, w, d).

    Raises:
        UserError: they are not square.
    """
    if len(shape) != 3 or shape[0] != shape[1] or min(shape) < 1:
        raise UserError(
            f"representations of {times(shape)} values; allowed are squares, height x height x "
            "channels, as releases of this project hold them"
        )
    return cloud_nn(num_classes, nominal_image_size(shape[0]), width)


def times(shape: tuple[int, ...]) -> str:
    """Returns a shape as a person writes it."""
    return " x ".join(map(str, shape))
