"""Arrays by their foreign names to our variables and back: names, axes, and what does not fit."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fer_jax.conversion.names import COLUMNS, ENDS, foreign_names
from fer_jax.errors import UserError
from fer_jax.models.classifier import Classifier, variable_shapes

Arrays = dict[str, np.ndarray]
NAMED = 4  # names shown per kind of mismatch


def without_prefix(arrays: Arrays, column: str) -> Arrays:
    """State dicts of wrapped models: without `module.` or whatever stands before the stem's name.

    Names that share only a part of it, as those of a head beside a backbone, lose that part.
    """
    stem = f".{ENDS[0][COLUMNS.index(column) + 1]}.weight"
    prefix = next((name.removesuffix(stem) for name in arrays if name.endswith(stem)), "")
    plain = {_without(prefix.split("."), name): array for name, array in arrays.items()}
    if len(plain) < len(arrays):
        raise UserError(f"it holds names that differ only by {prefix}.")
    return plain


def _without(parts: list[str], name: str) -> str:
    for part in parts:
        name = name.removeprefix(f"{part}.")
    return name


def import_variables(model: Classifier, column: str, found: Mapping[str, np.ndarray]) -> Any:
    """Foreign arrays -> float32 {"params", "batch_stats"}; UserError lists what does not fit."""
    names, shapes = foreign_names(model, column), variable_shapes(model)
    expected = {names[ours]: _foreign_shape(ours, shapes[ours], column) for ours in shapes}
    problems = mismatch(expected, {name: array.shape for name, array in found.items()})
    if problems:
        raise UserError(f"not a {model.backbone.variant} of {column}: {problems}")
    unusable = [name for name in expected if not _usable(found[name])]
    if unusable:
        raise UserError(f"{len(unusable)} arrays are not of finite floats ({_few(unusable)})")
    flat = {
        ours: np.ascontiguousarray(_to_ours(ours, found[names[ours]], column), np.float32)
        for ours in shapes
    }
    return unflatten_dict(flat, sep="/")


def export_variables(model: Classifier, column: str, variables: Any) -> Arrays:
    """{"params", "batch_stats"} -> float32 arrays under their foreign names, axes as there."""
    names, flat = foreign_names(model, column), flatten_dict(variables, sep="/")
    return {
        names[ours]: np.ascontiguousarray(_to_foreign(ours, np.asarray(leaf), column), np.float32)
        for ours, leaf in flat.items()
    }


def mismatch(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """What is missing, left over and misshapen, as text; empty where all fits."""
    missing = [name for name in expected if name not in found]
    left_over = [name for name in found if name not in expected]
    misshapen = [
        f"{name} {list(found[name])} for {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    kinds = (("missing", missing), ("left over", left_over), ("misshapen", misshapen))
    return "; ".join(f"{len(names)} {kind} ({_few(names)})" for kind, names in kinds if names)


def _usable(array: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return array.dtype.kind == "f" and bool(np.isfinite(array.astype(np.float32)).all())


def _few(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _to_ours(ours: str, array: np.ndarray, column: str) -> np.ndarray:
    if array.ndim == 2 and column != "keras":
        return array.T
    if array.ndim == 4:
        return array.transpose(_axes(ours, column))
    return array


def _to_foreign(ours: str, array: np.ndarray, column: str) -> np.ndarray:
    if array.ndim == 2 and column != "keras":
        return array.T
    if array.ndim == 4:
        return array.transpose(np.argsort(_axes(ours, column)))
    return array


def _axes(ours: str, column: str) -> tuple[int, ...]:
    """Foreign axes in our order: HWIO here; OIHW in PyTorch; HWIO, depthwise HWCM, in Keras."""
    if column != "keras":
        return (2, 3, 1, 0)
    return (0, 1, 3, 2) if ours.endswith("depthwise/kernel") else (0, 1, 2, 3)


def _foreign_shape(ours: str, shape: tuple[int, ...], column: str) -> tuple[int, ...]:
    return _to_foreign(ours, np.broadcast_to(np.float32(0), shape), column).shape
