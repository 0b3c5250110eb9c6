"""EfficientNet B0-B7 (Tan & Le 2019, arXiv:1905.11946) and Lite0-4 in Linen, as Keras has them.

EfficientNet-Lite (Google 2020) leaves out squeeze-excite, has ReLU6 for swish, and scales neither
the stem nor the top in width, nor the first and the last stage in depth.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax.models.convolution import (
    Padding,
    at_least_float32,
    conv,
    depthwise_conv,
    pointwise_conv,
)
from fer_jax.models.normalization import Activation, batch_norm, normalize

Border = Literal["same", "symmetric"]


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the family: multipliers, its own input size in pixels, its ImageNet dropout."""

    width: float
    depth: float
    image_size: int
    dropout: float
    activation: Activation = "swish"
    squeeze_excite: bool = True
    fixed_ends: bool = False  # stem and top are not widened, first and last stage not deepened
    stages: int = 7  # the first ones of STAGES


def _lite(width: float, depth: float, image_size: int, dropout: float) -> Variant:
    return Variant(width, depth, image_size, dropout, "relu6", False, True)


VARIANTS = {
    "mini": Variant(0.25, 0.1, 96, 0.0, stages=1),  # ours, for tests: compiled in a moment
    "tiny": Variant(0.25, 0.1, 96, 0.0),  # ours, for the smoke run
    "b0": Variant(1.0, 1.0, 224, 0.2),
    "b1": Variant(1.0, 1.1, 240, 0.2),
    "b2": Variant(1.1, 1.2, 260, 0.3),
    "b3": Variant(1.2, 1.4, 300, 0.3),
    "b4": Variant(1.4, 1.8, 380, 0.4),
    "b5": Variant(1.6, 2.2, 456, 0.4),
    "b6": Variant(1.8, 2.6, 528, 0.5),
    "b7": Variant(2.0, 3.1, 600, 0.5),
    "lite0": _lite(1.0, 1.0, 224, 0.2),
    "lite1": _lite(1.0, 1.1, 240, 0.2),
    "lite2": _lite(1.1, 1.2, 260, 0.3),
    "lite3": _lite(1.2, 1.4, 280, 0.3),
    "lite4": _lite(1.4, 1.8, 300, 0.3),
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """One row of the paper's table 1, before scaling."""

    kernel: int
    repeats: int
    filters: int
    expansion: int
    stride: int


STAGES = (
    Stage(3, 1, 16, 1, 1),
    Stage(3, 2, 24, 6, 2),
    Stage(5, 2, 40, 6, 2),
    Stage(3, 3, 80, 6, 2),
    Stage(5, 3, 112, 6, 1),
    Stage(5, 4, 192, 6, 2),
    Stage(3, 1, 320, 6, 1),
)
STEM_FILTERS, TOP_FILTERS, SQUEEZE_RATIO = 32, 1280, 0.25
STEM_STRIDES, PUBLISHED_STEM_STRIDE = (1, 2), 2


@dataclasses.dataclass(frozen=True)
class Style:
    """What differs between the frameworks' EfficientNets and between compute precisions."""

    padding: Border
    bn_epsilon: float
    bn_momentum: float
    dtype: Any

    def pads(self, kernel: int) -> Padding:
        """TensorFlow's SAME (more at the end), or the same amount on both sides (PyTorch)."""
        return "SAME" if self.padding == "same" else ((kernel // 2,) * 2, (kernel // 2,) * 2)


@dataclasses.dataclass(frozen=True)
class Block:
    """One MBConv block, scaled: what `block_table` lists."""

    name: str
    kernel: int
    stride: int
    filters_in: int
    filters_out: int
    expansion: int
    drop_rate: float
    activation: Activation
    squeeze_excite: bool

    @property
    def residual(self) -> bool:
        """Whether the block adds its input to its output."""
        return self.stride == 1 and self.filters_in == self.filters_out

    @property
    def wide(self) -> int:
        """Channels between its expansion and its projection."""
        return self.filters_in * self.expansion

    @property
    def squeezed(self) -> int:
        """Channels of its squeeze-excite's inner layer."""
        return max(1, int(self.filters_in * SQUEEZE_RATIO))

    def kernels(self) -> dict[str, tuple[int, int, int, int]]:
        """Shapes [k, k, C, D] of its layers' kernels, by the names that `MBConv` gives them."""
        shapes = {
            "expand": (1, 1, self.filters_in, self.wide),
            "depthwise": (self.kernel, self.kernel, 1, self.wide),
            "squeeze_excite/reduce": (1, 1, self.wide, self.squeezed),
            "squeeze_excite/expand": (1, 1, self.squeezed, self.wide),
            "project": (1, 1, self.wide, self.filters_out),
        }
        absent = ["expand"] * (self.expansion == 1)
        absent += [n for n in shapes if n.startswith("squeeze") and not self.squeeze_excite]
        return {name: shape for name, shape in shapes.items() if name not in absent}


def round_filters(filters: int, width: float, divisor: int = 8) -> int:
    """`filters * width` to the nearest multiple of 8, never losing more than 10 %."""
    scaled = filters * width
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * scaled else rounded


def block_table(variant: str, drop_connect: float) -> list[Block]:
    """All blocks of a variant, first to last; the drop rate grows linearly with depth."""
    row = VARIANTS[variant]
    blocks: list[Block] = []
    stages = STAGES[: row.stages]
    repeats = [math.ceil(row.depth * stage.repeats) for stage in stages]
    if row.fixed_ends:
        repeats[0], repeats[-1] = stages[0].repeats, stages[-1].repeats
    filters_in, _ = end_filters(variant)
    for number, (stage, repeat) in enumerate(zip(stages, repeats, strict=True), start=1):
        filters_out = round_filters(stage.filters, row.width)
        for i in range(repeat):
            name = f"block{number}{chr(ord('a') + i)}"
            stride = stage.stride if i == 0 else 1
            drop_rate = drop_connect * len(blocks) / sum(repeats)
            shape = (stage.kernel, stride, filters_in, filters_out, stage.expansion)
            blocks.append(Block(name, *shape, drop_rate, row.activation, row.squeeze_excite))
            filters_in = filters_out
    return blocks


def end_filters(variant: str) -> tuple[int, int]:
    """Channels of a variant's stem and of its top."""
    row = VARIANTS[variant]
    width = 1.0 if row.fixed_ends else row.width
    return round_filters(STEM_FILTERS, width), round_filters(TOP_FILTERS, width)


KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")
# Keras counts a depthwise kernel's fan-out as k*k, which in the layout [k, k, 1, C] is the fan-in.
DEPTHWISE_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")


class Conv(nn.Module):
    """A dense convolution."""

    filters: int
    use_bias: bool
    dtype: Any
    kernel_size: int = 1
    stride: int = 1
    padding: Padding = "SAME"
    kernel_init: nn.initializers.Initializer = KERNEL_INIT

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', filters]."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.filters)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.kernel_size == self.stride == 1:
            y = pointwise_conv(x, kernel[0, 0])
        else:
            y = conv(x, kernel, self.stride, self.padding)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.filters,), jnp.float32)
        return y + bias.astype(self.dtype)


class Depthwise(nn.Module):
    """A depthwise convolution without bias."""

    kernel_size: int
    stride: int
    style: Style

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), C]."""
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        kernel = self.param("kernel", DEPTHWISE_INIT, shape, jnp.float32)
        pads = self.style.pads(self.kernel_size)
        return depthwise_conv(x, kernel.astype(self.style.dtype), self.stride, pads)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, optionally followed by an activation."""

    style: Style
    activation: Activation | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[..., C] -> [..., C]; `train`: by the batch's statistics, which move the stored ones."""
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        epsilon = self.style.bn_epsilon
        if not train:
            return normalize(x, mean.value, var.value, scale, bias, epsilon, self.activation)
        y, batch_mean, batch_var = batch_norm(x, scale, bias, epsilon, self.activation)
        if not self.is_initializing():
            momentum = self.style.bn_momentum
            mean.value = momentum * mean.value + (1 - momentum) * batch_mean
            var.value = momentum * var.value + (1 - momentum) * batch_var
        return y


