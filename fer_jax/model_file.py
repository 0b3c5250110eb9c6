"""One safetensors file is one model: its variables, and in the header all that explains them."""

import base64
import contextlib
import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import safetensors
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from fer_jax.errors import UserError, one_line
from fer_jax.models.classifier import (
    Classifier,
    describe,
    rebuild,
    smallest_image_size,
    variable_shapes,
)
from fer_jax.models.efficientnet import STEM_STRIDES, VARIANTS
from fer_jax.outputs import in_one_step

VERSION = 4
STORED = ("F32", "BF16")  # read as float32
SPLITTING = ("label_order", "validation_fraction", "split_seed")  # keys of About.splitting
HEAD_SIZES = ("classes", "filters", "hidden")
LFS = b"version https://git-lfs"
HUB_NAME = "model.safetensors"  # the model file in a folder as the Hugging Face Hub has them
LEAST = 1e-4  # probability left to a class when the smoothing of labels is taken off
KEY = "fer_jax"
HASHES_KEYS = ("fer_jax_train_hashes", "fer_jax_train_looks")
LARGEST_HEADER, LARGEST_IMAGE = 2**20, 4096  # characters, pixels
HINT = "convert other people's files with python -m fer_jax.convert"
PREPROCESSING = (
    "uint8 RGB 0..255; resized to a square of image_size, bilinear when enlarging and "
    "area-averaged when shrinking; scaled by (x / 255 - input_mean) / input_std inside the model"
)


@dataclasses.dataclass(frozen=True)
class About:
    """What the header says of the variables; None where it does not apply."""

    architecture: dict[str, Any]  # as models.classifier.describe gives it
    image_size: int  # pixels, at which the metrics were measured or the weights trained
    labels: list[str] | None  # names of the logits, in their order
    origin: dict[str, Any]  # where the variables come from: source, file, sha256, ...
    licence: str
    training_data: dict[str, str] | None  # fingerprint per role
    metrics: dict[str, float] | None
    preprocessing: str = PREPROCESSING
    splitting: dict[str, Any] | None = None  # how the training data were read and divided
    temperature: float | None = None  # divides the logits, so that probabilities are calibrated
    temperature_split: str | None = None  # the part of the data that fitted it
    label_smoothing: float = 0.0  # of its training, taken off before the temperature scales


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """A model with its variables {"params", "batch_stats"}: NumPy arrays, float32 as loaded."""

    about: About
    variables: dict[str, Any]
    train_hashes: np.ndarray | None = None  # uint64 [M, 2] by data.hashes; of old files [M, 1]

    def model(self, dtype: Any = jnp.float32) -> Classifier:
        """The Linen module that takes the variables, computing in `dtype`."""
        return rebuild(self.about.architecture, dtype)


def calibrated(logits: Any, about: About, xp: Any = np) -> Any:
    """Logits [..., K] whose softmax can be believed; as they are where nothing was fitted.

    What smoothed labels taught is taken off, then the temperature divides. `xp` is NumPy or
    jax.numpy.
    """
    if about.temperature is None:
        return logits
    if about.label_smoothing:  # else there are no logarithms to be taken of what underflowed
        shares = xp.exp(logits - logits.max(axis=-1, keepdims=True))
        shares = shares / shares.sum(axis=-1, keepdims=True)
        logits = xp.log(unsmoothed(shares, about.label_smoothing, xp))
    return logits / about.temperature


def unsmoothed(probabilities: Any, smoothing: float, xp: Any = np) -> Any:
    """[..., K] without what smoothed labels taught, up to a factor; the best answer stays.

    Who was taught (1 - s) p + s / K answers so; s / K is taken off, down to LEAST. A temperature
    alone cannot do it: such answers are too modest at their end and nowhere else.
    """
    if not smoothing:
        return probabilities
    return xp.maximum(probabilities - smoothing / probabilities.shape[-1], LEAST)


def rounded(file: ModelFile) -> ModelFile:
    """Its kernels in bfloat16, half the bytes; vectors and statistics stay, metrics are dropped.

    Metrics are those of the model before: evaluate the written file.
    """

    def narrow(leaf: np.ndarray) -> np.ndarray:
        return leaf.astype(ml_dtypes.bfloat16) if leaf.ndim > 1 else leaf

    origin = {**file.about.origin, "kernels": "rounded to bfloat16"}
    about = dataclasses.replace(file.about, origin=origin, metrics=None)
    return dataclasses.replace(file, about=about, variables=jax.tree.map(narrow, file.variables))


def save(path: pathlib.Path, file: ModelFile) -> None:
    """Write the file in one step; UserError where the folder cannot be written."""
    flat = flatten_dict(file.variables, sep="/")
    tensors = {name: np.ascontiguousarray(leaf) for name, leaf in flat.items()}
    in_one_step(path, lambda temporary: save_file(tensors, temporary, metadata=metadata(file)))


def metadata(file: ModelFile) -> dict[str, str]:
    """All of a file but its variables, as texts by name: for any format that can carry them."""
    texts = {KEY: json.dumps({"version": VERSION, **dataclasses.asdict(file.about)})}
    if file.train_hashes is not None:
        for key, column in zip(HASHES_KEYS, file.train_hashes.T, strict=True):
            texts[key] = base64.b64encode(column.astype("<u8").tobytes()).decode()
    return texts


