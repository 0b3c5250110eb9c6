"""Our models to other people's formats: the table of targets, and timm, Keras and StableHLO."""

import collections
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax import model_file
from fer_jax.conversion import names
from fer_jax.conversion.hub import export_hub
from fer_jax.conversion.keras import KERAS_EPSILON, KINDS, backbone_layers, write_weights
from fer_jax.conversion.names import Arrays, export_variables
from fer_jax.conversion.onnx import export_onnx, said_of
from fer_jax.conversion.torch_files import write_torch
from fer_jax.errors import UserError
from fer_jax.model_file import ModelFile, calibrated
from fer_jax.models import folded
from fer_jax.models.classifier import FerHead
from fer_jax.models.efficientnet import PUBLISHED_STEM_STRIDE
from fer_jax.outputs import in_one_step

PLATFORMS = ("cpu", "cuda", "tpu")  # of StableHLO programs


def export_timm(path: pathlib.Path, file: ModelFile) -> None:
    """A state dict under timm's names; the notebook's head lies under `fer_head.`.

    Without a head, or with ImageNet's, timm.create_model takes it as it is. Its metadata names the
    timm model, and holds our own header: image size, bn_epsilon, the padding of the head, and the
    scaling of the input, which PyTorch users do themselves.
    """
    description = file.about.architecture
    _check_stem(description)
    prefix = "tf_" if description["padding"] == "same" else ""
    texts = {"architecture": f"{prefix}efficientnet_{description['variant']}"}
    texts |= model_file.metadata(file)
    arrays = export_variables(file.model(), "timm", file.variables)
    in_one_step(path, lambda temporary: write_torch(temporary, arrays, texts))


def export_keras(path: pathlib.Path, file: ModelFile) -> None:
    """A .weights.h5 for `load_weights` of the same model of keras.applications, weights=None.

    The scaling of the input goes into its Normalization, which is why the older .h5 is not
    written: from it Keras takes the statistics, but does not call Normalization.finalize_state.
    The notebook's head follows the backbone as in its Sequential; our header lies beside.
    """
    description, model = file.about.architecture, file.model()
    _check_stem(description)
    if description["variant"].startswith("lite"):
        raise UserError("Keras has no EfficientNet-Lite: export it to timm")
    if description["padding"] != "same" or description["bn_epsilon"] != KERAS_EPSILON:
        raise UserError(
            f"Keras' EfficientNet has padding=same, epsilon {KERAS_EPSILON}; this model has "
            f"{description['padding']} and {description['bn_epsilon']}: export it to timm"
        )
    layers: dict[str, Arrays] = {"normalization": _normalization(description)}
    layers |= {layer: {} for layer in backbone_layers(description["variant"])}
    arrays = export_variables(model, "keras", file.variables)
    for name in names.foreign_names(model, "keras").values():  # each layer's in Keras' order
        layers.setdefault(name.split("/")[0], {})[name] = arrays[name]
    places = _places(layers, isinstance(model.head, FerHead))
    texts = model_file.metadata(file)
    in_one_step(path, lambda temporary: write_weights(temporary, places, texts))


def export_stablehlo(path: pathlib.Path, file: ModelFile) -> None:
    """uint8 [B, S, S, 3] of any B -> {"logits": ..., "probabilities": ...}, of each label [B].

    Without labels [B, K]. A program has no metadata: labels are the keys of what it returns, its
    input's shape tells the size, the temperature is in the probabilities. UserError without a head.
    Run it by `jax.export.deserialize(bytearray(pathlib.Path(FILE).read_bytes())).call(images)`.
    """
    said_of(file)  # which refuses a model without a head
    arrays = folded.fold(file.model(), file.variables)
    (batch,) = jax.export.symbolic_shape("batch")
    side = file.about.image_size
    images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.uint8)
    program = jax.jit(functools.partial(_answers, file, arrays))
    exported = jax.export.export(program, platforms=PLATFORMS)(images)
    content = bytes(exported.serialize())
    in_one_step(path, lambda temporary: temporary.write_bytes(content))


class Target(NamedTuple):
    """A format: how its files end, and what writes one."""

    suffix: str
    write: Callable[..., None]  # (path, file), and where it takes one, a precision


TARGETS = {  # a new format: one file beside this one, and a row here
    "fer_jax": Target(".safetensors", model_file.save),
    "timm": Target(".safetensors", export_timm),
    "keras": Target(".weights.h5", export_keras),
    "onnx": Target(".onnx", export_onnx),
    "hub": Target("", export_hub),
    "stablehlo": Target(".stablehlo", export_stablehlo),
}


def _check_stem(description: dict) -> None:
    """UserError for a stem of stride 1: another library would take its weights and misread them."""
    stride = description["stem_stride"]
    if stride != PUBLISHED_STEM_STRIDE:
        raise UserError(
            f"this model's stem has stride {stride}, other libraries' {PUBLISHED_STEM_STRIDE}: "
            "they cannot run it; keep it in our own format"
        )


def _normalization(description: dict) -> Arrays:
    variance = np.square(np.asarray(description["input_std"], np.float64))
    return {
        "normalization/mean": np.asarray(description["input_mean"], np.float32),
        "normalization/variance": variance.astype(np.float32),
        "normalization/count": np.zeros((), np.int32),
    }


def _places(layers: dict[str, Arrays], notebook: bool) -> dict[str, Arrays]:
    """Where Keras 3 looks for each layer: class and number, per model within the model."""
    counts: collections.Counter[str] = collections.Counter()
    places = {}
    for layer, arrays in layers.items():
        inner = notebook and not layer.startswith(names.FER_HEAD)
        kind = f"layers/{'functional/layers/' * inner}{_kind(layer)}"
        places[f"{kind}_{counts[kind]}" if counts[kind] else kind] = arrays
        counts[kind] += 1
    return places


def _kind(layer: str) -> str:
    """`block2a_bn` -> `batch_normalization`."""
    found = (kind for kind, endings in KINDS.items() if layer.endswith(endings))
    return next(found, "normalization" if layer == "normalization" else "dense")


def _answers(file: ModelFile, arrays: folded.Arrays, images: jax.Array) -> dict[str, Any]:
    logits = folded.logits(file.model(), arrays, images, plain=True)
    scaled = jax.nn.softmax(calibrated(logits, file.about, jnp))
    answers, labels = {"logits": logits, "probabilities": scaled}, file.about.labels
    if labels is None:
        return answers
    return {name: dict(zip(labels, of_all.T, strict=True)) for name, of_all in answers.items()}
