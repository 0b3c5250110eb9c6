"""Dense k x k convolutions, on CPUs as matrix products, which XLA runs faster there.

Its own take three times as long for three channels, and twice as long for small maps, where much of
what they multiply is padding (experiments/speed.md).
"""

import itertools

import jax
import jax.numpy as jnp
from jax import lax

from fer_jax.models.lowering import ours_on_cpus
from fer_jax.models.precision import at_least_float32
from fer_jax.models.windows import Padding, Pads, explicit_pads, outputs, seen

FEW_CHANNELS = 16


def conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """[B, H, W, C] filtered by [k, k, C, D] -> [B, H', W', D]; SAME as TensorFlow defines it."""
    return _chosen(x, kernel, stride, explicit_pads(x, kernel, stride, padding))


def _products(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    few = x.shape[3] <= FEW_CHANNELS
    return (_of_windows if few else _of_taps)(x, kernel, stride, pads)


def _of_windows(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """One product: all that each window holds, side by side."""
    sides = outputs(x, kernel, stride, pads)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    for axis in (2, 1):  # columns, then rows: few long pieces instead of many short ones
        every = range(sides[axis - 1])
        taps = [_read(x, axis, tap, stride, every) for tap in range(len(kernel))]
        x = jnp.concatenate(taps, 3)
    return _matmul(x, kernel.reshape(-1, kernel.shape[3])).astype(x.dtype)


def _of_taps(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """A product for each tap, of what it sees of the image, added where its outputs lie."""
    height, width = outputs(x, kernel, stride, pads)
    (top, _), (left, _) = pads
    seen_rows = seen(len(kernel), stride, top, x.shape[1], height)
    seen_columns = seen(len(kernel), stride, left, x.shape[2], width)
    y = jnp.zeros((len(x), height, width, kernel.shape[3]), at_least_float32(x.dtype))
    for (i, rows), (j, columns) in itertools.product(enumerate(seen_rows), enumerate(seen_columns)):
        if rows and columns:
            tap = _read(x, 1, i - top, stride, rows)
            tap = _read(tap, 2, j - left, stride, columns)
            around = (rows.start, height - rows.stop), (columns.start, width - columns.stop)
            y += jnp.pad(_matmul(tap, kernel[i, j]), ((0, 0), *around, (0, 0)))
    return y.astype(x.dtype)


def _read(x: jax.Array, axis: int, offset: int, stride: int, steps: range) -> jax.Array:
    """What the tap at `offset` reads along `axis` for the outputs `steps`."""
    first, last = offset + steps[0] * stride, offset + steps[-1] * stride
    return lax.slice_in_dim(x, first, last + 1, stride, axis)


def _matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., C] times [C, D] -> [..., D], summed and returned in float32 at least."""
    rows = x.reshape(-1, x.shape[-1])
    y = jnp.matmul(rows, kernel, preferred_element_type=at_least_float32(x.dtype))
    return y.reshape(*x.shape[:-1], -1)


_chosen = ours_on_cpus(_products)
