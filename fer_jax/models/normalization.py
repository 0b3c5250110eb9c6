"""Batch normalisation as a function, with swish folded in."""

import jax
import jax.numpy as jnp


def normalize(x, mean, var, scale, bias, epsilon, swish):
    """[..., C] by given statistics [C]."""
    factor = scale * jax.lax.rsqrt(var + epsilon)
    y = x.astype(jnp.float32) * factor + (bias - mean * factor)
    return (jax.nn.swish(y) if swish else y).astype(x.dtype)


def batch_norm(x, scale, bias, epsilon, swish):
    """[..., C] by its own statistics -> (y, mean [C], biased variance [C])."""
    axes = tuple(range(x.ndim - 1))
    xf = x.astype(jnp.float32)
    mean = jnp.mean(xf, axes)
    var = jnp.mean(jnp.square(xf), axes) - jnp.square(mean)
    return normalize(x, mean, var, scale, bias, epsilon, swish), mean, var
