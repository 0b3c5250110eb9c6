"""Which pixels an answer depends on: class activation maps."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

FINE = "block4"  # maps of the stages before it have a cell for every 8 pixels or finer


def grad_cam(
    model: Any, variables: Any, images: jax.Array, classes: jax.Array, layer: str | None = None
) -> jax.Array:
    """What each place of a feature map adds to the class's logit: float32 [B, S, S], 0..1.

    `model` is a Classifier, `images` uint8 [B, S, S, C], `classes` int [B]; the map is what module
    `layer` gives, if None the third stage: the last map has 3 x 3 cells at 96 pixels. Grad-CAM
    (Selvaraju et al. 2017) with each place's own gradient instead of their mean (HiResCAM, Draelos
    and Carin 2020, arXiv:2011.08891): it names pixels that matter more (experiments/deletion.py).
    """
    layer = layer or max(n for n in variables["params"]["backbone"] if "block" <= n < FINE)

    def score(shift: Any) -> tuple[jax.Array, jax.Array]:
        seen = []

        def watch(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            out = call(*args, **kwargs)
            if context.module.name != layer or context.method_name != "__call__":
                return out
            seen.append(out)
            return out + shift

        with nn.intercept_methods(watch):
            return picked(model.apply(variables, images, train=False), classes), seen[0]

    features = jax.eval_shape(lambda: score(0.0)[1])
    gradients, features = jax.grad(score, has_aux=True)(jnp.zeros(features.shape, features.dtype))
    return enlarged(jax.nn.relu((gradients * features).sum(axis=-1)), images.shape[1])


def picked(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """The sum of each image's logit of its class."""
    return jnp.take_along_axis(logits, classes[:, None], axis=1).sum()


def enlarged(maps: jax.Array, size: int) -> jax.Array:
    """[B, h, w] -> [B, size, size], bilinear, each divided by its maximum."""
    maps = jax.image.resize(maps, (len(maps), size, size), "linear")
    return maps / jnp.maximum(maps.max(axis=(1, 2), keepdims=True), jnp.finfo(maps.dtype).tiny)
