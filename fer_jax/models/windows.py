"""Where a convolution's windows lie: padding in numbers, and what each tap of a kernel sees."""

from typing import Literal

import jax
from jax import lax

Pads = tuple[tuple[int, int], tuple[int, int]]
Padding = Literal["SAME", "VALID"] | Pads


def explicit_pads(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> Pads:
    """(before, after) for rows and columns of [B, H, W, C]; SAME as TensorFlow defines it."""
    if not isinstance(padding, str):
        return padding
    rows, columns = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride, stride), padding)
    return rows, columns


def outputs(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> tuple[int, int]:
    """The result's rows and columns."""
    (top, bottom), (left, right) = pads
    height, width = top + x.shape[1] + bottom, left + x.shape[2] + right
    return (height - kernel.shape[0]) // stride + 1, (width - kernel.shape[1]) // stride + 1


def seen(k: int, stride: int, before: int, side: int, steps: int) -> list[range]:
    """For each of k taps the outputs of `steps` for which it reads image, not padding."""
    first = [max(0, -((tap - before) // stride)) for tap in range(k)]
    last = [min(steps, (before + side - 1 - tap) // stride + 1) for tap in range(k)]
    return [range(*ends) for ends in zip(first, last, strict=True)]
