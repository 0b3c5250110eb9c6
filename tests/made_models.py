"""Made model files in the layouts of four libraries, by rules of their own.

Names and axes are written out here once more, not taken from the tables under test; how the files
are laid out was read off files of tf.keras 2.15 and Keras 3.0.5, 3.3.3 and 3.15.1.
"""

import contextlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from fer_jax.conversion.importing import Wanted, import_file
from fer_jax.errors import UserError
from fer_jax.labels import LABELS
from fer_jax.model_file import About, ModelFile
from fer_jax.models import efficientnet
from fer_jax.models.classifier import Classifier, FerHead, ImagenetHead, describe, variable_shapes
from fer_jax.models.efficientnet import EfficientNet, Style

UNIT = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
PUBLISHED = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HEADS = {
    "none": None,
    "imagenet": ImagenetHead(10, 0.3),
    "fer": FerHead(7, 6, 5, 0.3, "VALID", jnp.float32),
    "fer same": FerHead(7, 6, 5, 0.3, "SAME", jnp.float32),
}
SEED_NAMES = ("conv2d", "dense", "dense_1")


@contextlib.contextmanager
def two_stages() -> Iterator[None]:
    """Backbones of two stages: five blocks of B2, with and without expansion, two of one shape."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "STAGES", efficientnet.STAGES[:2])
        yield


def made_model(
    variant: str = "b2",
    head: str = "fer",
    padding: Any = "same",
    epsilon: float = 1e-3,
    scaling: Any = UNIT,
    stem_stride: int = 2,
) -> Classifier:
    style = Style(padding, epsilon, 0.99, jnp.float32)
    backbone = EfficientNet(variant, style, 0.2, stem_stride)
    return Classifier(backbone, HEADS[head], *scaling)


def made_variables(model: Classifier, seed: int = 0) -> dict[str, Any]:
    """No two values alike; variances above zero."""
    draw = np.random.default_rng(seed)
    flat = {
        name: draw.uniform(0.1, 2.0, shape).astype(np.float32)
        for name, shape in variable_shapes(model).items()
    }
    return unflatten_dict(flat, sep="/")


def made_file(model: Classifier, seed: int = 0, **changes: Any) -> ModelFile:
    classes = 0 if model.head is None else model.head.classes
    about = About(
        architecture=describe(model),
        image_size=260,
        labels=list(LABELS) if classes == 7 else None,
        origin={"source": "made", "seed": seed},
        licence="CC0-1.0",
        training_data={"train": "ab12"},
        metrics={"accuracy": 0.25},
    )
    return ModelFile(replace(about, **changes), made_variables(model, seed))


def trained_variables(model: Classifier, seed: int = 0) -> dict[str, Any]:
    """As of a model that learned: kernels of both signs that keep a layer's scale, and BatchNorms.

    Answers then depend on every layer and on the images.
    """
    draw, flat = np.random.default_rng(seed), {}
    for name, shape in variable_shapes(model).items():
        spread = np.sqrt(2 / np.prod(shape[:-1])) if name.endswith("kernel") else 0.3
        centre = 1.0 if name.endswith(("scale", "var")) else 0.0
        values = centre + spread * draw.standard_normal(shape)
        flat[name] = np.float32(np.abs(values) + 0.1 if name.endswith("var") else values)
    return unflatten_dict(flat, sep="/")


def made_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """uint8 [count, size, size, 3], each of a brightness of its own."""
    draw = np.random.default_rng(seed)
    levels = np.linspace(80, 255, count)[:, None, None, None]
    return (levels * draw.random((count, size, size, 3))).astype(np.uint8)


def wanted(source: Any = "keras", variant: str = "b2", **changes: Any) -> Wanted:
    """With what files without a header do not say of models that `made_file` describes."""
    told: dict[str, Any] = {"image_size": 260, "head_padding": "VALID"}
    return Wanted(source, variant, **(told | changes))


def modules(variables: Any) -> dict[str, dict[str, np.ndarray]]:
    """`backbone/block2a/expand` -> {"kernel": ...}; statistics beside parameters."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for path, leaf in flatten_dict(variables).items():
        found.setdefault("/".join(path[1:-1]), {})[path[-1]] = np.asarray(leaf)
    return found


# ---- Keras -------------------------------------------------------------------------------------

