"""A model file as the start of training: what is taken of it, what is left, and whether it fits.

A whole start takes the backbone of a file of the same variant. A partial one takes what a relative
(EfficientNet-Lite2 for B2, B0 for B2, a FER model with its head) has under the same names.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fer_jax import model_file
from fer_jax.errors import UserError
from fer_jax.labels import LABELS
from fer_jax.models.classifier import Classifier, describe, variable_shapes
from fer_jax.models.efficientnet import block_table
from fer_jax.training.state import BACKBONE, HEAD, Variables

Flat = dict[str, np.ndarray]  # `params/backbone/stem/kernel` and so on
SETTINGS = ("variant", "padding", "bn_epsilon", "input_mean", "input_std")  # the weights' own
TOLERANCE, DIGITS = 1e-6, 7  # relative; a number of so many digits is within it
GATES = {  # squeeze-excite that the file lacks starts all but open: sigmoid(4) = 0.98
    "squeeze_excite/expand/kernel": 0.0,
    "squeeze_excite/expand/bias": 4.0,
}
NAMED = 6  # modules named of each kind


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """What takes the place of random arrays, and the text that says what was taken and left."""

    variables: Variables  # nested as the model's, where it has any; float32 NumPy arrays
    text: str


def load(path: str | pathlib.Path, model: Classifier, partial: bool) -> WarmStart:
    """The file `path` as a start for `model`; UserError names the overrides that it needs."""
    file = model_file.load(pathlib.Path(path))
    check_settings(path, file.about.architecture, describe(model), partial)

    # What is there under the model's names, without a head that answers another question.
    shapes, found = variable_shapes(model), flatten_dict(file.variables, sep="/")
    head = partial and file.about.labels == list(LABELS)
    fitting = {n: found[n] for n, shape in shapes.items() if n in found and _fits(found[n], shape)}
    taken = {name: array for name, array in fitting.items() if head or _module(name) != HEAD}
    if not taken:
        raise UserError(
            f"{path} has nothing under the names and shapes of {model.backbone.variant}"
        )

    # What the model has and a relative lacks, so that it does no harm at first.
    gates = {
        name: np.full(shape, value, np.float32)
        for name, shape in shapes.items()
        for end, value in GATES.items()
        if name.endswith(end) and name not in taken
    }
    identities = _identities(shapes, taken, model)
    start = taken | gates | identities

    # In words.
    in_part = [name for name in taken if found[name].shape != shapes[name]]
    origin, variant = file.about.origin.get("source", "unknown"), file.about.architecture["variant"]
    whole = f"{len(taken) - len(in_part)} of {len(shapes)} arrays"
    lines = [
        f"init: of {path} ({origin} {variant}) {whole}",
        _line("taken in part", in_part),
        _line("gates opened", gates),
        _line("identities", identities),
        _line("drawn", [name for name in shapes if name not in start]),
        _line("left over", [name for name in found if name not in taken]),
    ]
    return WarmStart(unflatten_dict(start, sep="/"), "\n".join(filter(None, lines)))


def check_settings(
    path: str | pathlib.Path,
    of_file: Mapping[str, Any],
    of_config: Mapping[str, Any],
    partial: bool,
) -> None:
    """UserError, with the flags to add, where the file's model is not the config's."""
    overrides = []
    for name in SETTINGS[partial:]:  # a relative is of another variant
        wanted, ours = of_file[name], of_config[name]
        text = isinstance(wanted, str)
        if not (wanted == ours if text else np.allclose(wanted, ours, rtol=TOLERANCE, atol=0)):
            value = wanted if text else ",".join(f"{x:.{DIGITS}g}" for x in np.atleast_1d(wanted))
            overrides.append(f"--config.model.{name}={value}")
    if overrides:
        relative = not partial and of_file["variant"] != of_config["variant"]
        hint = " (init.partial=True takes what fits of a relative)" if relative else ""
        raise UserError(
            f"{path} was trained otherwise than the config says{hint}: add {' '.join(overrides)}"
        )


def _fits(array: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Of the same shape, or of fewer output channels, which then fill the first of ours."""
    narrower = array.ndim == len(shape) and array.shape[-1:] <= shape[-1:]
    return narrower and array.shape[:-1] == shape[:-1]


def _identities(shapes: Mapping[str, tuple[int, ...]], taken: Flat, model: Classifier) -> Flat:
    """Residual blocks of which the file has nothing start by passing their input on."""
    blocks = {block.name for block in block_table(model.backbone.variant, 0.0) if block.residual}
    missing = blocks - {_module(name) for name in taken}
    names = (f"params/{BACKBONE}/{block}/project_bn/scale" for block in sorted(missing))
    return {name: np.zeros(shapes[name], np.float32) for name in names}


def _line(kind: str, names: Iterable[str]) -> str:
    """`  drawn: arrays 8 of block1b, 6 of head`; empty where there are none."""
    counts = collections.Counter(map(_module, names))
    parts = [f"{count} of {module}" for module, count in counts.most_common(NAMED)]
    rest = len(counts) - len(parts)
    more = f" and of {rest} more" if rest else ""
    return f"  {kind}: arrays {', '.join(parts)}{more}" if counts else ""


def _module(name: str) -> str:
    """`params/backbone/block1a/project_bn/scale` -> `block1a`; the head's are one, `head`."""
    _, part, module, *_ = name.split("/")
    return module if part == BACKBONE else part
