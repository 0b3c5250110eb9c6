"""Convolutions with gradients of their own, chosen by platform when a program is lowered.

CPUs: XLA runs grouped convolutions there an order of magnitude slower than a sum of shifted slices,
and dense ones of three channels or small maps two to three times slower than matrix products.
Accelerators: XLA's own, but for the gradient of a depthwise kernel, which takes minutes to compile.
Measurements: experiments/speed.md.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Shape = tuple[int, ...]
Pair = tuple[jax.Array, jax.Array]  # of x and kernel, or of their gradients
Pads = tuple[tuple[int, int], tuple[int, int]]  # before and after, of rows and columns
Padding = Literal["SAME", "VALID"] | Pads
Conv = Callable[[jax.Array, jax.Array, int, Pads], jax.Array]  # (x, kernel, stride, pads)
Gradients = Callable[[jax.Array, jax.Array, jax.Array, int, Pads], Pair]

FEW_CHANNELS = 16
BLOCK_IMAGES, BLOCK_POSITIONS = 4, 36  # what stays in a core's cache


def conv(x: jax.Array, kernel: Any, stride: int, padding: Padding) -> jax.Array:
    """[B, H, W, C] filtered by [k, k, C, D] -> [B, H', W', D]; SAME as TensorFlow defines it.

    On CPUs `kernel` may have come `apart`.
    """
    pads = explicit_pads(x, kernel, stride, padding)
    if isinstance(kernel, tuple):
        return _of_taps(x, kernel, stride, pads)
    return _dense(x, kernel, stride, pads)


def apart(kernel: np.ndarray) -> Any:
    """[k, k, C, D] -> k times k arrays [C, D], if `conv` takes one at a time on CPUs.

    Else XLA copies each of them out of the kernel at every call.
    """
    if kernel.ndim < 4 or len(kernel) == 1 or kernel.shape[2] <= FEW_CHANNELS:
        return kernel
    return tuple(map(tuple, kernel))


def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """[B, H, W, C] filtered by [k, k, 1, C] -> [B, H', W', C]; SAME as TensorFlow defines it."""
    return _depthwise(x, kernel, stride, explicit_pads(x, kernel, stride, padding))


@jax.custom_vjp
def pointwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., C] times [C, D] -> [..., D]: a 1x1 convolution."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[1])


def xla_conv(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """In as many groups of channels as [k, k, C, D] kernels leave of x's."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[3] // kernel.shape[2],
    )


def at_least_float32(dtype: Any) -> Any:
    """The type to sum in, which low precision does not reach: float32, or the model's float64."""
    return jnp.promote_types(dtype, jnp.float32)


# ---- where windows lie --------------------------------------------------------------------------


def explicit_pads(x: jax.Array, kernel: Any, stride: int, padding: Padding) -> Pads:
    """(before, after) for rows and columns of [B, H, W, C]; SAME as TensorFlow defines it."""
    if not isinstance(padding, str):
        return padding
    window = len(kernel), len(kernel)
    rows, columns = lax.padtype_to_pads(x.shape[1:3], window, (stride, stride), padding)
    return rows, columns


def outputs(x: jax.Array, kernel: Any, stride: int, pads: Pads) -> tuple[int, int]:
    """The result's rows and columns."""
    (top, bottom), (left, right) = pads
    height, width = top + x.shape[1] + bottom, left + x.shape[2] + right
    return (height - len(kernel)) // stride + 1, (width - len(kernel)) // stride + 1