KERAS_PART = {
    "expand": "expand_conv",
    "expand_bn": "expand_bn",
    "depthwise": "dwconv",
    "depthwise_bn": "bn",
    "squeeze_excite/reduce": "se_reduce",
    "squeeze_excite/expand": "se_expand",
    "project": "project_conv",
    "project_bn": "project_bn",
}
KERAS_CLASS = {
    "bn": ("BatchNormalization", "batch_normalization"),
    "dwconv": ("DepthwiseConv2D", "depthwise_conv2d"),
    "conv": ("Conv2D", "conv2d"),
    "normalization": ("Normalization", "normalization"),
    "dense": ("Dense", "dense"),
    "activation": ("Activation", "activation"),
}


@dataclass(frozen=True)
class Layer:
    """One of Keras' layers with its variables in Keras' order, and what its config says."""

    kind: str
    name: str
    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]

    @property
    def in_backbone(self) -> bool:
        return self.name.startswith(("stem", "block", "top_", "normalization"))

    def config(self) -> dict[str, Any]:
        return {
            "class_name": KERAS_CLASS[self.kind][0],
            "config": {"name": self.name, "dtype": "float32", **self.settings},
        }


def keras_layers(
    model: Classifier,
    variables: Any,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    variance: Sequence[float] = (1.0, 1.0, 1.0),
    head_names: Sequence[str] = SEED_NAMES,
    head_padding: str = "valid",
) -> list[Layer]:
    """All layers that have variables, and two that have none, in the order of Keras' model."""
    ours = modules(variables)
    statistics = {
        "mean": np.float32(mean),
        "variance": np.float32(variance),
        "count": np.zeros((), np.int32),
    }
    layers = [Layer("normalization", "normalization", statistics, {"mean": None})]
    layers += _conv_and_bn("stem", "backbone/stem", ours)
    layers.append(Layer("activation", "stem_activation", {}, {"activation": "silu"}))
    blocks = sorted({m.split("/")[1] for m in ours if m.startswith("backbone/block")})
    for block in blocks:
        parts = {p: n for p, n in KERAS_PART.items() if f"backbone/{block}/{p}" in ours}
        layers += [_layer(f"{block}_{n}", ours[f"backbone/{block}/{p}"]) for p, n in parts.items()]
    layers += _conv_and_bn("top", "backbone/top", ours)
    layers.append(Layer("activation", "top_activation", {}, {"activation": "silu"}))
    if isinstance(model.head, ImagenetHead):
        layers.append(_dense("predictions", ours["head/logits"], "softmax"))
    if isinstance(model.head, FerHead):
        conv = {"activation": "relu", "padding": head_padding, "kernel_size": [3, 3]}
        layers.append(Layer("conv", head_names[0], _weights(ours["head/conv"]), conv))
        layers.append(_dense(head_names[1], ours["head/hidden"], "relu"))
        layers.append(_dense(head_names[2], ours["head/logits"], "softmax"))
    return layers


def _conv_and_bn(name: str, module: str, ours: dict[str, Any]) -> list[Layer]:
    return [_layer(f"{name}_conv", ours[module]), _layer(f"{name}_bn", ours[f"{module}_bn"])]


def _layer(name: str, leaves: dict[str, np.ndarray]) -> Layer:
    if name.endswith("_bn"):
        order = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}
        arrays = {theirs: leaves[mine] for theirs, mine in order.items()}
        return Layer("bn", name, arrays, {"epsilon": 0.001, "momentum": 0.99})
    if name.endswith("_dwconv"):
        kernel = np.swapaxes(leaves["kernel"], 2, 3)  # [k, k, 1, C] -> [k, k, C, 1]
        return Layer("dwconv", name, {"kernel": kernel}, {"activation": "linear"})
    activation = {"reduce": "silu", "expand": "sigmoid"}.get(name.rpartition("_se_")[2], "linear")
    size = list(leaves["kernel"].shape[:2])
    settings = {"activation": activation, "padding": "valid", "kernel_size": size}
    return Layer("conv", name, _weights(leaves), settings)


def _dense(name: str, leaves: dict[str, np.ndarray], activation: str) -> Layer:
    return Layer("dense", name, _weights(leaves), {"activation": activation})


def _weights(leaves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: leaves[name] for name in ("kernel", "bias") if name in leaves}


