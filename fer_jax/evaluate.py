"""Evaluate a checkpoint on a split: `python -m fer_jax.evaluate --checkpoint=WORKDIR --data=PATH`."""

import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from fer_jax import build, cli, labels, workdir
from fer_jax.data.sources import Dataset
from fer_jax.errors import UserError
from fer_jax.evaluation.report import write_report
from fer_jax.training import mesh
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.state import Variables

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Folder of a run.", required=True)
DATA = flags.DEFINE_string("data", "", "The data, in any known layout; the run's own if empty.")
SPLIT = flags.DEFINE_enum("split", "validation", ["train", "validation", "test"], "What to score.")
OUTPUT = flags.DEFINE_string("output", "", "Folder of the report; CHECKPOINT/report-SPLIT if empty.")


def main(argv: Sequence[str]) -> None:
    """Restore the best checkpoint of a run, answer every image of the split, write the report."""
    del argv
    folder = pathlib.Path(CHECKPOINT.value)
    about = workdir.read(folder)
    check_labels(about["labels"])
    config = ConfigDict(about["config"])
    config.data.path = DATA.value or config.data.path
    print(mesh.devices_line(), flush=True)
    data = build.read_data(config)
    print(data.describe(), flush=True)
    records = data.split(SPLIT.value)
    evaluator, variables, step = restore_best(folder, config, data)
    answers = evaluator.predict(variables, records, progress=sys.stderr.isatty())
    output = pathlib.Path(OUTPUT.value or folder / f"report-{SPLIT.value}")
    result = write_report(
        output,
        answers,
        lambda i: records[i]["image"],
        report_context(about, data, SPLIT.value, folder, step),
        bootstrap_samples=config.evaluation.bootstrap_samples,
    )
    low, high = result["accuracy_95_interval"]
    print(f"{result['accuracy']:.2%} ({low:.2%} to {high:.2%}) of {result['n']:,} images are right")
    print(f"{result['note']}\nreport {output}/report.md")


def check_labels(names: Sequence[str]) -> None:
    """UserError unless the checkpoint's classes are, in this order, the data's."""
    if tuple(names) != labels.LABELS:
        raise UserError(
            f"the checkpoint's labels {','.join(names)} differ from the data's "
            f"{','.join(labels.LABELS)}: its answers would be read wrongly"
        )


def restore_best(
    folder: pathlib.Path, config: ConfigDict, data: Dataset
) -> tuple[build.Evaluator, Variables, int]:
    """The best checkpoint of the run in `folder`: its evaluator, variables and step."""
    trainer = build.make_trainer(config, data.roles["train"])
    with Checkpoints(folder, config.checkpoint.select_by) as checkpoints:
        if checkpoints.best is None:
            raise UserError(f"{folder} has no evaluated checkpoint yet: train at least one epoch")
        state = checkpoints.restore(checkpoints.best, trainer.template())
        return trainer.evaluator, state.evaluated, checkpoints.best


def report_context(
    about: dict[str, Any], data: Dataset, split: str, checkpoint: pathlib.Path, step: int
) -> dict[str, Any]:
    """What a report says of where its figures come from."""
    return {
        "checkpoint": str(checkpoint),
        "checkpoint_step": step,
        "selected_on": about["selected_on"],
        "split": split,
        "data_path": DATA.value,
        "data_fingerprint": data.roles[split].fingerprint,
        "label_names": about["labels"],
        "command": shlex.join(["python", "-m", "fer_jax.evaluate", *sys.argv[1:]]),
    }


if __name__ == "__main__":
    cli.run(main)
