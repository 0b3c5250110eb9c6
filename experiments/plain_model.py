"""The model without its fast operations: what they must equal, in values and in training."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any, Literal
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from fer_jax import build
from fer_jax.models import efficientnet
from fer_jax.models.depthwise import Pads

LAYOUT = ("NHWC", "HWIO", "NHWC")
Padding = Literal["SAME"] | Pads


def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """XLA's grouped convolution: [B, H, W, C] by [k, k, 1, C] -> [B, H', W', C]."""
    strides, groups = (stride, stride), x.shape[-1]
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=LAYOUT, feature_group_count=groups
    )


def pointwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's 1x1 convolution: [B, H, W, C] by [C, D] -> [B, H, W, D]."""
    return lax.conv_general_dilated(
        x, kernel[None, None], (1, 1), "VALID", dimension_numbers=LAYOUT
    )


def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, swish: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """By its definition, its gradient by autodiff: (y [..., C], mean [C], variance [C])."""
    axes = tuple(range(x.ndim - 1))
    mean, var = jnp.mean(x, axes), jnp.var(x, axes)
    y = (x - mean) / jnp.sqrt(var + epsilon) * scale + bias
    return (jax.nn.swish(y) if swish else y), mean, var


PLAIN: dict[str, Any] = {
    function.__name__: function for function in (depthwise_conv, pointwise_conv, batch_norm)
}


@contextlib.contextmanager
def plain_operations() -> Iterator[None]:
    """What is traced inside takes the plain operations, in float32."""
    with mock.patch.multiple(efficientnet, **PLAIN):
        yield


def losses(config: ConfigDict, steps: int) -> np.ndarray:
    """Training losses [steps] of the run that `config` describes, from its first step on."""
    trainer = build.make_trainer(config, build.read_data(config).roles["train"])
    state, found = trainer.init(), []
    for batch in itertools.islice(trainer.batches(0), steps):
        state, metrics = trainer.train_step(state, batch)
        found.append(float(metrics["loss"]))
    return np.array(found)


def differences(fast: np.ndarray, plain: np.ndarray) -> dict[str, float]:
    """Of the first step's loss and of the mean over all steps, relative."""
    return {
        "first_step": float(abs(fast[0] - plain[0]) / plain[0]),
        "mean": float(abs(fast.mean() - plain.mean()) / plain.mean()),
    }
