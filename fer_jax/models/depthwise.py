"""Depthwise convolution with custom gradients, its implementation chosen per platform.

XLA's CPU backend runs grouped convolutions an order of magnitude slower than a sum of shifted
slices; accelerators have a depthwise convolution of their own.
"""

import functools
import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fer_jax.models.lowering import ours_on_cpus
from fer_jax.models.precision import at_least_float32
from fer_jax.models.windows import Padding, Pads, explicit_pads, seen

Shape = tuple[int, ...]

BLOCK_IMAGES, BLOCK_POSITIONS = 4, 36  # measured: experiments/speed.md


def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """[B, H, W, C] filtered by [k, k, 1, C] -> [B, H', W', C]; SAME as TensorFlow defines it."""
    return _chosen(x, kernel, stride, explicit_pads(x, kernel, stride, padding))


def _shifted(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Sum over the k * k taps of a shifted slice times the tap's weights."""
    k, exact = kernel.shape[0], at_least_float32(x.dtype)
    # The barrier lets XLA compute a swish while padding; else it writes out its tanh before.
    x, kernel = lax.optimization_barrier(_padded_groups(x, pads)), kernel.astype(exact)
    size = ((x.shape[2] - k) // stride + 1, (x.shape[3] - k) // stride + 1)
    # Row by row: a chain of k * k sums, each waiting for the one before, would be slower.
    rows = (
        [_window(x, i, j, size, stride).astype(exact) * kernel[i, j, 0] for j in range(k)]
        for i in range(k)
    )
    y = _sum(map(_sum, rows)).astype(x.dtype)
    return y.reshape(-1, *y.shape[2:])


def _sum(parts: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, parts)


def _shifted_gradients(
    x: jax.Array, kernel: jax.Array, g: jax.Array, stride: int, pads: Pads
) -> tuple[jax.Array, jax.Array]:
    return _input_gradient(g, kernel, x.shape, stride, pads), _kernel_gradient(
        x, g, kernel, stride, pads
    )


def _input_gradient(
    g: jax.Array, kernel: jax.Array, shape: Shape, stride: int, pads: Pads
) -> jax.Array:
    """The dilated output gradient filtered by the flipped kernel: -> [B, H, W, C] = `shape`."""
    k = kernel.shape[0]
    edges = [
        (k - 1 - low, size + low - ((steps - 1) * stride + 1), stride - 1)
        for (low, _), size, steps in zip(pads, shape[1:3], g.shape[1:3], strict=True)
    ]
    zero = jnp.zeros((), g.dtype)
    g = lax.pad(g, zero, ((0, 0, 0), edges[0], edges[1], (0, 0, 0)))
    return _shifted(g, kernel[::-1, ::-1], 1, ((0, 0), (0, 0)))


def _kernel_gradient(
    x: jax.Array, g: jax.Array, kernel: jax.Array, stride: int, pads: Pads
) -> jax.Array:
    """Each tap's products of window and output gradient, block by block: -> [k, k, 1, C].

    A block, a few rows of a few images, stays in a core's cache while all taps read it.
    """
    k, exact, sides = kernel.shape[0], at_least_float32(x.dtype), x.shape[1:3]
    x, g = _padded_groups(x, pads), _groups(g)
    images, groups, height, width, channels = g.shape
    rows = _block_rows(height, width)
    strips, strip = height // rows, (rows - 1) * stride + k
    everywhere = [range(rows)] * k  # which rows of a strip see padding depends on the strip
    seen_rows = everywhere if strips > 1 else seen(k, stride, pads[0][0], sides[0], rows)
    seen_columns = seen(k, stride, pads[1][0], sides[1], width)

    def add_block(block: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        image, row = block // strips, block % strips * rows
        xb = _block(x, image, row * stride, strip).astype(exact)
        gb = _block(g, image, row, rows).astype(exact)
        return [
            total + _products(xb, gb, i, j, stride, seen_rows[i], seen_columns[j])
            for (i, j), total in zip(np.ndindex(k, k), sums, strict=True)
        ]

    start = [jnp.zeros((images, channels), exact)] * (k * k)
    sums = lax.fori_loop(0, strips * groups, add_block, start)
    total = jnp.stack([jnp.sum(tap, 0) for tap in sums])
    return total.reshape(kernel.shape).astype(kernel.dtype)


def _block_rows(height: int, width: int) -> int:
    """The largest divisor of `height` whose rows hold at most BLOCK_POSITIONS, or 1."""
    rows = [n for n in range(1, height + 1) if height % n == 0 and n * width <= BLOCK_POSITIONS]
    return max(rows, default=1)


def _block(x: jax.Array, image: jax.Array, row: jax.Array, rows: int) -> jax.Array:
    """`rows` rows of every `image`-th image: [n, B / n, H, W, C] -> [n, rows, W, C]."""
    n, _, _, width, channels = x.shape
    return lax.dynamic_slice(x, (0, image, row, 0, 0), (n, 1, rows, width, channels))[:, 0]


def _products(
    x: jax.Array, g: jax.Array, i: int, j: int, stride: int, rows: range, columns: range
) -> jax.Array | int:
    """Tap (i, j)'s products summed over `rows` and `columns` of a block: -> [n, C].

    `x` is [n, R, W, C], `g` [n, r, w, C].
    """
    return sum(
        x[:, i + row * stride, j + column * stride] * g[:, row, column]
        for row in rows
        for column in columns
    )


def _groups(x: jax.Array) -> jax.Array:
    """[B, ...] -> [n, B / n, ...]: a batch on up to n devices stays where it lies."""
    images = math.gcd(len(x), BLOCK_IMAGES)
    return x.reshape(images, len(x) // images, *x.shape[1:])


def _padded_groups(x: jax.Array, pads: Pads) -> jax.Array:
    """Zeros around (or a crop of, where negative) the images of `_groups`.

    Grouped first, so that XLA sees one operation in forward pass and kernel gradient and pads once.
    """
    zero, whole = jnp.zeros((), x.dtype), (0, 0, 0)
    return lax.pad(_groups(x), zero, (whole, whole, (*pads[0], 0), (*pads[1], 0), whole))


def _window(x: jax.Array, i: int, j: int, size: Shape, stride: int) -> jax.Array:
    """What tap (i, j) reads of padded groups [n, B / n, H, W, C]: [n, B / n, *size, C]."""
    ends = (i + (size[0] - 1) * stride + 1, j + (size[1] - 1) * stride + 1)
    limits = (*x.shape[:2], *ends, x.shape[4])
    return lax.slice(x, (0, 0, i, j, 0), limits, (1, 1, stride, stride, 1))


_chosen = ours_on_cpus(_shifted, _shifted_gradients)
