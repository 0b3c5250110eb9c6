"""Models for inference: BatchNorm folded into the kernels, and one walk all exports share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax import lax

from fer_jax.models.classifier import Classifier, FerHead
from fer_jax.models.convolution import (
    Padding,
    apart,
    conv,
    depthwise_conv,
    explicit_pads,
    xla_conv,
)
from fer_jax.models.efficientnet import VARIANTS, Block, block_table

# "backbone/stem/kernel": float32 [k, k, C, D], of `ready` perhaps `apart`; ".../bias": [D].
Arrays = Mapping[str, Any]
Function = Literal["swish", "relu6", "relu", "sigmoid"]
STEM, DEPTHWISE, OFFSET = "backbone/stem", "depthwise", "offset"
PIECE = 16  # images; measured: experiments/speed.md


def fold(model: Classifier, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A kernel [k, k, C, D] and a bias [D] for each layer, computed in float64 and rounded once.

    Of the input scaling (x / 255 - mean) / std the divisions go into the stem's kernel. The stem
    pads scaled pixels with zeros, which stand for 255 * mean: so that is subtracted before
    (`offset`), after which zeros pad it exactly; in the bias it would be wrong along the borders.
    """
    flat = flatten_dict(dict(variables), sep="/")
    values = {name: np.asarray(leaf, np.float64) for name, leaf in flat.items()}
    folded = {OFFSET: 255 * np.asarray(model.input_mean, np.float64)}
    for name, kernel in values.items():
        layer = name.removeprefix("params/").removesuffix("/kernel")
        if not name.endswith("/kernel"):
            continue
        kernel = kernel.reshape((1,) * (4 - kernel.ndim) + kernel.shape)  # a Dense is of 1x1
        bias, norm = values.get(f"params/{layer}/bias"), f"{layer}_bn"
        if bias is None:
            deviation = np.sqrt(values[f"batch_stats/{norm}/var"] + model.backbone.style.bn_epsilon)
            gain = values[f"params/{norm}/scale"] / deviation
            bias = values[f"params/{norm}/bias"] - values[f"batch_stats/{norm}/mean"] * gain
            kernel = kernel * gain
        if layer == STEM:
            kernel = kernel / (255 * np.asarray(model.input_std, np.float64)[:, None])
        folded |= {f"{layer}/kernel": kernel, f"{layer}/bias": bias}
    return {name: array.astype(np.float32) for name, array in folded.items()}


def ready(model: Classifier, variables: Mapping[str, Any]) -> Arrays:
    """`fold`'s arrays as `logits` takes them where this process computes."""
    arrays = fold(model, variables)
    on_cpu = jax.default_backend() == "cpu"
    return {name: apart(array) for name, array in arrays.items()} if on_cpu else arrays


def logits(model: Classifier, arrays: Arrays, images: jax.Array, plain: bool = False) -> jax.Array:
    """uint8 [B, H, W, 1 or 3] -> float32 [B, K] by `ready`'s arrays; headless, the feature map.

    `plain`, with `fold`'s arrays, takes XLA's convolutions on every platform, for programs that
    leave this process.
    """
    if images.dtype != jnp.uint8:
        raise TypeError(f"images must be uint8 0..255, got {images.dtype}: the model scales them")
    return network(model, _Compute(arrays, plain), images)


def in_pieces(infer: Callable[[jax.Array], Any], images: jax.Array) -> jax.Array:
    """`infer` of [B, ...] -> [B, ...], where each image's answer is its own.

    On CPUs PIECE images at a time, if they divide the batch: what a layer writes the next then
    finds in the cache.
    """
    if len(images) % PIECE or len(images) == PIECE:
        return infer(images)
    return lax.platform_dependent(images, cpu=lambda images: _mapped(infer, images), default=infer)


