"""Evaluate a run on a split: `python -m fer_jax.evaluate --checkpoint=WORKDIR --data=PATH`."""

import pathlib
import shlex
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict

from fer_jax import build, cli, labels, run, workdir
from fer_jax.errors import UserError
from fer_jax.training import mesh
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.state import Variables

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Folder of a run.", required=True)
DATA = flags.DEFINE_string("data", "", "The data, in any known layout; the run's own if empty.")
SPLIT = flags.DEFINE_enum("split", "validation", ["train", "validation", "test"], "What to score.")
OUTPUT = flags.DEFINE_string("output", "", "The report's folder; CHECKPOINT/report-SPLIT if empty.")


def main(argv: Sequence[str]) -> None:
    """Restore the best checkpoint of a run, answer every image of the split, write the report."""
    del argv
    folder = pathlib.Path(CHECKPOINT.value)
    about = workdir.read(folder)
    check_labels(about["labels"])
    config = ConfigDict(about["config"])
    config.data.path = DATA.value or config.data.path
    mesh.start("", 1, 0)
    run.say(mesh.devices_line())
    data = build.read_data(config)
    run.say(data.describe())
    evaluator, variables, step = restore_best(folder, config)
    output = pathlib.Path(OUTPUT.value or folder / f"report-{SPLIT.value}")
    origin = {
        "checkpoint": str(folder),
        "checkpoint_step": step,
        "selected_on": about["selected_on"],
        "command": shlex.join(["python", "-m", "fer_jax.evaluate", *sys.argv[1:]]),
    }
    report = run.evaluate(evaluator, variables, data, SPLIT.value, output, origin)
    run.say(f"{run.results(report)}\nreport {output}/report.md")


def check_labels(names: Sequence[str]) -> None:
    """UserError unless the checkpoint's classes are, in this order, the data's."""
    if tuple(names) != labels.LABELS:
        raise UserError(
            f"the checkpoint's labels {','.join(names)} differ from the data's "
            f"{','.join(labels.LABELS)}: its answers would be read wrongly"
        )


def restore_best(
    folder: pathlib.Path, config: ConfigDict
) -> tuple[build.Evaluator, Variables, int]:
    """The best checkpoint of the run in `folder`: its evaluator, variables and step."""
    evaluator = build.make_evaluator(config)
    with Checkpoints(folder, config.checkpoint.select_by, read_only=True) as checkpoints:
        if checkpoints.best is None:
            raise UserError(f"{folder} has no evaluated checkpoint yet: train at least one epoch")
        state = checkpoints.restore(checkpoints.best, evaluator.template())
        return evaluator, state.evaluated, checkpoints.best


if __name__ == "__main__":
    cli.run(main)