def read_metadata(
    path: pathlib.Path, texts: Mapping[str, str]
) -> tuple[About, np.ndarray | None] | None:
    """What `metadata` wrote: header and training hashes; None where nothing is of it."""
    if KEY not in texts:
        return None
    return _about(path, texts[KEY]), _hashes(path, texts)


def refuse_pointer(path: pathlib.Path) -> None:
    """UserError where `path` is what Git leaves of a large file that it has not fetched."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(len(LFS)) == LFS:
            raise UserError(f"{path} is a Git LFS pointer, not the file: git lfs pull fetches it")


def load(path: pathlib.Path) -> ModelFile:
    """Read and check a file; UserError where it is broken, foreign, newer, or incomplete."""
    refuse_pointer(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as tensors:
            found = read_metadata(path, tensors.metadata() or {})
            if found is None:
                raise UserError(f"{path} is not a fer_jax model: {HINT}")
            about, hashes = found
            _check(path, about, tensors)
            flat = {
                name: np.asarray(tensors.get_tensor(name), np.float32)
                for name in tensors.keys()  # noqa: SIM118
            }
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot read {path} as a model: {one_line(error)}; {HINT}") from error
    return ModelFile(about, unflatten_dict(flat, sep="/"), hashes)


def _hashes(path: pathlib.Path, texts: Mapping[str, str]) -> np.ndarray | None:
    if not texts.keys() >= {*HASHES_KEYS}:
        return None
    try:
        coded = [base64.b64decode(texts[key], validate=True) for key in HASHES_KEYS]
        return np.stack([np.frombuffer(c, "<u8") for c in coded], axis=1).astype(np.uint64)
    except ValueError as error:
        raise UserError(f"{path} has broken training hashes: {one_line(error)}") from error


def _about(path: pathlib.Path, header: str) -> About:
    try:
        if len(header) > LARGEST_HEADER:
            raise ValueError(f"{len(header):,} characters, at most {LARGEST_HEADER:,}")
        fields = json.loads(header)
        version = fields.pop("version")
        if version != VERSION:
            raise UserError(
                f"{path} has format version {version!r}, this fer_jax reads {VERSION}: convert the "
                "model again, or use the fer_jax that wrote it"
            )
        about = About(**fields)
        check(about)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} has a broken header: {one_line(error)}") from error
    return about


def check(about: About) -> None:
    """ValueError, or another, where a header says what is true of no model."""
    wrong = [name for name, right in _checks(about).items() if not right]
    if wrong:
        raise ValueError(f"no model has such {', '.join(wrong)}")


def _checks(about: About) -> dict[str, bool]:
    """Which values can be those of a model."""
    settings, labels, head = about.architecture, about.labels, about.architecture["head"]
    padding, stride = (head or {}).get("padding", "SAME"), settings["stem_stride"]
    sizes = [size for name, size in (head or {}).items() if name in HEAD_SIZES]
    described = describe(rebuild(settings, jnp.float32))
    return {
        "architecture": described == settings and settings["variant"] in VARIANTS,
        "padding": settings["padding"] in ("same", "symmetric") and padding in ("SAME", "VALID"),
        "stem_stride": type(stride) is int and stride in STEM_STRIDES,
        "head": all(type(size) is int and size > 0 for size in sizes),
        "drop_connect": _numbers([settings["drop_connect"]], 1),
        "bn_epsilon": _numbers([settings["bn_epsilon"]], 1, above=0.0),
        "input_mean": _numbers(settings["input_mean"], 3),
        "input_std": _numbers(settings["input_std"], 3, above=0.0),
        "image_size": type(about.image_size) is int
        and stride in STEM_STRIDES
        and smallest_image_size(padding, stride) <= about.image_size <= LARGEST_IMAGE,
        "labels": labels is None
        or (all(isinstance(name, str) for name in labels) and len(labels) == head["classes"]),
        "origin": isinstance(about.origin.get("selected_on"), str | None),
        "licence": isinstance(about.licence, str),
        "training_data": all(
            isinstance(text, str) for text in (about.training_data or {}).values()
        ),
        "metrics": isinstance(about.metrics, dict | None),
        "preprocessing": isinstance(about.preprocessing, str),
        "splitting": about.splitting is None or sorted(about.splitting) == sorted(SPLITTING),
        "temperature": about.temperature is None or _numbers([about.temperature], 1, above=0.0),
        "label_smoothing": _numbers([about.label_smoothing], 1) and 0 <= about.label_smoothing < 1,
    }


def _numbers(values: list[Any], count: int, above: float = -math.inf) -> bool:
    """Whether they are so many, finite and above that; JSON's whole numbers may exceed floats."""
    return len(values) == count and all(above < value <= sys.float_info.max for value in values)


def _check(path: pathlib.Path, about: About, tensors: Any) -> None:
    """UserError unless the tensors' names and shapes are those of the model, in a stored type."""
    expected = variable_shapes(rebuild(about.architecture, jnp.float32))
    found = {}
    for name in tensors.keys():  # noqa: SIM118
        tensor = tensors.get_slice(name)
        kind = tensor.get_dtype()
        found[name] = tuple(tensor.get_shape()) if kind in STORED else kind
    wrong = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{path} does not hold the model of its header: {len(wrong)} tensors differ, first "
            f"{name}: {expected.get(name, 'nothing')} expected, {found.get(name, 'nothing')} found"
        )
