"""Which pixels an answer hangs on: Grad-CAM and saliency, and the test of it by deletion."""

from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

BLUR = 0.15  # of the image's side: what is deleted keeps its mean grey and nothing else


def grad_cam(model: Any, variables: Any, images: jax.Array, classes: jax.Array) -> jax.Array:
    """What each place of the last feature map adds to the class's logit: [B, S, S], 0..1.

    `model` is a Classifier, `images` uint8 [B, S, S, C], `classes` int [B]. Grad-CAM (Selvaraju et
    al. 2017) with each place's own gradient instead of their mean (HiResCAM, Draelos and Carin
    2020, arXiv:2011.08891): the head's convolution weighs places differently.
    """
    features = model.apply(variables, images, train=False, method="features")

    def score(features: jax.Array) -> jax.Array:
        logits = model.apply(variables, features, method=lambda m, x: m.head(x, train=False))
        return jnp.take_along_axis(logits, classes[:, None], axis=1).sum()

    gains = (jax.grad(score)(features) * features).sum(axis=-1)
    return _enlarged(jax.nn.relu(gains), images.shape[1])


def saliency(model: Any, variables: Any, images: jax.Array, classes: jax.Array) -> jax.Array:
    """|d logit / d pixel|, the largest of the channels: [B, S, S], 0..1 (Simonyan et al. 2014)."""
    mean, std = jnp.asarray(model.input_mean), jnp.asarray(model.input_std)
    scaled = jnp.broadcast_to((images / 255 - mean) / std, (*images.shape[:3], 3))

    def score(scaled: jax.Array) -> jax.Array:
        def logits(m: Any, x: jax.Array) -> jax.Array:
            return m.head(m.backbone(x, train=False), train=False)

        found = model.apply(variables, scaled, method=logits)
        return jnp.take_along_axis(found, classes[:, None], axis=1).sum()

    return _enlarged(jnp.abs(jax.grad(score)(scaled)).max(axis=-1), images.shape[1])


def delete(image: np.ndarray, heat: np.ndarray, share: float) -> np.ndarray:
    """uint8 [S, S, C] without the `share` of its pixels where `heat` [S, S] is highest.

    They become those of the blurred image: no new edges, but what the class was read from is gone.
    """
    order = np.argsort(-heat, axis=None, kind="stable")
    gone = np.zeros(heat.size, bool)
    gone[order[: round(share * heat.size)]] = True
    blurred = cv2.GaussianBlur(image, (0, 0), BLUR * len(image)).reshape(image.shape)
    return np.where(gone.reshape(*heat.shape, 1), blurred, image)


def _enlarged(maps: jax.Array, size: int) -> jax.Array:
    """[B, h, w] -> [B, size, size], bilinear, each divided by its maximum."""
    maps = jax.image.resize(maps, (len(maps), size, size), "linear")
    return maps / jnp.maximum(maps.max(axis=(1, 2), keepdims=True), jnp.finfo(maps.dtype).tiny)
