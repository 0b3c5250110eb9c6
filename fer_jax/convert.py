"""Convert models: `python -m fer_jax.convert --source=keras --variant=b2 --input=F --output=F`."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from fer_jax import cli
from fer_jax.errors import UserError, one_line

if TYPE_CHECKING:  # what needs JAX is imported after the flags: --help and mistakes do without
    from fer_jax.model_file import ModelFile

# As the tables of conversion and models have them, to which a test holds these.
SOURCES = ["keras", "timm", "torchvision", "lukemelas", "fer_jax"]
TARGETS = ["fer_jax", "timm", "keras", "onnx", "hub", "stablehlo"]
PRECISIONS = ["float32", "float16", "int8"]
VARIANTS = ["tiny", *(f"b{n}" for n in range(8)), *(f"lite{n}" for n in range(5))]

SOURCE = flags.DEFINE_enum(
    "source",
    None,
    SOURCES,
    "Whose file --input is; fer_jax takes a run's folder or our own .safetensors.",
    required=True,
)
TARGET = flags.DEFINE_enum("target", "fer_jax", TARGETS, "What to write.")
INPUT = flags.DEFINE_string("input", "", "The file, or a run's folder.")
OUTPUT = flags.DEFINE_string("output", None, "The file to write; hub: a folder.", required=True)
DOWNLOAD = flags.DEFINE_bool("download", False, "Fetch Keras' ImageNet weights: no --input.")
TOP = flags.DEFINE_bool("top", False, "With --download: the file with its 1,000-class head.")
HEAD = flags.DEFINE_enum(
    "head", "keep", ["keep", "drop"], "drop: the backbone alone, whatever head the file has."
)

# What a file may leave untold; a file that we wrote says it all, and must not be contradicted.
VARIANT = flags.DEFINE_enum("variant", None, VARIANTS, "Which EfficientNet, if not plain.")
PADDING = flags.DEFINE_enum(
    "padding", None, ["same", "symmetric"], "timm: same is tf_efficientnet_*, symmetric the others."
)
EPSILON = flags.DEFINE_float("bn_epsilon", None, "BatchNorm's, if not the source's.", 1e-12, 1.0)
IMAGE_SIZE = flags.DEFINE_integer("image_size", None, "Input size in pixels.")
HEAD_PADDING = flags.DEFINE_enum(
    "head_padding", None, ["VALID", "SAME"], "Of the notebook's head.", case_sensitive=False
)
MEAN = flags.DEFINE_list("input_mean", None, "Three means on the scale 0..1, if not the source's.")
STD = flags.DEFINE_list("input_std", None, "Three deviations, if not the source's.")
LABELS = flags.DEFINE_list(
    "labels", None, "Names of the classes in the order of the logits; our seven in any order."
)
UNTOLD = (VARIANT, PADDING, EPSILON, IMAGE_SIZE, HEAD_PADDING, MEAN, STD, LABELS)

DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "Of the kernels in a file of ours."
)
PRECISION = flags.DEFINE_enum(
    "precision", "float32", PRECISIONS, "How an export stores its kernels."
)
LICENCE = flags.DEFINE_string("licence", None, "Licence of the weights, for the header.")
REPORT = flags.DEFINE_string(
    "report", None, "Folder of the model's own plain report, whose temperature the header takes."
)

OF_ONE = (  # flag, and which source or target it is for
    (DOWNLOAD, SOURCE, "keras"),
    (PADDING, SOURCE, "timm"),
    (REPORT, SOURCE, "fer_jax"),
    (DTYPE, TARGET, "fer_jax"),
    (PRECISION, TARGET, "onnx"),
)


def main(argv: Sequence[str]) -> None:
    """Read one model, say what it is, write it in the other form."""
    del argv
    from fer_jax import model_file
    from fer_jax.conversion import exporting

    target, output = exporting.TARGETS[TARGET.value], pathlib.Path(OUTPUT.value)
    _check_flags(output, target)
    file = _own(pathlib.Path(INPUT.value)) if SOURCE.value == "fer_jax" else _foreign()
    file = model_file.rounded(file) if DTYPE.value == "bfloat16" else file
    options = {"precision": PRECISION.value} if PRECISION.value != "float32" else {}
    target.write(output, file, **options)
    print(describe(file))
    written = (path for path in (output, *output.rglob("*")) if path.is_file())  # hub: a folder
    print(f"wrote {output} ({sum(path.stat().st_size for path in written) / 2**20:.1f} MiB)")


def describe(file: "ModelFile") -> str:
    """What a person should check of a converted model: its kind, head, labels and scaling."""
    import jax

    about, architecture = file.about, file.about.architecture
    parameters = sum(leaf.size for leaf in jax.tree.leaves(file.variables["params"]))
    head = architecture["head"]
    kind = "no head" if head is None else f"{head['kind']} head of {head['classes']} classes"
    kind += f" (padding {head['padding']})" if head and "padding" in head else ""
    return (
        f"EfficientNet-{architecture['variant'].upper()}, {kind}, {parameters:,} parameters\n"
        f"padding {architecture['padding']}, BatchNorm epsilon {architecture['bn_epsilon']:g}, "
        f"stem of stride {architecture['stem_stride']}\n"
        f"images of {about.image_size} px, (x / 255 - {_round(architecture['input_mean'])}) / "
        f"{_round(architecture['input_std'])}\n"
        f"labels {','.join(about.labels) if about.labels else 'not told'}\n"
        f"licence {about.licence}"
    )


def _foreign() -> "ModelFile":
    from fer_jax import cache
    from fer_jax.conversion import download, importing

    path, licence = pathlib.Path(INPUT.value), LICENCE.value
    told: dict[str, Any] = {flag.name: flag.value for flag in UNTOLD if flag.present}
    told |= {name: _three(name, told[name]) for name in (MEAN.name, STD.name) if name in told}
    if DOWNLOAD.value:
        path = download.fetch_keras(
            told.setdefault("variant", "b2"), TOP.value, cache.folder("weights")
        )
        licence = licence or "Apache-2.0"
    drop = HEAD.value == "drop"
    wanted = importing.Wanted(SOURCE.value, licence=licence, drop_head=drop, **told)
    return importing.import_file(path, wanted)


def _own(path: pathlib.Path) -> "ModelFile":
    from fer_jax import model_file, trained
    from fer_jax.conversion.importing import in_our_order, without_head

    file = model_file.load(path) if os.path.isfile(path) else trained.load(path).file()
    file = in_our_order(without_head(file) if HEAD.value == "drop" else file)
    changes: dict[str, Any] = {"licence": LICENCE.value or file.about.licence}
    changes |= _calibration(pathlib.Path(REPORT.value), path) if REPORT.value else {}
    return dataclasses.replace(file, about=dataclasses.replace(file.about, **changes))


def _calibration(folder: pathlib.Path, model: pathlib.Path) -> dict[str, Any]:
    """What a report fitted, and on what; UserError where it is none of `model` alone.

    Answers of an ensemble, of several views or already scaled need another temperature.
    """
    try:
        report = json.loads((folder / "report.json").read_text())
        plain = report["tta"] == "none" and report["temperature"] == 1
        scaling, split = report["temperature_scaling"], report["split"]
        found = {name: scaling[name] for name in ("temperature", "label_smoothing")}
        names = [pathlib.Path(one["checkpoint"]).resolve().name for one in report["members"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"--report={folder} holds no report of this version ({one_line(error)}): evaluate again"
        ) from error
    if not plain or names != [model.resolve().name]:
        raise UserError(
            f"--report={folder} is not of the plain answers of {model} alone (its models: "
            f"{', '.join(names)}): evaluate that"
        )
    return {**found, "temperature_split": split}


def _three(flag: str, texts: list[str]) -> tuple[float, ...]:
    above = 0.0 if flag == STD.name else -math.inf
    try:
        values = tuple(float(text) for text in texts)
    except ValueError:
        values = ()
    if len(values) != 3 or not all(above < value < math.inf for value in values):
        limit = " above 0" if flag == STD.name else ""
        raise UserError(f"--{flag}={','.join(texts)}: three numbers{limit} are needed")
    return values


def _check_flags(output: pathlib.Path, kind: Any) -> None:
    """UserError for flags that contradict each other, before anything is read or fetched."""
    source, target = SOURCE.value, TARGET.value
    if not output.name.endswith(kind.suffix):
        raise UserError(f"--output={output}: a file for {target} ends in {kind.suffix}")
    if DOWNLOAD.value and INPUT.value:
        raise UserError("--download fetches Keras' file: no --input")
    if not DOWNLOAD.value and not INPUT.value:
        raise UserError("no --input: give the file, or --download for Keras' ImageNet weights")
    if TOP.value and not DOWNLOAD.value:
        raise UserError("--top chooses what --download fetches; a file has a head or has none")
    for flag, end, only in OF_ONE:
        if flag.value != flag.default and end.value != only:
            raise UserError(f"--{flag.name}={flag.value} is for --{end.name}={only} alone")
    told = [flag.name for flag in UNTOLD if flag.present]
    if source == "fer_jax" and told:
        raise UserError(f"--{told[0]} is for other people's files: a model of ours says it itself")


def _round(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"


if __name__ == "__main__":
    cli.run(main)
