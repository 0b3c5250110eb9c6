"""A model file as the start of training: what is taken of it, what is left, and whether it fits.

A whole start takes the backbone of a file of the same variant. A partial one takes what a relative
(EfficientNet-Lite2 for B2, B0 for B2, a FER model with its head) has under the same names.
"""

import collections
import dataclasses
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping
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
OPEN_GATE = 4.0  # bias of a squeeze-excite gate that the file lacks: sigmoid(4) = 0.98
NAMED = 6  # modules named of each kind


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """What takes the place of random arrays, and the text that says what was taken and left."""

    variables: Variables  # nested as the model's, where it has any; float32 NumPy arrays
    text: str


def load(path: pathlib.Path, model: Classifier, partial: bool) -> WarmStart:
    """The file `path` as a start for `model`; UserError names the overrides that it needs."""
    file = model_file.load(path)
    fixed = SETTINGS[1:] if partial else SETTINGS
    overrides = list(_overrides(file.about.architecture, describe(model), fixed))
    if overrides:
        relative = any("variant" in override for override in overrides)
        hint = " (init.partial=True takes what fits of a relative)" if relative else ""
        raise UserError(
            f"{path} was trained otherwise than the config says{hint}: add {' '.join(overrides)}"
        )
    return (_partial if partial else _whole)(path, file, model)


def _whole(path: pathlib.Path, file: model_file.ModelFile, model: Classifier) -> WarmStart:
    backbone = {name: {BACKBONE: tree[BACKBONE]} for name, tree in file.variables.items()}
    fresh, dropped = (
        sum(_module(name) == HEAD for name in names)
        for names in (variable_shapes(model), flatten_dict(file.variables, sep="/"))
    )
    source, head = file.about.origin.get("source", "unknown"), file.about.architecture["head"]
    left = f"{head['kind']} head dropped: {dropped} arrays" if head else "all of it"
    text = f"init: backbone of {path} ({source}, {left}); fresh: head, {fresh} arrays"
    return WarmStart(backbone, text)


def _partial(path: pathlib.Path, file: model_file.ModelFile, model: Classifier) -> WarmStart:
    """Arrays of the same name that fit, open gates, and identities for missing blocks."""
    shapes, found = variable_shapes(model), flatten_dict(file.variables, sep="/")
    if file.about.labels != list(LABELS):  # then its head answers another question
        found = {name: array for name, array in found.items() if _module(name) != HEAD}
    taken = {name: found[name] for name, shape in shapes.items() if _fits(found.get(name), shape)}
    if not taken:
        raise UserError(
            f"{path} has nothing under the names and shapes of {model.backbone.variant}"
        )

    gates, identities = _open_gates(shapes, taken), _identities(shapes, taken, model)
    start = taken | gates | identities
    whole = [name for name in taken if found[name].shape == shapes[name]]
    source = f"{file.about.origin.get('source', 'unknown')} {file.about.architecture['variant']}"
    lines = [
        f"init: of {path} ({source}) {len(whole)} of {len(shapes)} arrays",
        _line("taken in part", [name for name in taken if name not in whole]),
        _line("gates opened", gates),
        _line("identities", identities),
        _line("drawn", [name for name in shapes if name not in start]),
        _line("left over", [n for n in flatten_dict(file.variables, sep="/") if n not in taken]),
    ]
    return WarmStart(unflatten_dict(start, sep="/"), "\n".join(filter(None, lines)))


def _fits(array: np.ndarray | None, shape: tuple[int, ...]) -> bool:
    """Of the same shape, or of fewer output channels, which then fill the first of ours."""
    if array is None or array.ndim != len(shape):
        return False
    return array.shape[:-1] == shape[:-1] and array.shape[-1] <= shape[-1]


def _open_gates(shapes: Mapping[str, tuple[int, ...]], taken: Flat) -> Flat:
    """Squeeze-excite that the file lacks starts all but open, whatever it sees."""
    values = {"squeeze_excite/expand/kernel": 0.0, "squeeze_excite/expand/bias": OPEN_GATE}
    return {
        name: np.full(shape, value, np.float32)
        for name, shape in shapes.items()
        for end, value in values.items()
        if name.endswith(end) and name not in taken
    }


def _identities(shapes: Mapping[str, tuple[int, ...]], taken: Flat, model: Classifier) -> Flat:
    """Residual blocks of which the file has nothing start by passing their input on."""
    blocks = {block.name for block in block_table(model.backbone.variant, 0.0) if block.residual}
    missing = blocks - {_module(name) for name in taken}
    names = (f"params/{BACKBONE}/{block}/project_bn/scale" for block in sorted(missing))
    return {name: np.zeros(shapes[name], np.float32) for name in names}


def _overrides(
    of_file: dict[str, Any], of_config: dict[str, Any], names: Iterable[str]
) -> Iterator[str]:
    """Flags that make the config's model the file's; no shell would split them."""
    for name in names:
        wanted = of_file[name]
        if not _same(wanted, of_config[name]):
            values = wanted if isinstance(wanted, list) else [wanted]
            text = ",".join(v if isinstance(v, str) else f"{v:.{DIGITS}g}" for v in values)
            yield f"--config.model.{name}={text}"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other if isinstance(one, str) else math.isclose(one, other, rel_tol=TOLERANCE)


def _line(kind: str, names: Iterable[str]) -> str:
    """`  drawn: 8 arrays of block1b, 6 of head`; empty where there are none."""
    counts = collections.Counter(map(_module, names))
    parts = [f"{count} of {module}" for module, count in counts.most_common(NAMED)]
    rest = len(counts) - len(parts)
    more = f" and of {rest} more" if rest else ""
    return f"  {kind}: arrays {', '.join(parts)}{more}" if counts else ""


def _module(name: str) -> str:
    """`params/backbone/block1a/project_bn/scale` -> `block1a`; the head's are one, `head`."""
    _, part, module, *_ = name.split("/")
    return module if part == BACKBONE else part
