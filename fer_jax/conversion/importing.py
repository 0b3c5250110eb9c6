"""A foreign file to a model file: which model it is, how it reads images, its variables."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fer_jax import model_file
from fer_jax.conversion import keras, names
from fer_jax.conversion.keras import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    KERAS_EPSILON,
    KerasFile,
    read_keras,
)
from fer_jax.conversion.names import Arrays, import_variables, without_prefix
from fer_jax.conversion.torch_files import TorchFile, read_torch
from fer_jax.data.files import sha256
from fer_jax.errors import UserError, one_line
from fer_jax.labels import LABELS, canonical
from fer_jax.model_file import About, ModelFile
from fer_jax.models import classifier, efficientnet
from fer_jax.models.classifier import Classifier, FerHead, ImagenetHead, describe, rebuild
from fer_jax.models.efficientnet import PUBLISHED_STEM_STRIDE, VARIANTS, EfficientNet, Style

TORCH_EPSILON, MOMENTUM = 1e-5, 0.99
KERAS_DROP_CONNECT, HEAD_DROPOUT = 0.2, 0.3
LITE_SCALING = {  # timm's (x - 127.5) / 127.5, and (x - 127) / 128 as Google trained them
    "timm": ((0.5,) * 3, (0.5,) * 3),
    "lukemelas": ((127 / 255,) * 3, (128 / 255,) * 3),
}
TORCHVISION_LARGE = ("b5", "b6", "b7")  # which keep TensorFlow's epsilon
IMAGENET_CLASSES = 1000
SETTINGS = ("padding", "image_size", "head_padding", "input_mean", "input_std")
OF_HEADER = ("variant", "bn_epsilon", *SETTINGS, "labels")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the user says of a file; None or "" leaves it to the file or to its custom."""

    source: str  # one of names.COLUMNS
    variant: str = ""
    padding: str | None = None  # same, symmetric
    bn_epsilon: float | None = None
    image_size: int | None = None  # pixels
    head_padding: str | None = None  # VALID, SAME
    input_mean: tuple[float, ...] | None = None
    input_std: tuple[float, ...] | None = None
    labels: Sequence[str] | None = None
    licence: str | None = None
    drop_head: bool = False

    def told(self) -> dict[str, Any]:
        """What is said of the model itself."""
        return {n: getattr(self, n) for n in OF_HEADER if getattr(self, n) not in (None, "")}


def import_file(path: pathlib.Path, wanted: Wanted) -> ModelFile:
    """Read, recognise and convert a foreign file; UserError in one line where it does not fit.

    A file that we wrote says itself what its model is; what is wanted otherwise is refused.
    """
    if not os.path.isfile(path):
        raise UserError(f"no file {path}")
    model_file.refuse_pointer(path)
    file = read_keras(path) if wanted.source == "keras" else read_torch(path)
    header = model_file.read_metadata(path, file.metadata)
    try:
        return _import(path, file, header, wanted)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # whatever a made-up config or header leads to
        raise UserError(f"{path} describes no model: {one_line(error)}") from error


def without_head(file: ModelFile) -> ModelFile:
    """The backbone alone, which gives features, for training to start from."""
    params = {"backbone": file.variables["params"]["backbone"]}
    architecture = {**file.about.architecture, "head": None}
    about = dataclasses.replace(file.about, architecture=architecture, labels=None, metrics=None)
    return dataclasses.replace(file, about=about, variables={**file.variables, "params": params})


def in_our_order(file: ModelFile) -> ModelFile:
    """The same answers in the order of LABELS, if the model names just these seven classes."""
    theirs = file.about.labels or []
    try:
        known = [canonical(name) for name in theirs]
    except UserError:  # of another set of classes
        return file
    if sorted(known) != sorted(LABELS) or theirs == list(LABELS):
        return file
    flat, places = flatten_dict(file.variables, sep="/"), [known.index(name) for name in LABELS]
    for leaf in ("params/head/logits/kernel", "params/head/logits/bias"):
        flat[leaf] = flat[leaf][..., places]
    origin = {**file.about.origin, "labels": ",".join(theirs)}
    about = dataclasses.replace(file.about, labels=list(LABELS), origin=origin)
    return dataclasses.replace(file, about=about, variables=unflatten_dict(flat, sep="/"))


