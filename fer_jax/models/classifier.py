"""Faces to logits: input scaling, the EfficientNet backbone, a head; the section `model`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax.errors import UserError
from fer_jax.labels import LABELS
from fer_jax.models.convolution import at_least_float32
from fer_jax.models.efficientnet import (
    VARIANTS,
    Conv,
    EfficientNet,
    Style,
    block_table,
    end_filters,
)
from fer_jax.sections import Section, key

HEAD_KERNEL = 3
NORM_VECTORS = (
    "params/{}_bn/scale",
    "params/{}_bn/bias",
    "batch_stats/{}_bn/mean",
    "batch_stats/{}_bn/var",
)


class FerHead(nn.Module):
    """As in the Keras notebook: Conv 3x3 ReLU, global mean, Dense ReLU, dropout, Dense."""

    classes: int
    filters: int
    hidden: int
    dropout: float
    padding: Literal["VALID", "SAME"]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Feature map [B, H, W, C] -> float32 logits [B, classes]."""
        glorot = nn.initializers.glorot_uniform()
        conv = Conv(
            self.filters,
            use_bias=True,
            dtype=self.dtype,
            kernel_size=HEAD_KERNEL,
            padding=self.padding,
            kernel_init=glorot,
            name="conv",
        )
        x = jnp.mean(nn.relu(conv(x)), axis=(1, 2), dtype=at_least_float32(self.dtype))
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
        x = jnp.mean(x, axis=(1, 2), dtype=at_least_float32(x.dtype))
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        init = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")
        return nn.Dense(self.classes, kernel_init=init, name="logits")(x)


class Classifier(nn.Module):
    """uint8 images to logits; scales its input itself, so callers never do."""

    backbone: EfficientNet
    head: FerHead | ImagenetHead | None
    input_mean: tuple[float, ...]
    input_std: tuple[float, ...]

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """uint8 [B, H, W, 1 or 3] -> float32 logits [B, classes]; headless, the feature map."""
        features = self.features(images, train)
        return features if self.head is None else self.head(features, train)

    def features(self, images: jax.Array, train: bool) -> jax.Array:
        """uint8 [B, H, W, 1 or 3] -> the backbone's [B, H', W', C].

        Mean and std of three channels are on the scale 0..1; grey is spread over all three.
        """
        if images.dtype != jnp.uint8:
            raise TypeError(
                f"images must be uint8 0..255, got {images.dtype}: the model scales them"
            )
        dtype = self.backbone.style.dtype
        wide = at_least_float32(dtype)
        mean, std = jnp.asarray(self.input_mean, wide), jnp.asarray(self.input_std, wide)
        x = (images.astype(wide) / 255 - mean) / std
        return self.backbone(x.astype(dtype), train)


@dataclasses.dataclass(frozen=True)
class ModelConfig(Section):
    """The section `model`."""

    section = "model"
    variant: str = key(choices=tuple(VARIANTS))
    stem_stride: int = key(1, 2)
    padding: str = key(choices=("same", "symmetric"))
    bn_epsilon: float = key(0, 1)
    bn_momentum: float = key(0, 1)
    drop_connect: float = key(0, 0.99)
    input_mean: tuple[float, float, float] = key(-1000, 1000)  # on the scale 0..1
    input_std: tuple[float, float, float] = key(1e-6, 1e6)
    head_padding: str = key(choices=("VALID", "SAME"))
    head_filters: int = key(1, 10**5)
    hidden: int = key(1, 10**5)
    dropout: float = key(0, 0.99)
    dtype: str = key(choices=("float32", "bfloat16"))

    def check_image_size(self, name: str, size: int) -> None:
        """UserError where the head would see an empty feature map."""
        smallest = smallest_image_size(self.head_padding, self.stem_stride)
        if size < smallest:
            raise UserError(
                f"{name}={size} leaves nothing for the head's 3x3 convolution with "
                f"model.head_padding={self.head_padding}: at least {smallest} pixels, or SAME"
            )


