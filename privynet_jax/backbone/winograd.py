"""3 x 3 convolutions with fewer products: what CPUs are fastest with.

Winograd's F(4 x 4, 3 x 3) (Lavin and Gray, arXiv:1509.09308): output in tiles of 4 x 4 comes from
overlapping tiles of 6 x 6, by 36 products of matrices in place of 144, between sums. The points of
its polynomials are 0, 2, -2, 1/2, -1/2 and infinity: values are rounded less than with 1 and -1 in
place of two of them, and reversing a kernel only reorders its matrices. They differ from those of a
direct convolution by up to five times its own rounding.

    y = convolve(x, kernel)  # or nn.Conv(..., conv_general_dilated=conv_general_dilated)
    y = apply(x, transformed(kernel))  # where a kernel serves many times
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

_HIGHEST = jax.lax.Precision.HIGHEST
_direct = functools.partial(
    jax.lax.conv_general_dilated,
    window_strides=(1, 1),
    padding="SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    precision=_HIGHEST,
)
_TILE, _SEEN = 4, 6  # sides of a tile of output, and of the input that it sees
# Fewer channels make products that are too small to pay for the sums; tiles of more input fall out
# of the caches (sought with tiles of 2 x 2, which are larger). Small networks' gradients need
# several at a time.
LEAST_CHANNELS, _MOST_INPUT, _AT_ONCE = 32, 2**21, 8


def conv_general_dilated(
    x: jax.Array, kernel: jax.Array, window_strides: Sequence[int], padding: Any, **more: Any
) -> jax.Array:
    """Takes the place of `jax.lax.conv_general_dilated` in `flax.linen.Conv`.

    By `convolve` where that can and pays, and in any other case as it would be.
    """
    dilations = (more.get("lhs_dilation") or (), more.get("rhs_dilation") or ())
    steps = {*window_strides, *dilations[0], *dilations[1]}
    is_plain = padding == "SAME" and steps == {1} and kernel.shape[2] == x.shape[-1]
    if is_plain and suits(_AT_ONCE * x.size, x.shape, kernel):
        return convolve(x, kernel)
    return jax.lax.conv_general_dilated(x, kernel, window_strides, padding, **more)


def suits(size: int, shape: Sequence[int], kernel: jax.Array) -> bool:
    """Whether tiles suit a convolution of stride 1, with zeros around, of so much input."""
    # At most half as many products, what sticks out of the image included.
    fewer = 2 * _SEEN**2 * math.prod(map(_tiles, shape[1:3])) <= 9 * math.prod(shape[1:3])
    wide = kernel.shape[:2] == (3, 3) and min(kernel.shape[2:]) >= LEAST_CHANNELS
    return fewer and wide and size <= _MOST_INPUT and kernel.dtype == jnp.float32


def _tiles(side: int) -> int:
    return -(-side // _TILE)


@jax.custom_vjp
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the convolution with zeros around, float32 [N, H, W, D], by what suits the backend.

    Images are float32 [N, H, W, C], kernels float32 [3, 3, C, D]. Whatever is not a CPU convolves
    directly.
    """
    return jax.lax.platform_dependent(x, kernel, cpu=_convolved, default=_direct)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve(x, kernel), (x, kernel)


