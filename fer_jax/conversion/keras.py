"""Keras' files without Keras: whole models and weights alone, .h5 and .keras, and what they say.

Keras 3.15 on its JAX backend was tried: as harmless with hostile files, but 11 s and 1 GB for what
takes 0.5 s here, and weights alone it reads only into a model that someone has built before.
"""

import dataclasses
import io
import itertools
import json
import math
import pathlib
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from fer_jax.conversion import names
from fer_jax.conversion.names import Arrays
from fer_jax.errors import UserError, one_line
from fer_jax.models.efficientnet import block_table

LARGEST = 2**30  # bytes of an archive's weights, and of all arrays that are read from a file
DEEPEST = 40  # groups within groups
LARGEST_CONFIG = 2**23  # bytes; B7's has a twentieth
METADATA = "fer_jax"  # the group of our own texts, as bytes: attributes hold 64 KiB at most
SCALING = ("mean", "variance", "count")
VARIABLES: dict[int, tuple[str, ...]] = {  # a layer's, by how many it has, in Keras' order
    1: ("kernel",),
    2: ("kernel", "bias"),
    3: SCALING,
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KERAS_EPSILON = 1e-3
KINDS = {  # Keras' class names in files, and how the layers of each are called in the backbone
    "conv2d": ("_conv", "_se_reduce", "_se_expand"),
    "depthwise_conv2d": ("_dwconv",),
    "batch_normalization": ("_bn",),
}
Scaling = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation on the scale 0..1
Configured = list[tuple[str, dict[str, Any]]]  # class name and settings of layers


@dataclasses.dataclass(frozen=True)
class KerasFile:
    """Layers in the model's order, each with its arrays in Keras' order, and what is configured."""

    layers: dict[str, list[np.ndarray]]
    named: bool  # False: layer names are only class names with a number
    configured: Configured  # every layer of the saved config, nested models opened
    metadata: dict[str, str]  # what `write_weights` was given with them

    def arrays(self) -> Arrays:
        """`stem_bn/gamma` to array; of layers unlike ours `attention/0`, `attention/1`, ..."""
        found = {}
        for layer, arrays in self.layers.items():
            known = VARIABLES.get(len(arrays), ())
            if known == SCALING and arrays[-1].ndim:  # its count is one number
                known = ()
            for number, array in enumerate(arrays):
                found[f"{layer}/{known[number] if known else number}"] = array
        return found


def read_keras(path: pathlib.Path) -> KerasFile:
    """Read any of Keras' formats by what lies in the file; UserError in one line otherwise."""
    try:
        if zipfile.is_zipfile(path):
            return _read_archive(path)
        with h5py.File(path, "r") as file:
            return _read_hdf5(file)
    except Exception as error:  # whatever HDF5, zip and JSON make of a broken file
        raise UserError(f"cannot read {path} as a Keras file: {one_line(error)}") from error


def recognise(
    file: KerasFile, variant: str, told: Scaling | None, drop_head: bool = False
) -> tuple[Arrays, dict[str, Any]]:
    """A file's arrays under the names of names.py, and what it says of its model; None: nothing.

    Its scaling is as `told` or its own. UserError for what is no such model.
    """
    if not file.named:
        file = _name_by_order(file, variant)
    arrays = file.arrays()
    _check_config(file.configured, drop_head)
    mean, std = told or _scaling(file.configured, arrays)
    says = {"padding": "same", "input_mean": mean, "input_std": std} | _settings(file.configured)
    arrays = {k: a for k, a in arrays.items() if k.rpartition("/")[2] not in SCALING}
    return _rename_head(arrays, variant), says


def write_weights(
    path: pathlib.Path, places: dict[str, Arrays], metadata: Mapping[str, str]
) -> None:
    """The .weights.h5 of Keras 3: `layers/functional/layers/conv2d_3` -> `stem_conv/kernel`, ...

    `metadata` lies in a group of its own, of which Keras takes no notice.
    """
    with h5py.File(path, "w") as file:
        for key, text in metadata.items():
            file[f"{METADATA}/{key}"] = np.frombuffer(text.encode(), np.uint8)
        for model in dict.fromkeys(place.rpartition("layers/")[0] for place in places):
            file.create_group(f"{model}vars")  # a model has none of its own, but the group
        for place, arrays in places.items():
            group = file.create_group(f"{place}/vars")
            group.attrs["name"] = next(iter(arrays)).split("/")[0]
            for number, array in enumerate(arrays.values()):
                group.create_dataset(str(number), data=array)


def backbone_layers(variant: str) -> list[str]:
    """Keras' names of the layers that have variables, in the order in which Keras builds them."""
    per_block = (
        row[1].format(block=block.name)
        for block in block_table(variant, 0.0)
        for row in (names.BLOCK if block.expansion != 1 else names.BLOCK_WITHOUT_EXPANSION)
    )
    return ["stem_conv", "stem_bn", *per_block, "top_conv", "top_bn"]


# ---- what lies in the file ----------------------------------------------------------------------


def _read_archive(path: pathlib.Path) -> KerasFile:
    with zipfile.ZipFile(path) as archive:
        for member, largest in (("config.json", LARGEST_CONFIG), ("model.weights.h5", LARGEST)):
            _check_size(member, archive.getinfo(member).file_size, largest)
        config = json.loads(archive.read("config.json"))
        with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as file:
            return _read_hdf5(file, config)


def _read_hdf5(file: h5py.File, config: Any = None) -> KerasFile:
    """Arrays by layer: listed in attributes before Keras 3, from then on in groups `vars`."""
    # What lies in this very file: visititems follows no link to others, and no circle.
    items: dict[str, Any] = {"": file}

    def add(name: str, item: Any) -> None:
        if name.count("/") > DEEPEST:
            raise UserError(f"its groups within groups have no end: {name[:60]}...")
        items[f"/{name}"] = item

    file.visititems(add)
    root = "/model_weights" if "/model_weights" in items else ""
    named = "layer_names" in items[root].attrs or "layer_names0" in items[root].attrs
    if named:
        places = _legacy_places(items, root)
        text = file.attrs.get("model_config", "null")
        _check_size("model_config", len(text), LARGEST_CONFIG)
        config = json.loads(text)
    else:
        places, named = _places(items)
    if not places:
        raise UserError("the file holds no layers")

    texts = [path for path in items if path.startswith(f"/{METADATA}/")]
    arrays = _arrays(items, [*itertools.chain(*places.values()), *texts])
    layers = {layer: [arrays[path] for path in paths] for layer, paths in places.items()}
    metadata = {path.split("/")[-1]: arrays[path].tobytes().decode() for path in texts}
    return KerasFile(layers, named, _walk_config(config), metadata)


def _legacy_places(items: dict[str, Any], root: str) -> dict[str, list[str]]:
    """Layers, and weights of each, are lists of names in attributes."""
    places: dict[str, list[str]] = {}
    for saved in _attributes(items[root], "layer_names"):
        for weight in _attributes(_item(items, f"{root}/{saved}"), "weight_names"):
            layer = weight.split("/")[-2] if "/" in weight else saved
            places.setdefault(layer, []).append(f"{root}/{saved}/{weight}")
    return places


def _places(items: dict[str, Any]) -> tuple[dict[str, list[str]], bool]:
    """Keras 3: `/layers/functional/layers/conv2d/vars/0`, whose `vars` has the layer's name.

    The second is whether all have one, as files before Keras 3.4 do not.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(filter(_VARIABLE.fullmatch, items), key=_natural):
        found.setdefault(path.rpartition("/")[0], []).append(path)
    names = {group: _text(items[group].attrs.get("name", "")) for group in found}
    named = all(names.values())
    places: dict[str, list[str]] = {}
    for group, paths in found.items():
        unique = named and names[group] not in places
        places[names[group] if unique else group.strip("/").removesuffix("/vars")] = paths
    return places, named


_VARIABLE = re.compile(r"(/layers/[^/]+)+/vars/\d+")


def _natural(name: str) -> list[Any]:
    """A sort key by which conv2d_10 follows conv2d_9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _item(items: dict[str, Any], path: str) -> Any:
    if path not in items:
        raise UserError(f"it has no {path[:200]} of its own: only whole files are read")
    return items[path]


def _attributes(item: Any, name: str) -> list[str]:
    """A list of names, which Keras splits over name0, name1, ... where it is long."""
    split = sorted((key for key in item.attrs if key.startswith(name)), key=_natural)
    return [_text(text) for key in split for text in np.asarray(item.attrs[key]).tolist()]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _arrays(items: dict[str, Any], paths: list[str]) -> Arrays:
    """What lies at `paths`; UserError for what is no plain array, or for too much together."""
    left = LARGEST
    for path in paths:
        item = _item(items, path)
        if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiu":
            raise UserError(f"{path} is no array of numbers")
        if item.shape is None:
            raise UserError(f"{path} is empty")
        if item.external or item.is_virtual:
            raise UserError(f"{path} lies in another file: only whole files are read")
        left -= math.prod(item.shape) * item.dtype.itemsize  # .size overflows
        if left < 0:
            raise UserError(f"the file says it holds more than {LARGEST:,} bytes of arrays")
    return {path: np.asarray(items[path][()]) for path in paths}


def _check_size(what: str, size: int, largest: int) -> None:
    if size > largest:
        raise UserError(f"{what} has {size:,} bytes, the limit is {largest:,}")


# ---- which layer is which -----------------------------------------------------------------------


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


def _rename_head(arrays: Arrays, variant: str) -> Arrays:
    """The notebook's three layers, whatever Keras numbered them, by kind and order to our names."""
    known = {"predictions", *backbone_layers(variant)}
    layers = dict.fromkeys(name.rpartition("/")[0] for name in arrays)
    foreign = [layer for layer in layers if layer not in known]
    axes = {x: arrays[f"{x}/kernel"].ndim for x in foreign if f"{x}/kernel" in arrays}
    if sorted(axes.values()) != [2, 2, 4] or len(foreign) != len(axes):
        return arrays
    ordered = sorted(foreign, key=lambda layer: -axes[layer])  # the convolution, then as they come
    ours = dict(zip(ordered, (row[1] for row in names.NOTEBOOK_HEAD), strict=True))
    parts = {name: name.rpartition("/") for name in arrays}
    return {f"{ours.get(x, x)}/{leaf}": arrays[name] for name, (x, _, leaf) in parts.items()}


# ---- what a whole model's config says -----------------------------------------------------------

_LAYERS = {  # of the backbone, its scaling of the input, and the heads; Random... do nothing here
    "InputLayer", "Rescaling", "Normalization", "ZeroPadding2D", "Conv2D", "DepthwiseConv2D",
    "BatchNormalization", "Activation", "GlobalAveragePooling2D", "Reshape", "Multiply", "Dropout",
    "Add", "Dense",
}  # fmt: skip
_ACTIVATED = {"Conv2D", "DepthwiseConv2D", "Activation", "Dense"}
_LAST = "top_activation"  # of the backbone
_BACKBONE = re.compile(r"(stem|top|block\d[a-z])(_\w+)?_(activation|\w*conv|se_reduce|se_expand)")


def _walk_config(config: dict[str, Any] | None) -> Configured:
    layers: Configured = []
    for layer in config["config"]["layers"] if config is not None else ():
        nested = "layers" in layer["config"]
        layers += _walk_config(layer) if nested else [(layer["class_name"], layer["config"])]
    return layers


def _check_config(layers: Configured, drop_head: bool) -> None:
    """UserError where a whole model's config has what neither EfficientNet nor our heads have."""
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
    """Of a layer of the backbone, or of the notebook's head before the logits."""
    if not _BACKBONE.fullmatch(name):
        return ("relu", "softmax") if kind == "Activation" else ("relu",)
    if name.endswith(("_activation", "_se_reduce")):
        return ("swish", "silu")
    return ("sigmoid",) if name.endswith("_se_expand") else ("linear",)


def _settings(layers: Configured) -> dict[str, Any]:
    """BatchNorm's epsilon; the side of the images, and the head's padding, where they are told."""
    says: dict[str, Any] = {"bn_epsilon": KERAS_EPSILON}
    for kind, settings in layers:
        if settings["name"] == "stem_bn":
            says["bn_epsilon"] = float(settings["epsilon"])
        elif kind == "InputLayer":
            shape = settings.get("batch_shape") or settings.get("batch_input_shape")  # Keras 3, 2
            if shape and shape[1] == shape[2] is not None:
                says.setdefault("image_size", shape[1])
        elif kind == "Conv2D" and settings["name"] != "stem_conv":
            head = settings["kernel_size"] == [3, 3]  # all others are of 1x1
            says |= {"head_padding": settings["padding"].upper()} if head else {}
    return says


def _scaling(layers: Configured, arrays: Arrays) -> Scaling:
    """From all layers before the stem taken together.

    The published weights hold the deviation as a variance, and Keras adds a Rescaling by
    1 / sqrt(deviation) where it is built with them (keras.applications.efficientnet). A whole
    model's config shows it; weights alone with just that variance are taken to be the published.
    """
    known = [name.removesuffix("/mean") for name in arrays if name.endswith("/mean")]
    learned = [(arrays[f"{name}/mean"], arrays[f"{name}/variance"]) for name in known]
    if not layers and len(learned) == 1:
        published = np.allclose(learned[0][1].ravel(), IMAGENET_STD, rtol=1e-3)
        extra = 1 / np.sqrt(IMAGENET_STD) if published else 1.0
        layers = [("Rescaling", {"scale": 1 / 255}), ("Normalization", {})]
        layers += [("Rescaling", {"scale": extra})]
    if not any(kind == "Rescaling" for kind, _ in layers):
        raise UserError("it does not scale its input itself: give --input_mean and --input_std")

    # What a pixel x becomes is factor * x / 255 + shift.
    factor, shift = np.full(3, 255.0), np.zeros(3)
    before = itertools.takewhile(lambda layer: layer[1].get("name") != "stem_conv", layers)
    with np.errstate(all="ignore"):
        for kind, settings in before:
            if kind == "Rescaling":
                scale = np.asarray(settings["scale"], np.float64)
                factor, shift = factor * scale, shift * scale + settings.get("offset", 0.0)
            elif kind == "Normalization":
                told = settings.get("mean") is not None  # else learned, and among the arrays
                both = (settings["mean"], settings["variance"]) if told else learned.pop(0)
                mean, variance = (np.asarray(value, np.float64).ravel() for value in both)
                factor, shift = factor / np.sqrt(variance), (shift - mean) / np.sqrt(variance)
        mean, std = 0.0 - shift / factor, 1 / factor
    inverted = any(settings.get("invert") for _, settings in layers)
    if inverted or not (np.isfinite(mean) & np.isfinite(std) & (std > 0)).all():
        raise UserError(f"it scales its input by {std} from {mean}: give --input_mean, --input_std")
    return tuple(mean.tolist()), tuple(std.tolist())