def make_model(config: ModelConfig) -> Classifier:
    """The classifier of a config, with one output for each of `labels.LABELS`."""
    head = {
        "kind": "fer",
        "classes": len(LABELS),
        "filters": config.head_filters,
        "hidden": config.hidden,
        "dropout": config.dropout,
        "padding": config.head_padding,
    }
    return rebuild({**dataclasses.asdict(config), "head": head}, jnp.dtype(config.dtype))


HEADS: dict[str, Any] = {"fer": FerHead, "imagenet": ImagenetHead}


def describe(model: Classifier) -> dict[str, Any]:
    """All that rebuilds the model but the compute precision, as JSON holds it."""
    backbone, head = model.backbone, model.head
    style = {k: v for k, v in dataclasses.asdict(backbone.style).items() if k != "dtype"}
    kind = next((name for name, module in HEADS.items() if isinstance(head, module)), None)
    settings = {} if head is None else {name: getattr(head, name) for name in _settings(type(head))}
    return {
        "variant": backbone.variant,
        **style,
        "drop_connect": backbone.drop_connect,
        "stem_stride": backbone.stem_stride,
        "input_mean": list(model.input_mean),
        "input_std": list(model.input_std),
        "head": None if kind is None else {"kind": kind, **settings},
    }


def rebuild(description: Mapping[str, Any], dtype: Any) -> Classifier:
    """The model that `describe` described; KeyError or TypeError where it describes none."""
    style = {f.name: description[f.name] for f in dataclasses.fields(Style) if f.name != "dtype"}
    backbone = EfficientNet(
        description["variant"],
        Style(**style, dtype=dtype),
        description["drop_connect"],
        description["stem_stride"],
    )
    mean, std = tuple(description["input_mean"]), tuple(description["input_std"])
    if description["head"] is None:
        return Classifier(backbone, None, mean, std)
    settings = dict(description["head"])
    module = HEADS[settings.pop("kind")]
    if "dtype" in module.__dataclass_fields__:
        settings["dtype"] = dtype
    return Classifier(backbone, module(**settings), mean, std)


def variable_shapes(model: Classifier) -> dict[str, tuple[int, ...]]:
    """`params/backbone/stem/kernel` and so on to shapes: all that the model's variables hold.

    By the tables alone, since to trace the model takes seconds; a test holds them to Flax's own.
    """
    first, last = end_filters(model.backbone.variant)
    blocks = block_table(model.backbone.variant, drop_connect=0.0)
    kernels: dict[str, tuple[int, ...]] = {"backbone/stem": (3, 3, 3, first)}
    for block in blocks:
        kernels |= {f"backbone/{block.name}/{name}": it for name, it in block.kernels().items()}
    kernels["backbone/top"] = (1, 1, blocks[-1].filters_out, last)
    if isinstance(model.head, FerHead):
        kernels["head/conv"] = (HEAD_KERNEL, HEAD_KERNEL, last, model.head.filters)
        kernels["head/hidden"] = (model.head.filters, model.head.hidden)
        kernels["head/logits"] = (model.head.hidden, model.head.classes)
    elif model.head is not None:
        kernels["head/logits"] = (last, model.head.classes)

    # Heads and squeeze-excite have biases, all other layers a BatchNorm.
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, kernel in kernels.items():
        biased = layer.startswith("head/") or "squeeze_excite" in layer
        vectors = ("params/{}/bias",) if biased else NORM_VECTORS
        shapes[f"params/{layer}/kernel"] = kernel
        shapes |= {name.format(layer): kernel[-1:] for name in vectors}
    return dict(sorted(shapes.items()))


def _settings(module: Any) -> list[str]:
    """Names of a module's own fields, without those that Linen adds."""
    return [name for name in module.__annotations__ if name not in ("dtype", "parent", "name")]


def smallest_image_size(padding: str, stem_stride: int) -> int:
    """Pixels below which the head's 3x3 convolution finds no full window in the feature map.

    Four halvings, each rounded up, of the stem's output give three positions from 33 on.
    """
    return 32 * stem_stride + 1 if padding == "VALID" else 1
