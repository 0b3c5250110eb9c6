"""An image without the pixels that an explanation names, and an explanation to compare with."""

from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.recognition.explain import enlarged, picked

BLUR = 0.15  # of the image's side: what is deleted keeps its mean grey and nothing else


def delete(image: np.ndarray, heat: np.ndarray, share: float) -> np.ndarray:
    """uint8 [S, S, C] without the `share` of its pixels where `heat` [S, S] is highest.

    They become those of the blurred image: few new edges, but what was written there is gone.
    """
    order = np.argsort(-heat, axis=None, kind="stable")
    gone = np.zeros(heat.size, bool)
    gone[order[: round(share * heat.size)]] = True
    blurred = cv2.GaussianBlur(image, (0, 0), BLUR * len(image)).reshape(image.shape)
    return np.where(gone.reshape(*heat.shape, 1), blurred, image)


def saliency(model: Any, variables: Any, images: jax.Array, classes: jax.Array) -> jax.Array:
    """|d logit / d pixel|, the largest of the channels: [B, S, S], 0..1 (Simonyan et al. 2014)."""
    mean, std = jnp.asarray(model.input_mean), jnp.asarray(model.input_std)
    scaled = jnp.broadcast_to((images / 255 - mean) / std, (*images.shape[:3], 3))

    def logits(m: Any, x: jax.Array) -> jax.Array:
        return m.head(m.backbone(x, train=False), train=False)

    def score(scaled: jax.Array) -> jax.Array:
        return picked(model.apply(variables, scaled, method=logits), classes)

    return enlarged(jnp.abs(jax.grad(score)(scaled)).max(axis=-1), images.shape[1])
