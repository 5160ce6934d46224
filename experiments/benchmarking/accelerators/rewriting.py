"""Functions whose matrix products and convolutions are computed in another way.

A function is traced, and its equations are applied anew, some by a rule in their place. So networks
and attacks need no switches for what only a benchmark asks.

    predict = rewritten(network.apply, in_precision("default"))
    predict = rewritten(network.apply, {"conv_general_dilated": by_products})
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.extend.core import Literal

PRODUCT, CONVOLUTION = "dot_general", "conv_general_dilated"
# (primitive, its parameters, arrays) -> one array
Rule = Callable[..., jax.Array]
HIGHEST = jax.lax.Precision.HIGHEST


def rewritten(function: Callable[..., Any], rules: Mapping[str, Rule]) -> Callable[..., Any]:
    """Returns the same function of arrays, with a rule in place of each primitive named."""

    def changed(*arguments: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        found = _evaluated(rules, closed, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), found)

    return changed


def in_precision(name: str) -> Mapping[str, Rule]:
    """Returns rules that multiply float32 in a precision: highest, high or default."""
    precision = jax.lax.Precision(name)

    def bind(primitive: Any, params: dict[str, Any], *arrays: jax.Array) -> jax.Array:
        return primitive.bind(*arrays, **{**params, "precision": (precision, precision)})

    return {PRODUCT: bind, CONVOLUTION: bind}


def by_products(_: Any, params: dict[str, Any], x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution as one matrix product per tap: batched ones, where members have a kernel each.

    Images are NHWC and kernels HWIO, as Flax has them.
    """
    strides, padding = params["window_strides"], params["padding"]
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = (
        (side - taps) // stride + 1
        for side, taps, stride in zip(padded.shape[1:3], kernel.shape[:2], strides, strict=True)
    )
    total = 0.0
    for row, column in np.ndindex(*kernel.shape[:2]):
        rows = slice(row, row + (height - 1) * strides[0] + 1, strides[0])
        columns = slice(column, column + (width - 1) * strides[1] + 1, strides[1])
        seen = padded[:, rows, columns]
        total += jnp.matmul(seen, kernel[row, column], precision=HIGHEST)
    return total


def by_blocks(primitive: Any, params: dict[str, Any], x: jax.Array, k: jax.Array) -> jax.Array:
    """A convolution that becomes one with a block-diagonal kernel, where members have one each.

    It multiplies as many times more as there are members, most of it by zero.
    """
    plain = functools.partial(primitive.bind, **params)
    return _blocks(plain)(x, k)


def _blocks(plain: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def of_all(x: jax.Array, kernels: jax.Array) -> jax.Array:
        """[members, N, h, w, C] and [members, kh, kw, C, D] -> [members, N, h', w', D]."""
        members, channels = len(x), kernels.shape[-1]
        side_by_side = jnp.moveaxis(x, 0, 3).reshape(*x.shape[1:4], -1)
        blocks = jnp.einsum("mhwio,mn->hwmino", kernels, jnp.eye(members, dtype=kernels.dtype))
        blocks = blocks.reshape(*kernels.shape[1:3], members * kernels.shape[3], -1)
        found = plain(side_by_side, blocks)
        return jnp.moveaxis(found.reshape(*found.shape[:3], members, channels), 3, 0)

    def transposed(function: Callable[..., jax.Array]) -> Callable[..., Any]:
        """Of what is linear in images and in kernels: how both pull outputs' gradients back."""

        def both(x: jax.Array, kernel: jax.Array, y: jax.Array) -> tuple[jax.Array, ...]:
            [of_x] = jax.linear_transpose(lambda x: function(x, kernel), x)(y)
            [of_kernel] = jax.linear_transpose(lambda kernel: function(x, kernel), kernel)(y)
            return of_x, of_kernel

        return both

    def batched(function: Callable[..., Any], all_members: Callable[..., Any]) -> Any:
        mapped = custom_vmap(function)

        @mapped.def_vmap
        def rule(size: int, is_mapped: Sequence[bool], *arrays: jax.Array) -> Any:
            filled = [
                array if own else jnp.broadcast_to(array, (size, *array.shape))
                for array, own in zip(arrays, is_mapped, strict=True)
            ]
            found = all_members(*filled)
            return found, jax.tree.map(lambda _: True, found)

        return mapped

    forward = batched(plain, of_all)
    backward = batched(transposed(plain), transposed(of_all))
    convolution = jax.custom_vjp(forward)
    convolution.defvjp(lambda x, k: (forward(x, k), (x, k)), lambda kept, y: backward(*kept, y))
    return convolution


def _evaluated(rules: Mapping[str, Rule], closed: Any, arrays: Sequence[Any]) -> list[Any]:
    """Applies a closed jaxpr's equations in turn, to arrays or tracers."""
    jaxpr, known = closed.jaxpr, {}
    known |= dict(zip(jaxpr.constvars, closed.consts, strict=True))
    known |= dict(zip(jaxpr.invars, arrays, strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        inputs, name = list(map(value, equation.invars)), equation.primitive.name
        # Of a product with its own gradient the function alone is taken: it has the usual one.
        inner = equation.params.get("call_jaxpr") if name.startswith("custom_vjp") else None
        inner = equation.params["jaxpr"] if name in ("jit", "pjit") else inner
        if equation.params.get("branches_platforms"):  # the last is for any other than a CPU
            inner, inputs = equation.params["branches"][-1], inputs[1:]
        if name in rules:
            found = [rules[name](equation.primitive, equation.params, *inputs)]
        elif inner is not None:
            found = _evaluated(rules, inner, inputs)
        else:
            bound = equation.primitive.get_bind_params(equation.params)
            # Earlier versions of JAX hand over inner functions apart.
            functions, params = bound if isinstance(bound, tuple) else ((), bound)
            found = equation.primitive.bind(*functions, *inputs, **params)
            found = found if equation.primitive.multiple_results else [found]
        known |= dict(zip(equation.outvars, found, strict=True))
    return list(map(value, jaxpr.outvars))
