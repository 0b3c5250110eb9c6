"""Evaluate a model on a split: `python -m fer_jax.evaluate --checkpoint=RUN --data=PATH`.

Several --checkpoint are one ensemble; --tta averages over views of each image; --temperature scales
the mean. Reports say so, and what they fit themselves comes on top.
"""

import os
import pathlib
import shlex
import sys
from collections.abc import Sequence

from absl import flags

from fer_jax import cli, reading
from fer_jax.data.sources import open_dataset
from fer_jax.evaluation.predictions import TEMPERATURES, VIEWS

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
READING = reading.define()
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


flags.register_validator(
    CHECKPOINT,
    lambda given: not given or len(set(map(os.path.realpath, given))) == len(given),
    "one is given twice: an ensemble has different members",
)
flags.register_multi_flags_validator(
    [CHECKPOINT, OUTPUT],
    lambda given: bool(given["output"]) or len(given["checkpoint"] or ()) < 2,
    "an ensemble lies nowhere by itself: give --output=DIR",
)
flags.register_validator(
    TEMPERATURE,
    lambda given: TEMPERATURES[0] <= given <= TEMPERATURES[1],  # nor is nan
    "give a number from {} to {:g}, such as a report's".format(*TEMPERATURES),
)


def main(argv: Sequence[str]) -> None:
    """Load trained models, answer every image of the split, write the report."""
    del argv
    from fer_jax import cache, leakage, trained  # JAX: seconds, which --help does without
    from fer_jax.evaluation import groups, report
    from fer_jax.training import mesh

    cache.keep_programs()
    print(mesh.devices_line(), flush=True)
    models = trained.load_all(list(map(pathlib.Path, CHECKPOINT.value)), STEP.value)
    known, about = [model.about.training_data or {} for model in models], models[0].about

    # The images to score: what the models' runs held out, all of data that nobody divided.
    path = DATA.value or models[0].data.path
    # What to exclude is about training images, and may be gone.
    options = READING(models[0].data, **({} if SPLIT.value == "train" else {"exclude": ""}))
    data = open_dataset(path, options, known)
    split = trained.ALL if list(data.roles) == [trained.ALL] else SPLIT.value
    print(data.describe(), flush=True)
    records = data.split(split)
    prints = records.fingerprint
    columns = groups.read_metadata(GROUPS.value, data, records) if GROUPS.value else None

    # The report, beside the checkpoint's others.
    output = output_folder(split, "" if known[0].get(split) == prints else prints[:8])
    command = shlex.join(["python", "-m", "fer_jax.evaluate", *sys.argv[1:]])
    origin = trained.origin_of(models, split, prints)
    own = about.temperature if len(models) == 1 and TEMPERATURE.value == 1 else None
    result = report.evaluate(
        [(model.evaluator, model.variables) for model in models],
        records,
        split,
        output,
        {**origin, "command": command, "data_path": path},
        tta=TTA.value,
        temperature=TEMPERATURE.value,
        copied=leakage.by_path(CLEAN.value, options, path, data, split)
        if CLEAN.value
        else leakage.by_models(models, records),
        calibration=own or TEMPERATURE.value,
        stressed=STRESS.value,
        columns=columns,
    )
    print(f"{report.headline(result)}\nreport {output}/report.md")


def output_folder(split: str, data: str) -> pathlib.Path:
    """--output, or a folder beside the checkpoint, named by all that makes answers different.

    `data` names other data than the model's own, so that no report takes another's place.
    """
    if OUTPUT.value:
        return pathlib.Path(OUTPUT.value)
    checkpoint = pathlib.Path(CHECKPOINT.value[0])
    beside = checkpoint if os.path.isdir(checkpoint) else checkpoint.with_suffix("")
    parts = ["report", split, data, "" if TTA.value == "none" else TTA.value]
    parts += [f"T{TEMPERATURE.value}"] if TEMPERATURE.value != 1 else []
    parts += [f"step{STEP.value}"] if STEP.value is not None else []
    parts += ["stress"] * STRESS.value + ["groups"] * bool(GROUPS.value)
    return beside / "-".join(filter(None, parts))


if __name__ == "__main__":
    cli.run(main)