def _import(path: pathlib.Path, file: KerasFile | TorchFile, header: Any, wanted: Wanted) -> Any:
    about, hashes = header or (None, None)
    if about is not None:
        wanted = _as_header_says(wanted, about)
    arrays = file.arrays()
    wanted = dataclasses.replace(wanted, variant=wanted.variant or _looks_like(arrays))
    if not wanted.variant:
        raise UserError("no EfficientNet has so many layers of these widths: give --variant")

    # The arrays under the names of names.py, and what the file says of its model.
    if isinstance(file, KerasFile):
        mean, std = wanted.input_mean, wanted.input_std
        told = None if mean is None or std is None else (mean, std)
        arrays, says = keras.recognise(file, wanted.variant, told, wanted.drop_head)
    else:
        arrays, says = without_prefix(arrays, wanted.source), {}

    if about is None:
        about = _by_custom(path, arrays, says, wanted)
        model_file.check(about)
    model = rebuild(about.architecture, jnp.float32)
    if header:
        labels = _labels(model.head, wanted) if wanted.labels else None
        about = dataclasses.replace(about, labels=labels, licence=wanted.licence or about.licence)
    if wanted.drop_head and model.head is None:
        arrays = _backbone_of(arrays, model, wanted.source)
    try:
        variables = import_variables(model, wanted.source, arrays)
    except UserError as error:
        raise UserError(f"{error}{_hint(model, arrays, wanted)}") from error
    found = ModelFile(about, variables, hashes)
    return in_our_order(without_head(found) if wanted.drop_head else found)


def _as_header_says(wanted: Wanted, about: About) -> Wanted:
    """What our own header says, instead of any custom; UserError where the user says otherwise."""
    settings = {**about.architecture, "image_size": about.image_size, "labels": about.labels}
    settings["head_padding"] = (about.architecture["head"] or {}).get("padding")
    for name, value in wanted.told().items():
        if settings[name] is not None and not np.array_equal(value, settings[name]):
            raise UserError(f"its header says {name}={settings[name]}: leave --{name} out")
    return dataclasses.replace(wanted, **{n: settings[n] for n in OF_HEADER if settings[n]})


def _by_custom(path: pathlib.Path, arrays: Arrays, says: dict[str, Any], wanted: Wanted) -> About:
    """Of a file without a header of ours: what is told, what it says, what published ones have."""
    source, variant = wanted.source, wanted.variant
    head: Any = None if wanted.drop_head else _head(arrays, source)
    notebook = isinstance(head, FerHead)
    custom: dict[str, Any] = {}
    if head is None or head.classes == IMAGENET_CLASSES:
        custom["image_size"] = VARIANTS[variant].image_size
    if not notebook:
        lite = variant.startswith("lite") and LITE_SCALING.get(source)
        custom["input_mean"], custom["input_std"] = lite or (IMAGENET_MEAN, IMAGENET_STD)
    if not (notebook and source == "timm"):  # which has models of both
        custom["padding"] = "symmetric" if source == "torchvision" else "same"
    settings = custom | says | wanted.told()

    missing = [n for n in SETTINGS if n not in settings and (notebook or n != "head_padding")]
    if missing:
        flags = ", ".join(f"--{name}" for name in missing)
        raise UserError(f"nothing in it says how its model reads images: give {flags}")
    if notebook:
        head = dataclasses.replace(head, padding=settings["head_padding"])
    size, least = settings["image_size"], settings["head_padding"] if notebook else "SAME"
    smallest = classifier.smallest_image_size(least, PUBLISHED_STEM_STRIDE)
    if not smallest <= size <= model_file.LARGEST_IMAGE:
        limits = f"from {smallest} to {model_file.LARGEST_IMAGE} with head padding {least}"
        raise UserError(f"--image_size={size} must be {limits}")

    large = source == "torchvision" and variant in TORCHVISION_LARGE
    as_tensorflow = settings["padding"] == "same" or large
    epsilon = settings.get("bn_epsilon", KERAS_EPSILON if as_tensorflow else TORCH_EPSILON)
    style = Style(settings["padding"], epsilon, MOMENTUM, jnp.float32)
    backbone = EfficientNet(variant, style, KERAS_DROP_CONNECT, PUBLISHED_STEM_STRIDE)
    scaling = tuple(settings["input_mean"]), tuple(settings["input_std"])
    return About(
        architecture=describe(Classifier(backbone, head, *scaling)),
        image_size=size,
        labels=_labels(head, wanted),
        origin={"source": source, "file": path.name, "sha256": sha256(path)},
        licence=wanted.licence or "unknown",
        training_data=None,
        metrics=None,
    )


