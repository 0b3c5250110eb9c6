"""Evaluate a model on a split: `python -m fer_jax.evaluate --checkpoint=RUN --data=PATH`.

Several --checkpoint are one ensemble; --tta averages over views of each image; --temperature scales
the mean. Reports say so, and what they fit themselves comes on top.
"""

import dataclasses
import functools
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from fer_jax import cli
from fer_jax.data.records import Dataset
from fer_jax.data.sources import open_dataset
from fer_jax.errors import UserError
from fer_jax.evaluation.predictions import VIEWS

if TYPE_CHECKING:  # JAX, SciPy: two seconds, which --help does without
    from fer_jax.trained import Trained

CHECKPOINT = flags.DEFINE_multi_string(
    "checkpoint",
    None,
    "Folder of a run, or a model file .safetensors; several are an ensemble.",
    required=True,
)
DATA = flags.DEFINE_string("data", "", "The data, in any known layout; the run's own if empty.")
SPLIT = flags.DEFINE_enum(
    "split", "validation", ["train", "validation", "test", "all"], "What to score."
)
LABEL_ORDER = flags.DEFINE_string(
    "label_order", None, "What numbers mean, if not what they meant in training: 1:angry,..."
)
MAP = flags.DEFINE_string("map", None, "Other classes: contempt:none,joy:happy leaves one out.")
ON_CORRUPT = flags.DEFINE_enum(
    "on_corrupt", None, ["stop", "skip"], "What to do about images that cannot be read."
)
TTA = flags.DEFINE_enum("tta", "none", list(VIEWS), "Views of each image to average over.")
TEMPERATURE = flags.DEFINE_float(
    "temperature",
    1.0,
    "If not 1: divides the logs of all probabilities, unsmoothed, as a report says.",
)
CLEAN = flags.DEFINE_string(
    "clean_against",
    "",
    "What tells the images that have a copy in training, to report without them too: a data path "
    "to compare with, an audit's folder, or a list of keys. If empty, what the model itself knows.",
)
STRESS = flags.DEFINE_bool("stress", False, "Answer also worse pictures: blur, noise, bad crops.")
GROUPS = flags.DEFINE_string(
    "groups", "", "CSV with a column key, row or file and others, to report by their values too."
)
OUTPUT = flags.DEFINE_string(
    "output",
    "",
    "The report's folder; if empty, CHECKPOINT/report-SPLIT[-DATA][-TTA][-TEMPERATURE][-STEP] and "
    "-stress, -groups where asked for; DATA: the first digits of other data's fingerprint.",
)
STEP = flags.DEFINE_integer("step", None, "A run's checkpoint, if not its best one.")


def main(argv: Sequence[str]) -> None:
    """Load trained models, answer every image of the split, write the report."""
    del argv
    paths = [pathlib.Path(given) for given in CHECKPOINT.value]
    check_flags(list(map(str, paths)))
    from fer_jax import cache, leakage, trained
    from fer_jax.evaluation import groups, report, stress
    from fer_jax.training import mesh

    cache.keep_programs()
    mesh.say(mesh.devices_line())

    # The models, the images to score, and which of these were in training.
    models = trained.load_all(paths, STEP.value)
    path = DATA.value or models[0].data.path
    data, split = read(models, path, SPLIT.value)
    mesh.say(data.describe())
    records = data.split(split)
    columns = groups.read_metadata(GROUPS.value, data, records) if GROUPS.value else None
    copied = (
        leakage.by_path(CLEAN.value, dataclasses.replace(models[0].data, path=path), data, split)
        if CLEAN.value
        else leakage.by_models(models, records)
    )

    # The report, beside the checkpoint's others.
    prints = records.fingerprint
    command = shlex.join(["python", "-m", "fer_jax.evaluate", *sys.argv[1:]])
    known = models[0].about.training_data or {}
    output = output_folder(paths[0], split, "" if known.get(split) == prints else prints[:8])
    origin = {**trained.origin_of(models, split, prints), "command": command, "data_path": path}
    members = [(model.evaluator, model.variables) for model in models]
    further: dict[str, Any] = {}
    if STRESS.value:
        further["stress"] = functools.partial(stress.measure, records)
    if columns:
        further["groups"] = functools.partial(groups.measure, columns)
    given, own = TEMPERATURE.value, models[0].about.temperature if len(models) == 1 else None
    result = report.evaluate(
        *(members, records, split, output, origin),
        tta=TTA.value,
        temperature=given,
        copied=copied,
        calibration=(own or 1.0) if given == 1 else given,
        further=further,
    )
    mesh.say(f"{report.headline(result)}\nreport {output}/report.md")


def read(models: "Sequence[Trained]", path: str, split: str) -> tuple[Dataset, str]:
    """The data at `path`, and which part to score: `split`, or "all" where nothing was held out.

    Data without a validation part are divided as a model's run divided its own if they are those
    (by fingerprint); of others all images are scored, since only training needs a part held out.
    """
    from fer_jax.trained import ALL

    given = {"label_order": LABEL_ORDER.value, "map": MAP.value, "on_corrupt": ON_CORRUPT.value}
    changes: dict[str, Any] = {k: value for k, value in given.items() if value is not None}
    if split != "train":  # what to exclude is about training images, and may be gone
        changes["exclude"] = ""
    options = dataclasses.replace(models[0].data, **changes)
    data = open_dataset(path, options, [model.about.training_data or {} for model in models])
    return data, ALL if list(data.roles) == [ALL] else split


def check_flags(paths: Sequence[str]) -> None:
    """UserError for what no report names: a member given twice, an ensemble without --output.

    And for a temperature that none may have fitted.
    """
    from fer_jax.evaluation.calibration import TEMPERATURES

    (low, high), value = TEMPERATURES, TEMPERATURE.value
    if not low <= value <= high:  # nor is nan
        raise UserError(
            f"--temperature={value}: give a number from {low} to {high:g}, such as a report's"
        )
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise UserError(f"--checkpoint={twice} is given twice: an ensemble has different members")
    if len(paths) > 1 and not OUTPUT.value:
        raise UserError(f"an ensemble of {len(paths)} lies nowhere by itself: give --output=DIR")


def output_folder(checkpoint: pathlib.Path, split: str, data: str) -> pathlib.Path:
    """--output, or a folder beside the checkpoint, named by all that makes figures different.

    `data` names other data than the model's own, so that no report takes another's place.
    """
    if OUTPUT.value:
        return pathlib.Path(OUTPUT.value)
    beside = checkpoint if os.path.isdir(checkpoint) else checkpoint.with_suffix("")
    parts = ["report", split, data]
    parts += [TTA.value] if TTA.value != "none" else []
    parts += [f"T{TEMPERATURE.value}"] if TEMPERATURE.value != 1 else []
    parts += [f"step{STEP.value}"] if STEP.value is not None else []
    parts += ["stress"] * STRESS.value + ["groups"] * bool(GROUPS.value)
    return beside / "-".join(part for part in parts if part)


if __name__ == "__main__":
    cli.run(main)
