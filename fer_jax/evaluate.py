"""Evaluate a model on a split: `python -m fer_jax.evaluate --checkpoint=RUN --data=PATH`."""

import pathlib
import shlex
import sys
from collections.abc import Sequence

from absl import flags

from fer_jax import build, cache, cli, run, trained
from fer_jax.training import mesh

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Folder of a run, or a model file .safetensors.", required=True
)
DATA = flags.DEFINE_string("data", "", "The data, in any known layout; the run's own if empty.")
SPLIT = flags.DEFINE_enum("split", "validation", ["train", "validation", "test"], "What to score.")
OUTPUT = flags.DEFINE_string("output", "", "The report's folder; CHECKPOINT/report-SPLIT if empty.")


def main(argv: Sequence[str]) -> None:
    """Load a trained model, answer every image of the split, write the report."""
    del argv
    path = pathlib.Path(CHECKPOINT.value)
    cache.keep_programs()
    mesh.start("", 1, 0)
    run.say(mesh.devices_line())
    model = trained.load(path)
    config = model.evaluator.config
    config.data.path = DATA.value or config.data.path
    data = build.read_data(config)
    run.say(data.describe())
    beside = path if path.is_dir() else path.with_suffix("")
    output = pathlib.Path(OUTPUT.value or beside / f"report-{SPLIT.value}")
    command = shlex.join(["python", "-m", "fer_jax.evaluate", *sys.argv[1:]])
    origin = {**model.origin, "command": command}
    report = run.evaluate(model.evaluator, model.variables, data, SPLIT.value, output, origin)
    run.say(f"{run.results(report)}\nreport {output}/report.md")


if __name__ == "__main__":
    cli.run(main)
