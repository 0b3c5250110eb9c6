"""Which model a Keras file holds: its layers, its scaling, and what only Keras could run."""

import dataclasses
import itertools
import re
from typing import Any

import numpy as np

from fer_jax.conversion import names
from fer_jax.conversion.keras_files import SCALING, KerasFile
from fer_jax.conversion.layout import Arrays
from fer_jax.errors import UserError, one_line
from fer_jax.models.efficientnet import block_table

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KERAS_EPSILON = 1e-3
KINDS = {  # Keras' class names in files, and how the layers of each are called in the backbone
    "conv2d": ("_conv", "_se_reduce", "_se_expand"),
    "depthwise_conv2d": ("_dwconv",),
    "batch_normalization": ("_bn",),
}
Scaling = tuple[tuple[float, ...], tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class Recognised:
    """A Keras file's arrays under the names of names.py, and what else it says; None: nothing."""

    arrays: Arrays
    epsilon: float
    head_padding: str | None  # of the notebook's convolution
    image_size: int | None  # pixels
    scaling: Scaling  # mean and deviation on the scale 0..1


def recognise(
    file: KerasFile, variant: str, told: Scaling | None, drop_head: bool = False
) -> Recognised:
    """The model of a file, its scaling as `told` or its own; UserError for what is no such one."""
    if not file.named:
        file = _name_by_order(file, variant)
    arrays = file.arrays()
    try:
        _check_config(file, drop_head)
        epsilon, padding, size = _epsilon(file), _head_padding(file), _image_size(file)
        scaling = told or _scaling(file, arrays)
    except UserError:
        raise
    except Exception as error:  # whatever a made-up config leads to
        raise UserError(f"a broken config: {one_line(error)}") from error
    arrays = {k: a for k, a in arrays.items() if k.rpartition("/")[2] not in SCALING}
    return Recognised(_rename_head(arrays, variant), epsilon, padding, size, scaling)


def _rename_head(arrays: Arrays, variant: str) -> Arrays:
    """The notebook's three layers, whatever Keras numbered them, by kind and order to our names."""
    known = {"predictions", *backbone_layers(variant)}
    layers = dict.fromkeys(name.rpartition("/")[0] for name in arrays)
    foreign = [layer for layer in layers if layer not in known]
    axes = {x: arrays[f"{x}/kernel"].ndim for x in foreign if f"{x}/kernel" in arrays}
    if sorted(axes.values()) != [2, 2, 4] or len(foreign) != len(axes):
        return arrays
    ordered = sorted(foreign, key=lambda layer: -axes[layer])  # the convolution, then as they come
    ours = dict(zip(ordered, (row[1] for row in names.SEED_HEAD), strict=True))
    parts = {name: name.rpartition("/") for name in arrays}
    return {f"{ours.get(x, x)}/{leaf}": arrays[name] for name, (x, _, leaf) in parts.items()}


_LAYERS = {  # of the backbone, its scaling of the input, and the heads; Random... do nothing here
    "InputLayer", "Rescaling", "Normalization", "ZeroPadding2D", "Conv2D", "DepthwiseConv2D",
    "BatchNormalization", "Activation", "GlobalAveragePooling2D", "Reshape", "Multiply", "Dropout",
    "Add", "Dense",
}  # fmt: skip
_ACTIVATED = {"Conv2D", "DepthwiseConv2D", "Activation", "Dense"}
_LAST = "top_activation"  # of the backbone
_BACKBONE = re.compile(r"(stem|top|block\d[a-z])(_\w+)?_(activation|\w*conv|se_reduce|se_expand)")


def _name_by_order(file: KerasFile, variant: str) -> KerasFile:
    """Names for a file that has only class names and numbers: per class, in the model's order."""
    backbone = backbone_layers(variant)
    waiting = {kind: [x for x in backbone if x.endswith(ends)] for kind, ends in KINDS.items()}
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
    return dataclasses.replace(file, layers=layers, named=True)


def backbone_layers(variant: str) -> list[str]:
    """Keras' names of the layers that have variables, in the order in which Keras builds them."""
    per_block = (
        row[1].format(block=block.name)
        for block in block_table(variant, 0.0)
        for row in (names.BLOCK if block.expansion != 1 else names.BLOCK_WITHOUT_EXPANSION)
    )
    return ["stem_conv", "stem_bn", *per_block, "top_conv", "top_bn"]


def _check_config(file: KerasFile, drop_head: bool) -> None:
    """UserError where a whole model's config has what neither EfficientNet nor our heads have."""
    layers = file.configured()
    if drop_head and layers:
        layers = layers[: 1 + [settings["name"] for _, settings in layers].index(_LAST)]
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


def _head_padding(file: KerasFile) -> str | None:
    """The padding of the head's convolution: the config's last Conv2D but the stem's."""
    known = [s for kind, s in file.configured() if kind == "Conv2D" and s["kernel_size"] == [3, 3]]
    return known[-1]["padding"].upper() if known and known[-1]["name"] != "stem_conv" else None


def _image_size(file: KerasFile) -> int | None:
    """The side of the square images that the model was built for, if for those of one size."""
    inputs = [settings for kind, settings in file.configured() if kind == "InputLayer"]
    shapes = [s.get("batch_shape") or s.get("batch_input_shape") for s in inputs]  # Keras 3, 2
    sides = (shape[1] for shape in shapes if shape and shape[1] == shape[2] is not None)
    return next(sides, None)


def _scaling(file: KerasFile, arrays: Arrays) -> Scaling:
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
        for kind, settings in itertools.takewhile(
            lambda x: x[1].get("name") != "stem_conv", layers
        ):
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
