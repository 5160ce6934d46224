"""How large the grid is that networks work on, by the representations' side alone.

    nominal_image_size(16)  # 32: what `networks.CloudNN` is given for representations of 16 x 16
    folding_of(16)  # (2, 1): positions joined, and made of one, along each side

The cloud does not know the images' size. No JAX here.
"""

from privynet_jax.errors import UserError

# Pixels of the image per position of the working grid, along each side.
WORKING_STRIDE = 4
# A working grid has at least so many positions along a side, where folding allows.
_LEAST_SIDE = 8


def nominal_image_size(side: int) -> int:
    """Returns the `image_size` that makes `CloudNN` work on the grid that suits a side.

    The cloud does not know the images' size, which is what the network folds by, but any size that
    leads to a good working grid will do: representations are folded by the largest f of 4, 2, 1
    that leaves at least 8 positions, and smaller ones are unfolded to 8 or as near as the
    network's factors 2 and 4 come. For images of 32 x 32 that is the grid of the
    characterisation, at every layer.
    """
    for folding in (WORKING_STRIDE, WORKING_STRIDE // 2):
        if side % folding == 0 and side // folding >= _LEAST_SIDE:
            return WORKING_STRIDE * (side // folding)
    unfolding = next((factor for factor in (1, 2) if side * factor >= _LEAST_SIDE), 4)
    return WORKING_STRIDE * side * unfolding


def check_is_square(shape: tuple[int, ...]) -> None:
    """Raises UserError unless representations of a shape (h, w, d) are squares."""
    if len(shape) != 3 or shape[0] != shape[1] or min(shape) < 1:
        raise UserError(
            f"representations of {' x '.join(map(str, shape))} values; allowed are squares, height "
            "x height x channels, as releases of this project hold them"
        )


def folding_of(
    side: int, image_size: int | None = None, working_stride: int = WORKING_STRIDE
) -> tuple[int, int]:
    """Returns (folding, unfolding) along each side; the image's is nominal where it is unknown."""
    stride = (image_size or nominal_image_size(side)) // side
    return max(1, working_stride // stride), max(1, stride // working_stride)