def _backward(kept: tuple[jax.Array, jax.Array], y: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.lax.platform_dependent(*kept, y, cpu=_gradients, default=_direct_gradients)


convolve.defvjp(_forward, _backward)


def _direct_gradients(x: jax.Array, kernel: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    [of_x] = jax.linear_transpose(lambda x: _direct(x, kernel), x)(y)
    [of_kernel] = jax.linear_transpose(lambda kernel: _direct(x, kernel), kernel)(y)
    return of_x, of_kernel


def transformed(kernel: jax.Array) -> jax.Array:
    """Returns the 6 x 6 matrices, [36, C, D], that a kernel [3, 3, C, D] is multiplied by."""
    return _both_axes(_of_kernel, kernel).reshape(_SEEN**2, *kernel.shape[2:])


@jax.custom_vjp
def apply(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns [N, H, W, D] for [N, H, W, C] and a kernel that was `transformed`.

    Derivatives are backward ones alone.
    """
    return _multiplied(x, kernel, range(_SEEN))


def _multiplied(x: jax.Array, kernel: jax.Array, order: Sequence[int]) -> jax.Array:
    """By matrices of a kernel that lie in another order, along either side."""
    products = jnp.matmul(_input_tiles(x, order), kernel, precision=_HIGHEST)
    blocks = products.reshape(_SEEN, _SEEN, *products.shape[1:])
    blocks = _both_axes(lambda m: _of_output([m[i] for i in order]), blocks)
    count, height, width = x.shape[:3]
    rows, columns = map(_tiles, (height, width))
    # From [row, column, ...] within a block.
    whole = blocks.reshape(_TILE, _TILE, count, rows, columns, -1).transpose(2, 3, 0, 4, 1, 5)
    return whole.reshape(count, _TILE * rows, _TILE * columns, -1)[:, :height, :width]


def _apply_backward(kept: tuple[jax.Array, jax.Array], y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What `apply` gives back to both: that of x is a convolution, too, by the turned kernel."""
    x, kernel = kept
    of_x = _multiplied(y, kernel.swapaxes(1, 2), _REVERSED)
    count, height, width, depth = y.shape
    rows, columns = map(_tiles, (height, width))
    missing = [(0, 0), (0, _TILE * rows - height), (0, _TILE * columns - width), (0, 0)]
    blocks = jnp.pad(y, missing).reshape(count, rows, _TILE, columns, _TILE, depth)
    of_products = _both_axes(_of_gradient, blocks.transpose(2, 4, 0, 1, 3, 5))
    of_products = of_products.reshape(_SEEN**2, -1, depth)
    return of_x, jnp.einsum("tnc,tnd->tcd", _input_tiles(x), of_products, precision=_HIGHEST)


apply.defvjp(lambda x, kernel: (apply(x, kernel), (x, kernel)), _apply_backward)


def _convolved(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return apply(x, transformed(kernel))


def _gradients(x: jax.Array, kernel: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What `convolve` gives back to both."""
    of_x, found = _apply_backward((x, transformed(kernel)), y)
    found = found.reshape(_SEEN, _SEEN, *found.shape[1:])
    return of_x, _both_axes(_of_kernel_gradient, found)


def _input_tiles(x: jax.Array, order: Sequence[int] = range(_SEEN)) -> jax.Array:
    """[36, N * rows of tiles * columns of them, C]: overlapping tiles, transformed, in an order."""
    sides = [_TILE * _tiles(side) for side in x.shape[1:3]]
    around = [(1, whole + 1 - side) for whole, side in zip(sides, x.shape[1:3], strict=True)]
    padded = jnp.pad(x, ((0, 0), *around, (0, 0)))
    rows = [padded[:, i : i + sides[0] : _TILE] for i in range(_SEEN)]
    transformed_rows = _of_input(rows)
    rows = jnp.stack([transformed_rows[i] for i in order])
    tiles = _of_input([rows[:, :, :, j : j + sides[1] : _TILE] for j in range(_SEEN)])
    tiles = jnp.stack([tiles[i] for i in order], axis=1)
    return tiles.reshape(_SEEN**2, -1, x.shape[-1])


def _both_axes(function: Callable[[Sequence[Any]], Sequence[Any]], tile: jax.Array) -> jax.Array:
    """Transforms the first two axes."""
    rows = jnp.stack(function(list(tile)))
    return jnp.stack(function([rows[:, j] for j in range(rows.shape[1])]), axis=1)


# The transforms of one axis: B', G and A' of the paper, and their transposes for gradients. Rows
# are those of the points 0, 2, -2, 1/2, -1/2 and infinity.
_REVERSED = (5, 3, 4, 1, 2, 0)


def _of_input(x: Sequence[Any]) -> Sequence[Any]:
    whole = 4 * x[4] - x[2], 2 * (4 * x[3] - x[1])
    half = 4 * x[1] - x[3], 2 * (4 * x[2] - x[4])
    ends = x[0] - 4.25 * x[2] + x[4], x[1] - 4.25 * x[3] + x[5]
    return (
        *(ends[0], whole[0] + whole[1], whole[0] - whole[1]),
        *(half[1] + half[0], half[1] - half[0], ends[1]),
    )


def _of_kernel(k: Sequence[Any]) -> Sequence[Any]:
    whole, half, middle = (k[0] + 4 * k[2]) / 120, (4 * k[0] + k[2]) / 120, k[1] / 60
    return k[0], whole + middle, whole - middle, half + middle, half - middle, k[2]


def _of_output(m: Sequence[Any]) -> Sequence[Any]:
    whole, half = (m[1] + m[2], m[1] - m[2]), (m[3] + m[4], m[3] - m[4])
    return (
        *(m[0] + whole[0] + 8 * half[0], 2 * whole[1] + 4 * half[1]),
        *(4 * whole[0] + 2 * half[0], 8 * whole[1] + half[1] + m[5]),
    )


def _of_gradient(y: Sequence[Any]) -> Sequence[Any]:
    whole, half = (y[0] + 4 * y[2], 2 * y[1] + 8 * y[3]), (8 * y[0] + 2 * y[2], 4 * y[1] + y[3])
    return (
        *(y[0], whole[0] + whole[1], whole[0] - whole[1]),
        *(half[0] + half[1], half[0] - half[1], y[3]),
    )


def _of_kernel_gradient(u: Sequence[Any]) -> Sequence[Any]:
    whole, half = (u[1] + u[2]) / 120, (u[3] + u[4]) / 120
    middle = (u[1] - u[2] + u[3] - u[4]) / 60
    return u[0] + whole + 4 * half, middle, 4 * whole + half + u[5]
