"""Our variables by the names and in the axes of other libraries: a column of the tables for each.

lukemelas is the package efficientnet_pytorch, in whose names thousands of checkpoints are written.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fer_jax.errors import UserError
from fer_jax.models.classifier import Classifier, FerHead, ImagenetHead, variable_shapes
from fer_jax.models.efficientnet import Block, block_table

Arrays = dict[str, np.ndarray]

COLUMNS = ("keras", "timm", "torchvision", "lukemelas")
SE = "squeeze_excite"
NAMED = 4  # names shown per kind of mismatch
FER_HEAD = "fer_head"  # ours in every framework: the notebook's layers have no published names

# Per module: ours, then one name per column. {block} is ours and Keras' ("block2a"), {stage} and
# {index} count from 0 (stage 1, index 0), {feature} is torchvision's stage, which the stem shifts,
# {number} counts all blocks from 0.
ENDS = (
    ("backbone/stem", "stem_conv", "conv_stem", "features.0.0", "_conv_stem"),
    ("backbone/stem_bn", "stem_bn", "bn1", "features.0.1", "_bn0"),
    ("backbone/top", "top_conv", "conv_head", "features.8.0", "_conv_head"),
    ("backbone/top_bn", "top_bn", "bn2", "features.8.1", "_bn1"),
)
IMAGENET_HEAD = (("head/logits", "predictions", "classifier", "classifier.1", "_fc"),)
NOTEBOOK_HEAD = tuple(
    (f"head/{layer}", f"{FER_HEAD}_{layer}", *[f"{FER_HEAD}.{layer}"] * 3)
    for layer in ("conv", "hidden", "logits")
)
BLOCK = (
    ("expand", "{block}_expand_conv", ".conv_pw", ".block.0.0", "._expand_conv"),
    ("expand_bn", "{block}_expand_bn", ".bn1", ".block.0.1", "._bn0"),
    ("depthwise", "{block}_dwconv", ".conv_dw", ".block.1.0", "._depthwise_conv"),
    ("depthwise_bn", "{block}_bn", ".bn2", ".block.1.1", "._bn1"),
    (f"{SE}/reduce", "{block}_se_reduce", ".se.conv_reduce", ".block.2.fc1", "._se_reduce"),
    (f"{SE}/expand", "{block}_se_expand", ".se.conv_expand", ".block.2.fc2", "._se_expand"),
    ("project", "{block}_project_conv", ".conv_pwl", ".block.3.0", "._project_conv"),
    ("project_bn", "{block}_project_bn", ".bn3", ".block.3.1", "._bn2"),
)
BLOCK_WITHOUT_EXPANSION = (
    ("depthwise", "{block}_dwconv", ".conv_dw", ".block.0.0", "._depthwise_conv"),
    ("depthwise_bn", "{block}_bn", ".bn1", ".block.0.1", "._bn1"),
    (f"{SE}/reduce", "{block}_se_reduce", ".se.conv_reduce", ".block.1.fc1", "._se_reduce"),
    (f"{SE}/expand", "{block}_se_expand", ".se.conv_expand", ".block.1.fc2", "._se_expand"),
    ("project", "{block}_project_conv", ".conv_pw", ".block.2.0", "._project_conv"),
    ("project_bn", "{block}_project_bn", ".bn2", ".block.2.1", "._bn2"),
)
BLOCK_PREFIXES = ("", "blocks.{stage}.{index}", "features.{feature}.{index}", "_blocks.{number}")

# Per variable of a module: collection and name here, then Keras' and PyTorch's.
WEIGHTS = (("params/{}/kernel", "kernel", "weight"), ("params/{}/bias", "bias", "bias"))
NORMALIZATION = (
    ("params/{}/scale", "gamma", "weight"),
    ("params/{}/bias", "beta", "bias"),
    ("batch_stats/{}/mean", "moving_mean", "running_mean"),
    ("batch_stats/{}/var", "moving_variance", "running_var"),
)


def foreign_names(model: Classifier, column: str) -> dict[str, str]:
    """Our variable -> its name in `column`, such as `block2a_bn/gamma` or `bn1.running_var`."""
    separator, leaf = ("/", 1) if column == "keras" else (".", 2)
    found: dict[str, str] = {}
    for module, foreign in _modules(model, COLUMNS.index(column)):
        biased = SE in module or module.startswith("head/")
        rows = NORMALIZATION if module.endswith("_bn") else WEIGHTS[: 1 + biased]
        found |= {row[0].format(module): f"{foreign}{separator}{row[leaf]}" for row in rows}
    return found


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


def import_variables(model: Classifier, column: str, found: Mapping[str, np.ndarray]) -> Any:
    """Foreign arrays -> float32 {"params", "batch_stats"}; UserError lists what does not fit."""
    names, shapes = foreign_names(model, column), variable_shapes(model)
    expected = {
        names[ours]: _to_foreign(ours, np.broadcast_to(0, shape), column).shape
        for ours, shape in shapes.items()
    }
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


def _modules(model: Classifier, column: int) -> Iterator[tuple[str, str]]:
    head = {ImagenetHead: IMAGENET_HEAD, FerHead: NOTEBOOK_HEAD}.get(type(model.head), ())
    for row in ENDS + head:
        yield row[0], row[1 + column]
    for number, block in enumerate(block_table(model.backbone.variant, drop_connect=0.0)):
        yield from _block(block, number, column)


def _block(block: Block, number: int, column: int) -> Iterator[tuple[str, str]]:
    stage, index = int(block.name[5]), ord(block.name[6:]) - ord("a")
    where = {"stage": stage - 1, "feature": stage, "index": index, "number": number}
    for row in BLOCK if block.expansion != 1 else BLOCK_WITHOUT_EXPANSION:
        if row[0].startswith(SE) and not block.squeeze_excite:
            continue
        foreign = f"{BLOCK_PREFIXES[column]}{row[1 + column]}".format(block=block.name, **where)
        yield f"backbone/{block.name}/{row[0]}", foreign


def _without(parts: list[str], name: str) -> str:
    for part in parts:
        name = name.removeprefix(f"{part}.")
    return name


def _usable(array: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return array.dtype.kind == "f" and bool(np.isfinite(array.astype(np.float32)).all())


def _few(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _to_ours(ours: str, array: np.ndarray, column: str) -> np.ndarray:
    return array.transpose(_axes(ours, array.ndim, column))


def _to_foreign(ours: str, array: np.ndarray, column: str) -> np.ndarray:
    return array.transpose(np.argsort(_axes(ours, array.ndim, column)))


def _axes(ours: str, count: int, column: str) -> tuple[int, ...]:
    """Foreign axes in our order: HWIO here; OIHW in PyTorch; HWIO, depthwise HWCM, in Keras."""
    if column != "keras":
        return (2, 3, 1, 0) if count == 4 else tuple(reversed(range(count)))
    return (0, 1, 3, 2) if ours.endswith("depthwise/kernel") else tuple(range(count))
