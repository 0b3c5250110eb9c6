"""Convert models: `python -m fer_jax.convert --source=keras --variant=b2 --input=F --output=F`."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from flax.traverse_util import flatten_dict

from fer_jax import cache, cli, model_file, trained
from fer_jax.conversion.download import fetch_keras
from fer_jax.conversion.exporting import export_keras, export_timm
from fer_jax.conversion.importing import Wanted, import_file
from fer_jax.errors import UserError
from fer_jax.models.efficientnet import VARIANTS

SOURCE = flags.DEFINE_enum(
    "source",
    None,
    ["keras", "timm", "torchvision", "lukemelas", "fer_jax"],
    "Whose file --input is; fer_jax takes a run's folder or our own .safetensors.",
    required=True,
)
TARGET = flags.DEFINE_enum("target", "fer_jax", ["fer_jax", "timm", "keras"], "What to write.")
VARIANT = flags.DEFINE_enum("variant", "b2", list(VARIANTS), "Which EfficientNet the file holds.")
INPUT = flags.DEFINE_string("input", "", "The file, or a run's folder.")
OUTPUT = flags.DEFINE_string("output", None, "The file to write.", required=True)
DOWNLOAD = flags.DEFINE_bool("download", False, "Fetch Keras' ImageNet weights: no --input.")
TOP = flags.DEFINE_bool("top", False, "With --download: the file with its 1,000-class head.")
PADDING = flags.DEFINE_enum(
    "padding", None, ["same", "symmetric"], "timm: same is tf_efficientnet_*, symmetric the others."
)
MEAN = flags.DEFINE_list("input_mean", None, "Three means on the scale 0..1, if not the source's.")
STD = flags.DEFINE_list("input_std", None, "Three deviations, if not the source's.")
LABELS = flags.DEFINE_list("labels", None, "Names of the classes in the order of the logits.")
OF_FOREIGN_FILES = ("variant", "input_mean", "input_std", "labels")
DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "Of the kernels in a file of ours."
)
LICENCE = flags.DEFINE_string("licence", "unknown", "Licence of the weights, for the header.")


def main(argv: Sequence[str]) -> None:
    """Read one model, say what it is, write it in the other form."""
    del argv
    output = pathlib.Path(OUTPUT.value)
    _check_flags(output)
    file = _own(pathlib.Path(INPUT.value)) if SOURCE.value == "fer_jax" else _foreign()
    file = model_file.rounded(file) if DTYPE.value == "bfloat16" else file
    write = {"fer_jax": model_file.save, "timm": export_timm, "keras": export_keras}
    write[TARGET.value](output, file)
    print(describe(file))
    print(f"wrote {output} ({output.stat().st_size / 2**20:.1f} MiB)")


def describe(file: model_file.ModelFile) -> str:
    """What a person should check of a converted model: its kind, head, labels and scaling."""
    about, flat = file.about, flatten_dict(file.variables)
    parameters = sum(np.size(leaf) for path, leaf in flat.items() if path[0] == "params")
    architecture = about.architecture
    head = architecture["head"]
    kind = "no head" if head is None else f"{head['kind']} head of {head['classes']} classes"
    kind += f" (padding {head['padding']})" if head and "padding" in head else ""
    return (
        f"EfficientNet-{architecture['variant'].upper()}, {kind}, {parameters:,} parameters\n"
        f"padding {architecture['padding']}, BatchNorm epsilon {architecture['bn_epsilon']:g}, "
        f"stem of stride {architecture['stem_stride']}\n"
        f"input (x / 255 - {_round(architecture['input_mean'])}) / "
        f"{_round(architecture['input_std'])}\n"
        f"labels {','.join(about.labels) if about.labels else 'not told'}\n"
        f"licence {about.licence}"
    )


def _foreign() -> model_file.ModelFile:
    path, licence = pathlib.Path(INPUT.value), LICENCE.value
    mean = _three("input_mean", MEAN.value, above=-math.inf)
    std = _three("input_std", STD.value, above=0.0)
    if DOWNLOAD.value:
        path, licence = fetch_keras(VARIANT.value, TOP.value, cache.folder("weights")), "Apache-2.0"
    names = tuple(LABELS.value) if LABELS.value else None
    source: Any = SOURCE.value
    padding: Any = PADDING.value
    wanted = Wanted(source, VARIANT.value, padding, mean, std, names, licence)
    return import_file(path, wanted)


def _own(path: pathlib.Path) -> model_file.ModelFile:
    file = model_file.load(path) if os.path.isfile(path) else trained.load(path).file()
    if not flags.FLAGS["licence"].present:
        return file
    return dataclasses.replace(file, about=dataclasses.replace(file.about, licence=LICENCE.value))


def _three(flag: str, texts: list[str] | None, above: float) -> tuple[float, ...] | None:
    if texts is None:
        return None
    try:
        values = tuple(float(text) for text in texts)
    except ValueError:
        values = ()
    if len(values) != 3 or not all(above < value < math.inf for value in values):
        limit = f" above {above:g}" if above >= 0 else ""
        raise UserError(f"--{flag}={','.join(texts)}: three numbers{limit} are needed")
    return values


def _check_flags(output: pathlib.Path) -> None:
    """UserError for flags that contradict each other, before anything is read or fetched."""
    suffix = ".weights.h5" if TARGET.value == "keras" else ".safetensors"
    if not output.name.endswith(suffix):
        raise UserError(f"--output={output}: a file for {TARGET.value} ends in {suffix}")
    if DOWNLOAD.value and (SOURCE.value != "keras" or INPUT.value):
        raise UserError("--download fetches Keras' files: --source=keras, and no --input")
    if not DOWNLOAD.value and not INPUT.value:
        raise UserError("no --input: give the file, or --download for Keras' ImageNet weights")
    if TOP.value and not DOWNLOAD.value:
        raise UserError("--top chooses what --download fetches; a file has a head or has none")
    if PADDING.value and SOURCE.value != "timm":
        raise UserError(f"--padding is for --source=timm: {SOURCE.value} has but one")
    if TARGET.value != "fer_jax" and DTYPE.value != "float32":
        raise UserError(f"--dtype={DTYPE.value} is for files of ours: {TARGET.value} gets float32")
    told = [name for name in OF_FOREIGN_FILES if flags.FLAGS[name].present]
    if SOURCE.value == "fer_jax" and told:
        raise UserError(f"--{told[0]} is for other people's files: a model of ours says it itself")


def _round(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"


if __name__ == "__main__":
    cli.run(main)
