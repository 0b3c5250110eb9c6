"""Our models to a timm state dict or to Keras weights, for users of PyTorch and Keras."""

import collections
import pathlib
from collections.abc import Callable

import numpy as np

from fer_jax.conversion import names
from fer_jax.conversion.keras_files import write_weights
from fer_jax.conversion.keras_models import KERAS_EPSILON, KINDS
from fer_jax.conversion.layout import Arrays, export_variables
from fer_jax.conversion.torch_files import write_torch
from fer_jax.errors import UserError
from fer_jax.model_file import ModelFile, in_one_step
from fer_jax.models.classifier import FerHead
from fer_jax.models.efficientnet import PUBLISHED_STEM_STRIDE


def export_timm(path: pathlib.Path, file: ModelFile) -> None:
    """A state dict under timm's names; the seed's head lies under `fer_head.`.

    Without a head, or with ImageNet's, timm.create_model takes it as it is. Its header names the
    timm model, its bn_eps, and the scaling of the input, which PyTorch users do themselves.
    """
    description = file.about.architecture
    _check_stem(description)
    same = description["padding"] == "same"
    header = {
        "architecture": f"{'tf_' if same else ''}efficientnet_{description['variant']}",
        "bn_eps": str(description["bn_epsilon"]),
        "input_mean": str(description["input_mean"]),
        "input_std": str(description["input_std"]),
        "labels": ",".join(file.about.labels or ()),
    }
    arrays = export_variables(file.model(), "timm", file.variables)
    in_one_step(path, lambda temporary: write_torch(temporary, arrays, header))


def export_keras(path: pathlib.Path, file: ModelFile) -> None:
    """A .weights.h5 for `load_weights` of the same model of keras.applications, weights=None.

    The scaling of the input goes into its Normalization, which is why the older .h5 is not
    written: from it Keras takes the statistics, but does not call Normalization.finalize_state.
    The seed's head follows the backbone as in the seed's Sequential.
    """
    description, model = file.about.architecture, file.model()
    _check_stem(description)
    if description["padding"] != "same" or description["bn_epsilon"] != KERAS_EPSILON:
        raise UserError(
            f"Keras' EfficientNet has padding=same, epsilon {KERAS_EPSILON}; this model has "
            f"{description['padding']} and {description['bn_epsilon']}: export it to timm"
        )
    ours = names.foreign_names(model, "keras")
    arrays = export_variables(model, "keras", file.variables)
    ordered = {name: arrays[name] for name in sorted(ours.values(), key=_build_order(ours))}
    ordered = _normalization(description) | ordered
    places = _places(_flat(ordered), isinstance(model.head, FerHead))
    in_one_step(path, lambda temporary: write_weights(temporary, places))


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


def _build_order(ours: dict[str, str]) -> Callable[[str], tuple[int, int]]:
    """Stem, blocks, top, head: the order in which Keras builds its layers."""
    layers = list(dict.fromkeys(name.split("/")[0] for name in ours.values()))
    rank = {layer: (_part(layer), number) for number, layer in enumerate(layers)}
    return lambda name: rank[name.split("/")[0]]


def _part(layer: str) -> int:
    prefixes = ("stem", "block", "top")
    found = (i for i, prefix in enumerate(prefixes) if layer.startswith(prefix))
    return next(found, len(prefixes))


def _flat(ordered: Arrays) -> dict[str, Arrays]:
    layers: dict[str, Arrays] = {}
    for name, array in ordered.items():
        layers.setdefault(name.split("/")[0], {})[name] = array
    return layers


def _places(layers: dict[str, Arrays], seed: bool) -> dict[str, Arrays]:
    """Where Keras 3 looks for each layer: class and number, per model within the model."""
    counts: collections.Counter[str] = collections.Counter()
    places = {}
    for layer, arrays in layers.items():
        inner = seed and not layer.startswith(names.FER_HEAD)
        kind = f"layers/{'functional/layers/' * inner}{_kind(layer)}"
        places[f"{kind}_{counts[kind]}" if counts[kind] else kind] = arrays
        counts[kind] += 1
    return places


def _kind(layer: str) -> str:
    """`block2a_bn` -> `batch_normalization`."""
    found = (kind for kind, endings in KINDS.items() if layer.endswith(endings))
    return next(found, "normalization" if layer == "normalization" else "dense")
