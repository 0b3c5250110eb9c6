"""The 1x1 convolution as a matrix product, with a gradient that transposes the narrower side."""

import jax
from jax import lax


@jax.custom_vjp
def pointwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., C] times [C, D] -> [..., D]."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[1])


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return pointwise_conv(x, kernel), (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    rows_x, rows_g = x.reshape(-1, kernel.shape[0]), g.reshape(-1, kernel.shape[1])
    contract = (((0,), (0,)), ((), ()))
    # XLA's CPU backend writes out the left operand transposed: let it be the narrower one.
    if kernel.shape[0] <= kernel.shape[1]:
        d_kernel = lax.dot_general(rows_x, rows_g, contract)
    else:
        d_kernel = lax.dot_general(rows_g, rows_x, contract).T
    return (rows_g @ kernel.T).reshape(x.shape), d_kernel


pointwise_conv.defvjp(_forward, _backward)
