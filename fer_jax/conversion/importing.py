"""A foreign file to a model file: which model it is, how it scales its input, its variables."""

import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from fer_jax.conversion import names
from fer_jax.conversion.keras_files import KerasFile, read_keras
from fer_jax.conversion.layout import Arrays, import_variables
from fer_jax.conversion.torch_files import read_torch
from fer_jax.errors import UserError
from fer_jax.labels import LABELS
from fer_jax.model_file import About, ModelFile
from fer_jax.models.classifier import Classifier, FerHead, ImagenetHead, describe
from fer_jax.models.efficientnet import (
    TOP_FILTERS,
    VARIANTS,
    EfficientNet,
    Style,
    block_table,
    round_filters,
)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KERAS_EPSILON, TORCH_EPSILON, MOMENTUM = 1e-3, 1e-5, 0.99
KERAS_DROP_CONNECT, SEED_DROPOUT = 0.2, 0.3
TORCHVISION_LARGE = ("b5", "b6", "b7")  # which keep TensorFlow's epsilon
Scaling = tuple[tuple[float, ...], tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the user says of a file; None leaves it to the file or to the source's custom."""

    source: Literal["keras", "timm", "torchvision"]
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
    file = read_keras(path)
    if not file.named:
        file = _name_by_order(file, wanted.variant)
    arrays = file.arrays()
    scaling: Scaling = IMAGENET_MEAN, IMAGENET_STD  # for as long as no other is known
    bare = _model(wanted, "same", KERAS_EPSILON, None, scaling)
    known = {name.split("/")[0] for name in names.foreign_names(bare, "keras").values()}
    try:
        _check_config(file)
        epsilon, padding = _epsilon(file), _seed_padding(file)
        if wanted.input_mean is None or wanted.input_std is None:
            scaling = _keras_scaling(file, arrays)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # whatever a made-up config leads to
        raise UserError(f"{path} has a broken config: {' '.join(repr(error).split())}") from error
    arrays = {k: a for k, a in arrays.items() if k.rpartition("/")[2] in _KERAS_VARIABLES}
    arrays = _rename_seed_head(arrays, known)
    head = _head(arrays, "keras", padding)
    return _model(wanted, "same", epsilon, head, scaling), arrays


def _torch_model(arrays: Mapping[str, np.ndarray], wanted: Wanted) -> Classifier:
    custom = "symmetric" if wanted.source == "torchvision" else "same"
    padding = wanted.padding or custom
    large = wanted.source == "torchvision" and wanted.variant in TORCHVISION_LARGE
    epsilon = KERAS_EPSILON if padding == "same" or large else TORCH_EPSILON
    scaling = IMAGENET_MEAN, IMAGENET_STD
    return _model(wanted, padding, epsilon, _head(arrays, wanted.source, "VALID"), scaling)


def _model(wanted: Wanted, padding: Any, epsilon: float, head: Any, scaling: Scaling) -> Classifier:
    mean, std = wanted.input_mean or scaling[0], wanted.input_std or scaling[1]
    style = Style(padding, epsilon, MOMENTUM, jnp.float32)
    return Classifier(
        EfficientNet(wanted.variant, style, KERAS_DROP_CONNECT), head, tuple(mean), tuple(std)
    )


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


_KERAS_VARIABLES = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")


def _rename_seed_head(arrays: Arrays, known: set[str]) -> Arrays:
    """The seed's three layers, whatever Keras numbered them, by kind and order to our names."""
    layers = list(dict.fromkeys(name.rpartition("/")[0] for name in arrays))
    foreign = [layer for layer in layers if layer not in known and layer != "predictions"]
    kernels = [arrays[f"{layer}/kernel"].ndim for layer in foreign if f"{layer}/kernel" in arrays]
    if sorted(kernels) != [2, 2, 4] or len(foreign) != len(kernels):
        return arrays
    conv, *dense = sorted(foreign, key=lambda layer: -arrays[f"{layer}/kernel"].ndim)
    ours = dict(zip((conv, *dense), (row[1] for row in names.SEED_HEAD), strict=True))
    return {_renamed(name, ours): array for name, array in arrays.items()}


def _renamed(name: str, ours: Mapping[str, str]) -> str:
    layer, _, variable = name.rpartition("/")
    return f"{ours.get(layer, layer)}/{variable}"


_LAYERS = {  # of the backbone, its scaling of the input, and the heads; Random... do nothing here
    "InputLayer", "Rescaling", "Normalization", "ZeroPadding2D", "Conv2D", "DepthwiseConv2D",
    "BatchNormalization", "Activation", "GlobalAveragePooling2D", "Reshape", "Multiply", "Dropout",
    "Add", "Dense",
}  # fmt: skip
_ACTIVATED = {"Conv2D", "DepthwiseConv2D", "Activation", "Dense"}
_BACKBONE = re.compile(r"(stem|top|block\d[a-z])(_\w+)?_(activation|\w*conv|se_reduce|se_expand)")

KINDS = {  # Keras' class names in files, and how the layers of each are called in the backbone
    "conv2d": ("_conv", "_se_reduce", "_se_expand"),
    "depthwise_conv2d": ("_dwconv",),
    "batch_normalization": ("_bn",),
}


def _name_by_order(file: KerasFile, variant: str) -> KerasFile:
    """Names for a file that has only class names and numbers: per class, in the model's order."""
    waiting = {kind: list(_layers_of(variant, kind)) for kind in KINDS}
    depth = max(path.count("layers/") for path in file.layers)
    dense = [path for path in file.layers if path.split("/")[-1].startswith("dense")]
    layers = {}
    for path, arrays in file.layers.items():
        name = path.split("/")[-1]
        left = waiting.get(name.rstrip("0123456789").rstrip("_"), [])
        if left and path.count("layers/") == depth:
            name = left.pop(0)
        name = "predictions" if dense == [path] else name
        layers[path if name in layers else name] = arrays
    return KerasFile(layers, True, file.config)


def _layers_of(variant: str, kind: str) -> list[str]:
    """Keras' layer names of one class in the order in which Keras builds them."""
    blocks = block_table(variant, 0.0)
    per_block = (
        f"{block.name}{row[1].removeprefix('{block}')}"
        for block in blocks
        for row in (names.BLOCK if block.expansion != 1 else names.BLOCK_WITHOUT_EXPANSION)
    )
    every = ["stem_conv", "stem_bn", *per_block, "top_conv", "top_bn"]
    return [name for name in every if name.endswith(KINDS[kind])]


def _check_config(file: KerasFile) -> None:
    """UserError where a whole model's config has what neither EfficientNet nor our heads have."""
    layers = file.configured()
    dense = [settings["name"] for kind, settings in layers if kind == "Dense"]
    for kind, settings in layers:
        name, activation = settings["name"], settings.get("activation")
        if kind not in _LAYERS and not kind.startswith("Random"):
            raise UserError(
                f"its layer {name!r} is a {kind}, which only Keras can run: "
                "save the weights alone if the model does without it"
            )
        expected = ("softmax", "linear") if name in dense[-1:] else _activations(kind, name)
        if kind in _ACTIVATED and activation not in expected:
            raise UserError(f"its layer {name!r} has {activation!r}, not {' or '.join(expected)}")


def _activations(kind: str, name: str) -> tuple[str, ...]:
    """Of a layer of the backbone, or of the seed's head before the logits."""
    if not _BACKBONE.fullmatch(name):
        return ("relu", "softmax") if kind == "Activation" else ("relu",)
    if name.endswith(("_activation", "_se_reduce")):
        return ("swish", "silu")
    return ("sigmoid",) if name.endswith("_se_expand") else ("linear",)


def _epsilon(file: KerasFile) -> float:
    """Of all BatchNorms: the stem's as the config tells it."""
    found = [settings for _, settings in file.configured() if settings["name"] == "stem_bn"]
    return float(found[0]["epsilon"]) if found else KERAS_EPSILON


def _seed_padding(file: KerasFile) -> str:
    """The padding of the head's convolution: the last Conv2D of the config, VALID without one."""
    known = [s for kind, s in file.configured() if kind == "Conv2D" and s["kernel_size"] == [3, 3]]
    return known[-1]["padding"].upper() if known and known[-1]["name"] != "stem_conv" else "VALID"


def _keras_scaling(file: KerasFile, arrays: Arrays) -> Scaling:
    """Mean and deviation on the scale 0..1, from all layers before the stem taken together.

    The published weights hold the deviation as a variance, and Keras adds a Rescaling by
    1 / sqrt(deviation) where it is built with them (keras.applications.efficientnet). A whole
    model's config shows it; weights alone with just that variance are taken to be the published.
    """
    statistics = _statistics(arrays)
    layers = file.configured()
    if file.config is None and len(statistics) == 1:
        published = np.allclose(statistics[0][1], IMAGENET_STD, rtol=1e-3)
        extra = 1 / np.sqrt(IMAGENET_STD) if published else 1.0
        layers = [("Rescaling", {"scale": 1 / 255}), ("Normalization", {})]
        layers += [("Rescaling", {"scale": extra})]
    if not any(kind == "Rescaling" for kind, _ in layers):
        raise UserError("it does not scale its input itself: give --input_mean and --input_std")
    factor, shift = np.full(3, 255.0), np.zeros(3)  # of x / 255
    with np.errstate(all="ignore"):
        for kind, settings in itertools.takewhile(lambda layer: not _is_stem(layer), layers):
            if kind == "Rescaling":
                scale = np.asarray(settings["scale"], np.float64)
                factor, shift = factor * scale, shift * scale + settings.get("offset", 0.0)
            elif kind == "Normalization":
                mean, variance = _constants(settings) or statistics.pop(0)
                factor, shift = factor / np.sqrt(variance), (shift - mean) / np.sqrt(variance)
        mean, std = 0.0 - shift / factor, 1 / factor
    if not (np.isfinite(mean) & np.isfinite(std) & (std > 0)).all():
        raise UserError(f"it scales its input by {std} from {mean}: give --input_mean, --input_std")
    return tuple(mean.tolist()), tuple(std.tolist())


def _is_stem(layer: tuple[str, dict[str, Any]]) -> bool:
    return layer[1].get("name") == "stem_conv"


def _statistics(arrays: Arrays) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and variance, float64 [3], of every Normalization, in the order of the layers."""
    layers = [name.removesuffix("/mean") for name in arrays if name.endswith("/mean")]
    return [
        (_per_channel(arrays[f"{layer}/mean"]), _per_channel(arrays[f"{layer}/variance"]))
        for layer in layers
    ]


def _constants(settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and variance of a Normalization that was told them; None where it has learned them."""
    if settings.get("invert"):
        raise UserError("its Normalization is inverted: give --input_mean and --input_std")
    if settings.get("mean") is None:
        return None
    return _per_channel(settings["mean"]), _per_channel(settings["variance"])


def _per_channel(values: Any) -> np.ndarray:
    return np.broadcast_to(np.asarray(values, np.float64).ravel(), 3)


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
    for name, row in VARIANTS.items():
        fits = round_filters(TOP_FILTERS, row.width) in widths
        if fits and name != model.backbone.variant and depth == len(block_table(name, 0.0)):
            return f"; it looks like --variant={name}"
    return ""


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