def write_legacy(
    path: Path,
    layers: list[Layer],
    nested: bool = False,
    tf: bool = False,
    bare: bool = False,
    config: dict[str, Any] | None = None,
    split: bool = False,
) -> Path:
    """The old .h5: weights alone, or with `config` a whole model.

    `tf` is as tf.keras names them, `bare` names without the layer are Keras 3.0's, `split` is how
    long lists of names are kept.
    """
    with h5py.File(path, "w") as file:
        group = file if config is None else file.create_group("model_weights")
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
            file.create_group("optimizer_weights").attrs["weight_names"] = ["adam/1"]
        names = _tf_named if tf else _named
        outer = _nested_groups(layers, names) if nested else [(x.name, names(x)) for x in layers]
        for name, arrays in outer:
            place = group.create_group(name)
            weights = [weight.split("/")[-1] if bare else weight for weight, _ in arrays]
            place.attrs["weight_names"] = np.array([weight.encode() for weight in weights])
            for weight, (_, array) in zip(weights, arrays, strict=True):
                place.create_dataset(weight, data=array)
        listed = [name.encode() for name, _ in outer]
        if split:
            group.attrs["layer_names0"] = np.array(listed[:3])
            group.attrs["layer_names1"] = np.array(listed[3:])
        else:
            group.attrs["layer_names"] = np.array(listed)
        group.create_group("top_level_model_weights").attrs["weight_names"] = np.array([])
    return path


def _named(layer: Layer) -> list[tuple[str, np.ndarray]]:
    return [(f"{layer.name}/{name}", array) for name, array in layer.arrays.items()]


def _tf_named(layer: Layer) -> list[tuple[str, np.ndarray]]:
    kernel = "depthwise_kernel" if layer.kind == "dwconv" else "kernel"
    return [(f"{name.replace('kernel', kernel)}:0", array) for name, array in _named(layer)]


def _nested_groups(
    layers: list[Layer], names: Callable[[Layer], list[tuple[str, np.ndarray]]]
) -> list[tuple[str, list[tuple[str, np.ndarray]]]]:
    """The backbone as one layer: what is trained, then what is not."""
    inner = [pair for layer in layers if layer.in_backbone for pair in names(layer)]
    still = [x for x in inner if x[0].startswith("normalization") or "/moving_" in x[0]]
    trained = [x for x in inner if not any(x[0] == name for name, _ in still)]
    outer = [("efficientnetb2", trained + still)]
    prefix = "sequential/" if names is _named else ""
    for layer in layers:
        if not layer.in_backbone:
            outer.append((layer.name, [(prefix + name, array) for name, array in names(layer)]))
    return outer


def write_weights(
    path: Path | io.BytesIO, layers: list[Layer], nested: bool = False, named: bool = True
) -> Any:
    """The .weights.h5: groups by class and number; only from Keras 3.4 on do they have names."""
    with h5py.File(path, "w") as file:
        file.create_group("vars")
        file.create_group("optimizer/vars").create_dataset("0", data=np.arange(3))
        root = file.create_group("layers")
        inner = root.create_group("functional/layers") if nested else root
        if nested:
            root.create_group("functional/vars").attrs["name"] = "efficientnetb2"
        counts: dict[tuple[str, bool], int] = {}
        for layer in layers:
            place = inner if layer.in_backbone else root
            kind = KERAS_CLASS[layer.kind][1]
            number = counts.get((kind, place == root), 0)
            counts[kind, place == root] = number + 1
            group = place.create_group(f"{kind}_{number}/vars" if number else f"{kind}/vars")
            if named:
                group.attrs["name"] = layer.name
            for i, array in enumerate(layer.arrays.values()):
                group.create_dataset(str(i), data=array)
        dropout = root.create_group("dropout")
        dropout.create_group("vars")
        dropout.create_group("seed_generator/vars").create_dataset("0", data=np.uint32([1, 2]))
    return path


def write_archive(
    path: Path, layers: list[Layer], config: Any, nested: bool = False, named: bool = True
) -> Path:
    """The .keras: a zip of the config and the weights."""
    weights = io.BytesIO()
    write_weights(weights, layers, nested, named)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights.getvalue())
    return path


RESCALING = {"class_name": "Rescaling", "config": {"name": "rescaling", "scale": 1 / 255}}