class SqueezeExcite(nn.Module):
    """Channel gates from the global mean (Hu et al. 2018)."""

    filters: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        wide = at_least_float32(x.dtype)
        pooled = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=wide).astype(self.dtype)
        squeezed = nn.swish(Conv(self.filters, True, self.dtype, name="reduce")(pooled))
        return x * nn.sigmoid(Conv(x.shape[-1], True, self.dtype, name="expand")(squeezed))


class MBConv(nn.Module):
    """Expand, filter per channel, gate, project, and add the input where shapes allow."""

    block: Block
    style: Style

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, filters_in] -> [B, ceil(H / stride), ceil(W / stride), filters_out]."""
        block, style, skip = self.block, self.style, x
        if block.expansion != 1:
            x = Conv(block.wide, False, style.dtype, name="expand")(x)
            x = BatchNorm(style, block.activation, name="expand_bn")(x, train)
        x = Depthwise(block.kernel, block.stride, style, name="depthwise")(x)
        x = BatchNorm(style, block.activation, name="depthwise_bn")(x, train)
        if block.squeeze_excite:
            x = SqueezeExcite(block.squeezed, style.dtype, name="squeeze_excite")(x)
        x = Conv(block.filters_out, False, style.dtype, name="project")(x)
        x = BatchNorm(style, None, name="project_bn")(x, train)
        if not block.residual:
            return x
        # Stochastic depth: the residual is dropped for whole examples.
        drop = nn.Dropout(block.drop_rate, broadcast_dims=(1, 2, 3), name="drop")
        return skip + drop(x, deterministic=not train)


class EfficientNet(nn.Module):
    """The backbone: scaled pixels -> feature map; 1/32 of the side, 1/16 with a stem of stride 1.

    The stride changes no parameter's shape.
    """

    variant: str
    style: Style
    drop_connect: float
    stem_stride: int  # 2 as published; 1 keeps the first stage at the input's own size

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, 3] of `style.dtype` -> [B, H', W', C], 1/32 or 1/16, rounded up."""
        style, activation = self.style, VARIANTS[self.variant].activation
        first, last = end_filters(self.variant)
        stem = Conv(first, False, style.dtype, 3, self.stem_stride, style.pads(3), name="stem")
        x = BatchNorm(style, activation, name="stem_bn")(stem(x), train)
        for block in block_table(self.variant, self.drop_connect):
            x = MBConv(block, style, name=block.name)(x, train)
        x = Conv(last, False, style.dtype, name="top")(x)
        return BatchNorm(style, activation, name="top_bn")(x, train)


def scale_residuals(params: Mapping[str, Any], variant: str, factor: float) -> dict[str, Any]:
    """An EfficientNet's parameters with the scale of each residual's last BatchNorm times `factor`.

    At 0 these blocks start as identities (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
    """
    scaled = dict(params)
    for block in block_table(variant, 0.0):
        if block.residual:
            norm = params[block.name]["project_bn"]
            norm = {**norm, "scale": norm["scale"] * factor}
            scaled[block.name] = {**params[block.name], "project_bn": norm}
    return scaled
