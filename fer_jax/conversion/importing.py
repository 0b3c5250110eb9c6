"""A foreign file to a model file: which model it is, how it scales its input, its variables."""

import dataclasses
import hashlib
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from fer_jax.conversion import names
from fer_jax.conversion.keras_files import read_keras
from fer_jax.conversion.keras_models import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    KERAS_EPSILON,
    Scaling,
    recognise,
)
from fer_jax.conversion.layout import Arrays, import_variables
from fer_jax.conversion.torch_files import read_torch
from fer_jax.errors import UserError
from fer_jax.labels import LABELS
from fer_jax.model_file import About, ModelFile
from fer_jax.models.classifier import Classifier, FerHead, ImagenetHead, describe
from fer_jax.models.efficientnet import (
    PUBLISHED_STEM_STRIDE,
    VARIANTS,
    EfficientNet,
    Style,
    block_table,
    end_filters,
)

TORCH_EPSILON, MOMENTUM = 1e-5, 0.99
KERAS_DROP_CONNECT, SEED_DROPOUT = 0.2, 0.3
LITE_SCALING = {  # timm's (x - 127.5) / 127.5, and (x - 127) / 128 as Google trained them
    "timm": ((0.5,) * 3, (0.5,) * 3),
    "lukemelas": ((127 / 255,) * 3, (128 / 255,) * 3),
}
TORCHVISION_LARGE = ("b5", "b6", "b7")  # which keep TensorFlow's epsilon


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the user says of a file; None leaves it to the file or to the source's custom."""

    source: Literal["keras", "timm", "torchvision", "lukemelas"]
    variant: str
    padding: Literal["same", "symmetric"] | None
    input_mean: tuple[float, ...] | None
    input_std: tuple[float, ...] | None
    labels: tuple[str, ...] | None
    licence: str


def import_file(path: pathlib.Path, wanted: Wanted) -> ModelFile:
    """Read, recognise and convert a foreign file; UserError in one line where it does not fit."""
    if not os.path.isfile(path):
        raise UserError(f"no file {path}")
    if wanted.source == "keras":
        model, arrays = _keras_model(path, wanted)
    else:
        arrays = read_torch(path)
        model = _torch_model(arrays, wanted)
    try:
        variables = import_variables(model, wanted.source, arrays)
    except UserError as error:
        raise UserError(f"{path}: {error}{_looks_like(model, arrays)}") from error
    about = About(
        architecture=describe(model),
        image_size=VARIANTS[wanted.variant].image_size,
        labels=_labels(model, wanted),
        origin={"source": wanted.source, "file": path.name, "sha256": _sha256(path)},
        licence=wanted.licence,
        training_data=None,
        metrics=None,
    )
    return ModelFile(about, variables)


def _keras_model(path: pathlib.Path, wanted: Wanted) -> tuple[Classifier, Arrays]:
    file, told = read_keras(path), None
    if wanted.input_mean is not None and wanted.input_std is not None:
        told = wanted.input_mean, wanted.input_std
    try:
        found = recognise(file, wanted.variant, told)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    head = _head(found.arrays, "keras", found.head_padding)
    return _model(wanted, "same", found.epsilon, head, found.scaling), found.arrays


def _torch_model(arrays: Mapping[str, np.ndarray], wanted: Wanted) -> Classifier:
    custom = "symmetric" if wanted.source == "torchvision" else "same"
    padding = wanted.padding or custom
    large = wanted.source == "torchvision" and wanted.variant in TORCHVISION_LARGE
    epsilon = KERAS_EPSILON if padding == "same" or large else TORCH_EPSILON
    lite = LITE_SCALING.get(wanted.source) if wanted.variant.startswith("lite") else None
    scaling = lite or (IMAGENET_MEAN, IMAGENET_STD)
    return _model(wanted, padding, epsilon, _head(arrays, wanted.source, "VALID"), scaling)


def _model(wanted: Wanted, padding: Any, epsilon: float, head: Any, scaling: Scaling) -> Classifier:
    mean, std = wanted.input_mean or scaling[0], wanted.input_std or scaling[1]
    style = Style(padding, epsilon, MOMENTUM, jnp.float32)
    backbone = EfficientNet(wanted.variant, style, KERAS_DROP_CONNECT, PUBLISHED_STEM_STRIDE)
    return Classifier(backbone, head, tuple(mean), tuple(std))


def _head(arrays: Mapping[str, np.ndarray], column: str, padding: Any) -> Any:
    """The head whose parameters the file has, its sizes read from them; None where it has none."""
    place = names.COLUMNS.index(column) + 1
    leaf = "/bias" if column == "keras" else ".bias"
    (imagenet,) = (row[place] + leaf for row in names.IMAGENET_HEAD)
    seed = [row[place] + leaf for row in names.SEED_HEAD]
    if imagenet in arrays:
        return ImagenetHead(_width(imagenet, arrays), SEED_DROPOUT)
    if not all(name in arrays for name in seed):
        return None
    filters, hidden, classes = (_width(name, arrays) for name in seed)
    return FerHead(classes, filters, hidden, SEED_DROPOUT, padding, jnp.float32)


def _width(bias: str, arrays: Mapping[str, np.ndarray]) -> int:
    shape = arrays[bias].shape
    if len(shape) != 1 or shape[0] == 0:
        raise UserError(f"{bias} has the shape {list(shape)}: no layer's bias has")
    return shape[0]


def _labels(model: Classifier, wanted: Wanted) -> list[str] | None:
    """The names of the logits: as told, else the project's where there are as many."""
    classes = 0 if model.head is None else model.head.classes
    if wanted.labels is None:
        ours = isinstance(model.head, FerHead) and classes == len(LABELS)
        return list(LABELS) if ours else None
    if len(set(wanted.labels)) != len(wanted.labels):
        raise UserError(f"--labels={','.join(wanted.labels)} names a class twice")
    if len(wanted.labels) != classes:
        raise UserError(f"--labels names {len(wanted.labels)} classes, the file has {classes}")
    return list(wanted.labels)


_DEPTHWISE = re.compile(r"(_dwconv|depthwise_conv2d(_\d+)?)/kernel|\.conv_dw\.weight|\.fc1\.weight")


def _looks_like(model: Classifier, arrays: Mapping[str, np.ndarray]) -> str:
    """Which variant has the widths and the depth of what was found, if it is another one."""
    widths = {size for array in arrays.values() for size in array.shape}
    depth = sum(_DEPTHWISE.search(name) is not None for name in arrays)  # one per block
    for name in VARIANTS:
        fits = end_filters(name)[1] in widths
        if fits and name != model.backbone.variant and depth == len(block_table(name, 0.0)):
            return f"; it looks like --variant={name}"
    return ""


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