def keras_config(
    layers: list[Layer],
    nested: bool = False,
    before: Sequence[Any] = (RESCALING,),
    extra: Sequence[float] | None = None,
) -> dict[str, Any]:
    """As Keras describes a whole model, as far as it matters here."""
    scale = {"class_name": "Rescaling", "config": {"name": "rescaling_1", "scale": extra}}
    backbone = [*before, *(x.config() for x in layers if x.in_backbone)]
    if extra is not None:
        backbone.insert(len(before) + 1, scale)
    head = [x.config() for x in layers if not x.in_backbone]
    backbone.insert(0, {"class_name": "InputLayer", "config": {"name": "input_layer"}})
    if not nested:
        return {"class_name": "Functional", "config": {"layers": backbone + head}}
    inner = {"class_name": "Functional", "config": {"name": "b2", "layers": backbone}}
    return {"class_name": "Sequential", "config": {"layers": [inner, *head]}}


# ---- PyTorch -----------------------------------------------------------------------------------

TIMM = {"stem": "conv_stem", "stem_bn": "bn1", "top": "conv_head", "top_bn": "bn2"}
VISION = {"stem": "features.0.0", "stem_bn": "features.0.1"} | {
    "top": "features.8.0",
    "top_bn": "features.8.1",
}
LUKEMELAS = {"stem": "_conv_stem", "stem_bn": "_bn0", "top": "_conv_head", "top_bn": "_bn1"}
LUKEMELAS_PARTS = {
    "expand": "_expand_conv",
    "expand_bn": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_bn": "_bn1",
    "squeeze_excite/reduce": "_se_reduce",
    "squeeze_excite/expand": "_se_expand",
    "project": "_project_conv",
    "project_bn": "_bn2",
}
PARTS = (  # of a block with expansion: ours, timm's, torchvision's
    ("expand", "conv_pw", "block.0.0"),
    ("expand_bn", "bn1", "block.0.1"),
    ("depthwise", "conv_dw", "block.1.0"),
    ("depthwise_bn", "bn2", "block.1.1"),
    ("squeeze_excite/reduce", "se.conv_reduce", "block.2.fc1"),
    ("squeeze_excite/expand", "se.conv_expand", "block.2.fc2"),
    ("project", "conv_pwl", "block.3.0"),
    ("project_bn", "bn3", "block.3.1"),
)
PLAIN = (  # of one without
    ("depthwise", "conv_dw", "block.0.0"),
    ("depthwise_bn", "bn1", "block.0.1"),
    ("squeeze_excite/reduce", "se.conv_reduce", "block.1.fc1"),
    ("squeeze_excite/expand", "se.conv_expand", "block.1.fc2"),
    ("project", "conv_pw", "block.2.0"),
    ("project_bn", "bn2", "block.2.1"),
)
TORCH_LEAF = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def torch_arrays(source: str, variables: Any) -> dict[str, np.ndarray]:
    """A state dict of timm, torchvision or lukemelas."""
    ours, found = modules(variables), {}
    for module, leaves in ours.items():
        name = _torch_name(source, module, ours)
        for leaf, array in leaves.items():
            found[f"{name}.{TORCH_LEAF.get(leaf, leaf)}"] = _torch_axes(array)
        if module.endswith("_bn"):
            found[f"{name}.num_batches_tracked"] = np.array(7, np.int64)
    return found


def _torch_name(source: str, module: str, ours: dict[str, Any]) -> str:
    room, _, rest = module.partition("/")
    if room == "head":
        return {"timm": "classifier", "torchvision": "classifier.1", "lukemelas": "_fc"}[source]
    block, _, part = rest.partition("/")
    found = re.fullmatch(r"block(\d)([a-z])", block)
    if found is None:
        return {"timm": TIMM, "torchvision": VISION, "lukemelas": LUKEMELAS}[source][rest]
    if source == "lukemelas":
        blocks = sorted({m.split("/")[1] for m in ours if m.startswith("backbone/block")})
        return f"_blocks.{blocks.index(block)}.{LUKEMELAS_PARTS[part]}"
    stage, index = int(found[1]), "abcdefghij".index(found[2])
    rows = PARTS if f"backbone/{block}/expand" in ours else PLAIN
    timm, vision = next(row[1:] for row in rows if row[0] == part)
    if source == "timm":
        return f"blocks.{stage - 1}.{index}.{timm}"
    return f"features.{stage}.{index}.{vision}"


def _torch_axes(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return np.ascontiguousarray(np.einsum("hwio->oihw", array))
    return np.ascontiguousarray(array.T)


def refused_import(path, as_told):
    """The line with which a file is refused."""
    with pytest.raises(UserError) as caught:
        import_file(path, as_told)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def scaling(file):
    """Mean and deviation of a model file's input."""
    return file.about.architecture["input_mean"], file.about.architecture["input_std"]
