"""On CPUs inference takes a few images at a time: what a layer writes the next finds in cache."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

PIECE = 16  # images; measured: experiments/speed.md


def in_pieces(infer: Callable[[jax.Array], Any], images: jax.Array) -> jax.Array:
    """`infer` of [B, ...] -> [B, ...], where each image's answer is its own.

    On CPUs PIECE images at a time, if they divide the batch.
    """
    if len(images) % PIECE or len(images) == PIECE:
        return infer(images)
    return lax.platform_dependent(images, cpu=lambda images: _mapped(infer, images), default=infer)


def _mapped(infer: Callable[[jax.Array], Any], images: jax.Array) -> jax.Array:
    """Every piece has images from all parts of the batch, so that all devices share each."""
    pieces = images.reshape(PIECE, -1, *images.shape[1:]).swapaxes(0, 1)
    answers = lax.map(infer, pieces).swapaxes(0, 1)
    return answers.reshape(len(images), *answers.shape[2:])