def _seen(k: int, stride: int, before: int, side: int, steps: int) -> list[range]:
    """For each of k taps the outputs of `steps` for which it reads image, not padding."""
    first = [max(0, -((tap - before) // stride)) for tap in range(k)]
    last = [min(steps, (before + side - 1 - tap) // stride + 1) for tap in range(k)]
    return [range(*ends) for ends in zip(first, last, strict=True)]


def _cut(x: jax.Array, start: Shape, size: Shape, stride: int = 1) -> jax.Array:
    """`size` rows and columns of [..., H, W, C] from `start` on, `stride` apart.

    By lax: a program has thousands of these, and jnp's indexing takes ten times as long to trace.
    """
    rest, (_, _, channels) = x.shape[:-3], x.shape[-3:]
    ends = (a + (n - 1) * stride + 1 for a, n in zip(start, size, strict=True))
    strides = (*(1 for _ in rest), stride, stride, 1)
    return lax.slice(x, (*(0 for _ in rest), *start, 0), (*rest, *ends, channels), strides)


# ---- dense, on CPUs -----------------------------------------------------------------------------


def _products(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    if x.shape[3] <= FEW_CHANNELS:
        return _of_windows(x, kernel, stride, pads)
    every = range(len(kernel))
    return _of_taps(x, [[kernel[i, j] for j in every] for i in every], stride, pads)


def _of_windows(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """One product: all that each window holds, side by side."""
    sides = outputs(x, kernel, stride, pads)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    for axis in (2, 1):  # columns, then rows: few long pieces instead of many short ones
        every = range(sides[axis - 1])
        taps = [_read(x, axis, tap, stride, every) for tap in range(len(kernel))]
        x = jnp.concatenate(taps, 3)
    return _matmul(x, kernel.reshape(-1, kernel.shape[3])).astype(x.dtype)


def _of_taps(x: jax.Array, taps: Any, stride: int, pads: Pads) -> jax.Array:
    """A product for each of k times k taps, of what it sees of the image, added where it lies."""
    height, width = outputs(x, taps, stride, pads)
    (top, _), (left, _) = pads
    seen_rows = _seen(len(taps), stride, top, x.shape[1], height)
    seen_columns = _seen(len(taps), stride, left, x.shape[2], width)
    y = jnp.zeros((len(x), height, width, taps[0][0].shape[1]), at_least_float32(x.dtype))
    for (i, rows), (j, columns) in itertools.product(enumerate(seen_rows), enumerate(seen_columns)):
        if rows and columns:
            part = _read(x, 1, i - top, stride, rows)
            part = _read(part, 2, j - left, stride, columns)
            around = (rows.start, height - rows.stop), (columns.start, width - columns.stop)
            y += jnp.pad(_matmul(part, taps[i][j]), ((0, 0), *around, (0, 0)))
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


def _pointwise_gradients(saved: Pair, g: jax.Array) -> Any:
    """XLA's CPU backend writes out the left operand transposed: let it be the narrower one."""
    x, kernel = saved
    rows_x, rows_g = x.reshape(-1, kernel.shape[0]), g.reshape(-1, kernel.shape[1])
    contract = (((0,), (0,)), ((), ()))
    if kernel.shape[0] <= kernel.shape[1]:
        d_kernel = lax.dot_general(rows_x, rows_g, contract)
    else:
        d_kernel = lax.dot_general(rows_g, rows_x, contract).T
    return (rows_g @ kernel.T).reshape(x.shape), d_kernel


pointwise_conv.defvjp(
    lambda x, kernel: (pointwise_conv(x, kernel), (x, kernel)), _pointwise_gradients
)


# ---- depthwise, on CPUs -------------------------------------------------------------------------


def _shifted(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Sum over the k * k taps of a shifted slice times the tap's weights."""
    k, exact = kernel.shape[0], at_least_float32(x.dtype)
    # The barrier lets XLA compute a swish while padding; else it writes out its tanh before.
    x, kernel = lax.optimization_barrier(_padded_groups(x, pads)), kernel.astype(exact)
    size = ((x.shape[2] - k) // stride + 1, (x.shape[3] - k) // stride + 1)

    def tap(i: int, j: int) -> jax.Array:
        window = lax.convert_element_type(_cut(x, (i, j), size, stride), exact)
        weights = lax.slice(kernel, (i, j, 0, 0), (i + 1, j + 1, 1, kernel.shape[3]))
        return lax.mul(window, lax.broadcast_in_dim(weights, window.shape, (1, 2, 3, 4)))

    # Row by row: a chain of k * k sums, each waiting for the one before, would be slower.
    y = _sum(_sum(tap(i, j) for j in range(k)) for i in range(k)).astype(x.dtype)
    return y.reshape(-1, *y.shape[2:])


def _sum(parts: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(lax.add, parts)


def _shifted_gradients(
    x: jax.Array, kernel: jax.Array, g: jax.Array, stride: int, pads: Pads
) -> Pair:
    d_x = _input_gradient(g, kernel, x.shape, stride, pads)
    return d_x, _kernel_gradient(x, g, kernel, stride, pads)


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
    seen_rows = everywhere if strips > 1 else _seen(k, stride, pads[0][0], sides[0], rows)
    seen_columns = _seen(k, stride, pads[1][0], sides[1], width)

    def add_block(block: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        image, row = block // strips, block % strips * rows
        xb = _cells(_block(x, image, row * stride, strip).astype(exact))
        gb = _cells(_block(g, image, row, rows).astype(exact))

        def add_tap(total: jax.Array, i: int, j: int) -> jax.Array:
            every = itertools.product(seen_rows[i], seen_columns[j])
            parts = [lax.mul(xb[i + r * stride][j + c * stride], gb[r][c]) for r, c in every]
            return lax.add(total, _sum(parts)) if parts else total

        return [add_tap(total, *tap) for total, tap in zip(sums, np.ndindex(k, k), strict=True)]

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


def _cells(x: jax.Array) -> list[list[jax.Array]]:
    """[n, R, W, C] -> R lists of W times [n, C]."""
    rows, columns = x.shape[1:3]
    each = [[_cut(x, (i, j), (1, 1)) for j in range(columns)] for i in range(rows)]
    return [[lax.squeeze(cell, (1, 2)) for cell in row] for row in each]


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


# ---- on accelerators, and the choice ------------------------------------------------------------


def _tap_gradients(x: jax.Array, kernel: jax.Array, g: jax.Array, stride: int, pads: Pads) -> Pair:
    """Of a depthwise convolution: XLA's to x; to the kernel tap by tap, in a loop."""
    _, vjp = jax.vjp(lambda x: xla_conv(x, kernel, stride, pads), x)
    whole, exact = (0, 0, 0), at_least_float32(x.dtype)
    padded = lax.pad(x, jnp.zeros((), x.dtype), (whole, (*pads[0], 0), (*pads[1], 0), whole))
    sides = [(steps - 1) * stride + 1 for steps in g.shape[1:3]]

    def tap(place: jax.Array) -> jax.Array:
        read = lax.dynamic_slice(padded, (0, *place, 0), (len(x), *sides, x.shape[3]))
        return jnp.sum(read[:, ::stride, ::stride].astype(exact) * g.astype(exact), (0, 1, 2))

    taps = lax.map(tap, np.array(list(np.ndindex(kernel.shape[:2]))))
    return vjp(g)[0], taps.reshape(kernel.shape).astype(kernel.dtype)


def _derived(conv: Conv) -> Gradients:
    def gradients(x: Any, kernel: Any, g: jax.Array, stride: int, pads: Pads) -> Any:
        return jax.vjp(lambda x, kernel: conv(x, kernel, stride, pads), x, kernel)[1](g)

    return gradients


def _by_platform(ours: Conv, gradients: Gradients, elsewhere: Gradients) -> Conv:
    """`ours` with `gradients` of (x, kernel, g, stride, pads) on CPUs, else XLA's and others."""

    # custom_vjp outermost: under autodiff, platform_dependent would keep every branch's residuals.
    @functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
    def chosen(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
        return lax.platform_dependent(
            x,
            kernel,
            cpu=lambda x, kernel: ours(x, kernel, stride, pads),
            default=lambda x, kernel: xla_conv(x, kernel, stride, pads),
        )

    def forward(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> tuple[jax.Array, Pair]:
        return chosen(x, kernel, stride, pads), (x, kernel)

    def backward(stride: int, pads: Pads, saved: Pair, g: jax.Array) -> Pair:
        return lax.platform_dependent(
            *saved,
            g,
            cpu=lambda x, kernel, g: gradients(x, kernel, g, stride, pads),
            default=lambda x, kernel, g: elsewhere(x, kernel, g, stride, pads),
        )

    chosen.defvjp(forward, backward)
    return chosen


_dense = _by_platform(_products, _derived(_products), _derived(xla_conv))
_depthwise = _by_platform(_shifted, _shifted_gradients, _tap_gradients)
