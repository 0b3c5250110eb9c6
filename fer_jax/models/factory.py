"""The section `model` of the configuration, and the classifier that it describes."""

import dataclasses

import jax.numpy as jnp

from fer_jax.errors import UserError
from fer_jax.labels import LABELS
from fer_jax.models.classifier import Classifier, FerHead, smallest_image_size
from fer_jax.models.efficientnet import VARIANTS, EfficientNet, Style
from fer_jax.sections import Section, key


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
    input_mean: tuple[float, float, float] = key()  # on the scale 0..1
    input_std: tuple[float, float, float] = key()
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
    dtype = jnp.dtype(config.dtype)
    style = Style(config.padding, config.bn_epsilon, config.bn_momentum, dtype)  # type: ignore[arg-type]
    backbone = EfficientNet(config.variant, style, config.drop_connect, config.stem_stride)
    head = FerHead(
        len(LABELS),
        config.head_filters,
        config.hidden,
        config.dropout,
        config.head_padding,  # type: ignore[arg-type]
        dtype,
    )
    return Classifier(backbone, head, config.input_mean, config.input_std)
