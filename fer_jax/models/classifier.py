"""Faces to logits: input scaling, the EfficientNet backbone, and a head."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax.models.efficientnet import EfficientNet, feature_size

HEAD_KERNEL = 3


class FerHead(nn.Module):
    """The seed's head: Conv 3x3 ReLU, global mean, Dense ReLU, dropout, Dense."""

    classes: int
    filters: int
    hidden: int
    dropout: float
    padding: Literal["VALID", "SAME"]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Feature map [B, H, W, C] -> float32 logits [B, classes]."""
        glorot, kernel = nn.initializers.glorot_uniform(), (HEAD_KERNEL, HEAD_KERNEL)
        conv = nn.Conv(
            self.filters,
            kernel,
            padding=self.padding,
            dtype=self.dtype,
            kernel_init=glorot,
            name="conv",
        )
        x = jnp.mean(nn.relu(conv(x)), axis=(1, 2), dtype=jnp.float32)
        x = nn.relu(nn.Dense(self.hidden, kernel_init=glorot, name="hidden")(x))
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return nn.Dense(self.classes, kernel_init=glorot, name="logits")(x)


class ImagenetHead(nn.Module):
    """The published head: global mean, dropout, Dense."""

    classes: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Feature map [B, H, W, C] -> float32 logits [B, classes]."""
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        init = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")
        return nn.Dense(self.classes, kernel_init=init, name="logits")(x)


class Classifier(nn.Module):
    """uint8 images to logits; scales its input itself, so callers never do."""

    backbone: EfficientNet
    head: FerHead | ImagenetHead
    input_mean: tuple[float, ...]
    input_std: tuple[float, ...]

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """uint8 [B, H, W, 3] -> float32 logits [B, classes]; mean and std are on the scale 0..1."""
        if images.dtype != jnp.uint8:
            raise TypeError(
                f"images must be uint8 0..255, got {images.dtype}: the model scales them"
            )
        mean, std = jnp.asarray(self.input_mean), jnp.asarray(self.input_std)
        x = (images.astype(jnp.float32) / 255 - mean) / std
        return self.head(self.backbone(x.astype(self.backbone.style.dtype), train), train)


def smallest_image_size(padding: str) -> int:
    """Pixels below which the head's 3x3 convolution finds no full window in the feature map."""
    size = 1
    while padding == "VALID" and feature_size(size) < HEAD_KERNEL:
        size += 1
    return size