def _mapped(infer: Callable[[jax.Array], Any], images: jax.Array) -> jax.Array:
    """Every piece has images from all parts of the batch, so that all devices share each."""
    pieces = images.reshape(PIECE, -1, *images.shape[1:]).swapaxes(0, 1)
    answers = lax.map(infer, pieces).swapaxes(0, 1)
    return answers.reshape(len(images), *answers.shape[2:])


def network(model: Classifier, ops: Any, images: Any) -> Any:
    """uint8 images -> logits, or without a head the feature map.

    `ops` has the methods of `_Compute`, for tensors of whatever computes, or writes down.
    """
    backbone, head = model.backbone, model.head
    activation, pads = VARIANTS[backbone.variant].activation, backbone.style.pads
    x = ops.conv(ops.shifted(images), STEM, backbone.stem_stride, pads(3))
    x = ops.apply(activation, x)
    for block in block_table(backbone.variant, drop_connect=0.0):
        x = _block(ops, x, block, pads(block.kernel))
    x = ops.apply(activation, ops.conv(x, "backbone/top"))
    if head is None:
        return x

    if isinstance(head, FerHead):
        x = ops.apply("relu", ops.conv(x, "head/conv", padding=head.padding))
        x = ops.apply("relu", ops.conv(ops.mean(x), "head/hidden"))
    else:
        x = ops.mean(x)
    return ops.flat(ops.conv(x, "head/logits"))


def _block(ops: Any, x: Any, block: Block, padding: Padding) -> Any:
    """MBConv: expand, filter per channel, gate, project, add the input."""
    layer, skip = f"backbone/{block.name}", x
    if block.expansion != 1:
        x = ops.apply(block.activation, ops.conv(x, f"{layer}/expand"))
    x = ops.conv(x, f"{layer}/{DEPTHWISE}", block.stride, padding)
    x = ops.apply(block.activation, x)
    if block.squeeze_excite:
        squeezed = ops.conv(ops.mean(x), f"{layer}/squeeze_excite/reduce")
        gates = ops.conv(ops.apply("swish", squeezed), f"{layer}/squeeze_excite/expand")
        x = ops.multiply(x, ops.apply("sigmoid", gates))
    x = ops.conv(x, f"{layer}/project")
    return ops.add(x, skip) if block.residual else x


@dataclass(frozen=True)
class _Compute:
    """JAX, in float32 [B, H, W, C]; `layer` names a kernel and a bias of `fold`."""

    arrays: Arrays
    plain: bool

    def shifted(self, images: jax.Array) -> jax.Array:
        return images.astype(jnp.float32) - self.arrays[OFFSET]

    def conv(
        self, x: jax.Array, layer: str, stride: int = 1, padding: Padding = "SAME"
    ) -> jax.Array:
        """Of each channel by itself where `layer` ends in DEPTHWISE."""
        kernel, bias = self.arrays[f"{layer}/kernel"], self.arrays[f"{layer}/bias"]
        if len(kernel) == stride == 1:
            rows = lax.dot(x.reshape(-1, x.shape[3]), kernel[0, 0])
            return rows.reshape(*x.shape[:3], -1) + bias
        ours = depthwise_conv if layer.endswith(DEPTHWISE) else conv
        filtered = xla_conv if self.plain else ours
        return filtered(x, kernel, stride, explicit_pads(x, kernel, stride, padding)) + bias

    def apply(self, function: Function, x: jax.Array) -> jax.Array:
        if function == "swish":  # by way of tanh, as normalization.normalize has it
            half = 0.5 * x
            return half * lax.tanh(half) + half
        return getattr(nn, function)(x)

    def mean(self, x: jax.Array) -> jax.Array:
        return jnp.mean(x, axis=(1, 2), keepdims=True)

    def add(self, x: jax.Array, y: jax.Array) -> jax.Array:
        return x + y

    def multiply(self, x: jax.Array, gates: jax.Array) -> jax.Array:
        return x * gates

    def flat(self, x: jax.Array) -> jax.Array:
        """One position -> [B, C]."""
        return x[:, 0, 0]