def _head(arrays: Arrays, column: str) -> Any:
    """The head whose parameters the file has, its sizes read from them; None where it has none."""
    place = names.COLUMNS.index(column) + 1
    leaf = "/bias" if column == "keras" else ".bias"
    (imagenet,) = (row[place] + leaf for row in names.IMAGENET_HEAD)
    notebook = [row[place] + leaf for row in names.NOTEBOOK_HEAD]
    if imagenet in arrays:
        return ImagenetHead(max(1, arrays[imagenet].size), HEAD_DROPOUT)
    if not all(name in arrays for name in notebook):
        return None
    filters, hidden, classes = (max(1, arrays[name].size) for name in notebook)
    return FerHead(classes, filters, hidden, HEAD_DROPOUT, "VALID", jnp.float32)


def _labels(head: Any, wanted: Wanted) -> list[str] | None:
    """The names of the logits: as told, else the project's for a notebook's head of as many."""
    classes = 0 if head is None else head.classes
    if wanted.labels is None:
        return list(LABELS) if isinstance(head, FerHead) and classes == len(LABELS) else None
    text = ",".join(wanted.labels)
    if len(set(wanted.labels)) != len(wanted.labels):
        raise UserError(f"--labels={text} names a class twice")
    if len(wanted.labels) != classes:
        raise UserError(f"--labels={text} names {len(wanted.labels)} classes, it has {classes}")
    return list(wanted.labels) or None


# ---- which variant, and what is not the backbone's ----------------------------------------------

_DEPTHWISE = re.compile(
    r"(_dwconv|depthwise_conv2d(_\d+)?)/kernel|(\.conv_dw|\.fc1|_depthwise_conv)\.weight"
)
_WORD = re.compile("[a-z]+")


def _looks_like(arrays: Arrays) -> str:
    """The variant of these widths and this depth, whatever the arrays are called; or none: ""."""
    widths = {size for array in arrays.values() for size in array.shape}
    depth = sum(_DEPTHWISE.search(name) is not None for name in arrays)  # one per block
    kernels = sum(array.ndim == 4 for array in arrays.values())  # three a block, five with gates
    for name, row in VARIANTS.items():
        blocks = efficientnet.block_table(name, 0.0)
        ends = {efficientnet.end_filters(name)[1], blocks[-1].filters_out}
        gates = row.squeeze_excite == (kernels > 3 * depth + 3)
        if gates and ends <= widths and depth == len(blocks):
            return name
    return ""


def _backbone_of(arrays: Arrays, model: Classifier, column: str) -> Arrays:
    """Without what no EfficientNet has: other first words than `blocks`, `conv`, `top`, ..."""
    words = {_WORD.findall(name)[0] for name in names.foreign_names(model, column).values()}
    return {name: array for name, array in arrays.items() if words & set(_WORD.findall(name)[:1])}


def _hint(model: Classifier, arrays: Arrays, wanted: Wanted) -> str:
    """What may help where arrays do not fit."""
    likely = _looks_like(arrays)
    if likely not in ("", model.backbone.variant):
        return f"; it looks like --variant={likely}"
    known = names.foreign_names(model, wanted.source).values()
    if model.head is None and set(known) <= arrays.keys():
        return "; --head=drop leaves what is not the backbone's"
    return ""
