"""3 x 3 convolutions with fewer products: what CPUs are fastest with.

Winograd's F(2 x 2, 3 x 3) (Lavin and Gray, arXiv:1509.09308): output in tiles of 2 x 2 comes from
overlapping tiles of 4 x 4, by 16 products of matrices in place of 36, between sums. Values differ
from those of a direct convolution by a few times its own rounding.

    y = convolve(x, kernel)  # or nn.Conv(..., conv_general_dilated=conv_general_dilated)
    y = apply(x, transformed(kernel))  # where a kernel serves many times
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_HIGHEST = jax.lax.Precision.HIGHEST
_direct = functools.partial(
    jax.lax.conv_general_dilated,
    window_strides=(1, 1),
    padding="SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    precision=_HIGHEST,
)
# Fewer channels make products that are too small to pay for the sums; tiles of more input, four
# times as large, fall out of the caches. Small networks' gradients need several at a time.
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
    even = shape[1] % 2 == shape[2] % 2 == 0
    wide = kernel.shape[:2] == (3, 3) and min(kernel.shape[2:]) >= LEAST_CHANNELS
    return even and wide and size <= _MOST_INPUT and kernel.dtype == jnp.float32


@jax.custom_vjp
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the convolution with zeros around, float32 [N, H, W, D], by what suits the backend.

    Images are float32 [N, H, W, C] of even sides, kernels float32 [3, 3, C, D]. Whatever is not a
    CPU convolves directly.
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
    """Returns the 4 x 4 matrices, [16, C, D], that a kernel [3, 3, C, D] is multiplied by."""
    return _both_axes(_of_kernel, kernel).reshape(16, *kernel.shape[2:])


@jax.custom_vjp
def apply(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns [N, H, W, D] for [N, H, W, C] of even sides and a kernel that was `transformed`.

    Derivatives are backward ones alone.
    """
    products = jnp.matmul(_input_tiles(x), kernel, precision=_HIGHEST)
    blocks = _both_axes(_of_output, products.reshape(4, 4, *products.shape[1:]))
    count, height, width = x.shape[:3]
    # From [row, column, ...] within a block.
    blocks = blocks.reshape(2, 2, count, height // 2, width // 2, -1)
    return blocks.transpose(2, 3, 0, 4, 1, 5).reshape(count, height, width, -1)


def _apply_backward(kept: tuple[jax.Array, jax.Array], y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What `apply` gives back to both: that of x is a convolution, too, by the turned kernel."""
    x, kernel = kept
    # Of a kernel's rows, or columns, in reverse order: G's are, but for its two middle ones.
    turned = kernel.reshape(4, 4, *kernel.shape[1:])[_REVERSED][:, _REVERSED]
    of_x = apply(y, turned.reshape(kernel.shape).swapaxes(1, 2))
    count, height, width, depth = y.shape
    blocks = y.reshape(count, height // 2, 2, width // 2, 2, depth).transpose(2, 4, 0, 1, 3, 5)
    of_products = _both_axes(_of_gradient, blocks).reshape(16, -1, depth)
    return of_x, jnp.einsum("tnc,tnd->tcd", _input_tiles(x), of_products, precision=_HIGHEST)


apply.defvjp(lambda x, kernel: (apply(x, kernel), (x, kernel)), _apply_backward)


def _convolved(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return apply(x, transformed(kernel))


def _gradients(x: jax.Array, kernel: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What `convolve` gives back to both."""
    of_x, found = _apply_backward((x, transformed(kernel)), y)
    return of_x, _both_axes(_of_kernel_gradient, found.reshape(4, 4, *found.shape[1:]))


def _input_tiles(x: jax.Array) -> jax.Array:
    """[16, N * H / 2 * W / 2, C]: overlapping tiles, transformed."""
    height, width, channels = x.shape[1:]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = jnp.stack(_of_input([padded[:, i : i + height - 1 : 2] for i in range(4)]))
    tiles = _of_input([rows[:, :, :, j : j + width - 1 : 2] for j in range(4)])
    return jnp.stack(tiles, axis=1).reshape(16, -1, channels)


def _both_axes(function: Callable[[Sequence[Any]], Sequence[Any]], tile: jax.Array) -> jax.Array:
    """Transforms the first two axes."""
    rows = jnp.stack(function(list(tile)))
    return jnp.stack(function([rows[:, j] for j in range(rows.shape[1])]), axis=1)


_REVERSED = np.array([3, 1, 2, 0])
# The transforms of one axis: B', G and A' of the paper, and their transposes for gradients.


def _of_input(x: Sequence[Any]) -> Sequence[Any]:
    return x[0] - x[2], x[1] + x[2], x[2] - x[1], x[1] - x[3]


def _of_kernel(k: Sequence[Any]) -> Sequence[Any]:
    ends = k[0] + k[2]
    return k[0], 0.5 * (ends + k[1]), 0.5 * (ends - k[1]), k[2]


def _of_output(m: Sequence[Any]) -> Sequence[Any]:
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


def _of_gradient(y: Sequence[Any]) -> Sequence[Any]:
    return y[0], y[0] + y[1], y[0] - y[1], -y[1]


def _of_kernel_gradient(u: Sequence[Any]) -> Sequence[Any]:
    middle = 0.5 * (u[1] + u[2])
    return u[0] + middle, 0.5 * (u[1] - u[2]), middle + u[3]
