"""The backbone of a model file as the start of training: what is taken, and whether it fits."""

import dataclasses
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from fer_jax import model_file
from fer_jax.data.files import sha256
from fer_jax.errors import UserError
from fer_jax.models.classifier import Classifier, describe, variable_shapes
from fer_jax.training.state import BACKBONE, HEAD, Variables

SETTINGS = ("variant", "padding", "bn_epsilon", "input_mean", "input_std")  # the weights' own
TOLERANCE, DIGITS = 1e-6, 7  # relative; a number of so many digits is within it


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """A backbone from a file, and the sentence that says what was taken and what was not."""

    backbone: Variables  # {"params", "batch_stats"}, float32 NumPy arrays
    text: str


def load(path: pathlib.Path, model: Classifier) -> WarmStart:
    """The backbone of the file `path` for `model`; UserError names the overrides that it needs."""
    file = model_file.load(path)
    overrides = list(_overrides(file.about.architecture, describe(model)))
    if overrides:
        raise UserError(
            f"{path} was trained otherwise than the config says: add {' '.join(overrides)}"
        )
    backbone = {collection: tree[BACKBONE] for collection, tree in file.variables.items()}
    return WarmStart(backbone, f"init: backbone of {path} ({_left_over(file)}); {_fresh(model)}")


def fingerprint(path: pathlib.Path) -> str:
    """The file's SHA-256, hexadecimal; UserError where it cannot be read."""
    return sha256(path)


def _overrides(of_file: dict[str, Any], of_config: dict[str, Any]) -> Iterator[str]:
    """Flags that make the config's model the file's; no shell would split them."""
    for name in SETTINGS:
        wanted = of_file[name]
        if not _same(wanted, of_config[name]):
            values = wanted if isinstance(wanted, list) else [wanted]
            text = ",".join(v if isinstance(v, str) else f"{v:.{DIGITS}g}" for v in values)
            yield f"--config.model.{name}={text}"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other if isinstance(one, str) else math.isclose(one, other, rel_tol=TOLERANCE)


def _left_over(file: model_file.ModelFile) -> str:
    """What the file is and what of it is not used: `keras, imagenet head dropped: 2 arrays`."""
    source, head = file.about.origin.get("source", "unknown"), file.about.architecture["head"]
    if head is None:
        return f"{source}, all of it"
    count = len(jax.tree.leaves(file.variables["params"][HEAD]))
    return f"{source}, {head['kind']} head dropped: {count} arrays"


def _fresh(model: Classifier) -> str:
    """What the file does not hold: `fresh: head, 6 arrays`."""
    count = sum(name.split("/")[1] != BACKBONE for name in variable_shapes(model))
    return f"fresh: head, {count} arrays"
