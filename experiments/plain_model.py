"""The model without its fast operations: what they must equal, in values and in training."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fer_jax import train
from fer_jax.data.sources import open_dataset
from fer_jax.models import efficientnet
from fer_jax.models.convolution import Padding

LAYOUT = ("NHWC", "HWIO", "NHWC")
Curves = dict[str, list[float]]


def conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """XLA's convolution: [B, H, W, C] by [k, k, C, D] -> [B, H', W', D]."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=LAYOUT)


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


ACTIVATIONS: dict[str | None, Any] = {
    None: lambda y: y,
    "swish": jax.nn.swish,
    "relu6": jax.nn.relu6,
}


def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, activation: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """By its definition, its gradient by autodiff: (y [..., C], mean [C], variance [C])."""
    axes = tuple(range(x.ndim - 1))
    mean, var = jnp.mean(x, axes), jnp.var(x, axes)
    y = (x - mean) / jnp.sqrt(var + epsilon) * scale + bias
    return ACTIVATIONS[activation](y), mean, var


PLAIN: dict[str, Any] = {
    function.__name__: function for function in (conv, depthwise_conv, pointwise_conv, batch_norm)
}


@contextlib.contextmanager
def plain_operations() -> Iterator[None]:
    """What is traced inside takes the plain operations, in float32."""
    with mock.patch.multiple(efficientnet, **PLAIN):
        yield


def training(config: train.Config, steps: int) -> Curves:
    """`loss` and `gradient_norm`, [steps] each, of the run that `config` describes."""
    data = open_dataset(config.data.path, config.data)
    trainer = train.make_trainer(config, data.split("train"))
    state, found = trainer.init(), []
    for batch in itertools.islice(trainer.batches(0), steps):
        state, metrics = trainer.train_step(state, batch)
        found.append(metrics)
    return {name: [float(one[name]) for one in found] for name in ("loss", "gradient_norm")}


def differences(fast: Curves, plain: Curves) -> dict[str, float]:
    """Relative: of the first step's loss and gradient, and of the mean loss over all steps."""
    compared = {
        "first_loss": (fast["loss"][0], plain["loss"][0]),
        "first_gradient_norm": (fast["gradient_norm"][0], plain["gradient_norm"][0]),
        "mean_loss": (np.mean(fast["loss"]), np.mean(plain["loss"])),
    }
    return {name: float(abs(a - b) / abs(b)) for name, (a, b) in compared.items()}
