"""Prints and writes the comparisons: `python -m experiments.benchmark [--compare=NAMES]`."""

import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence

from absl import flags

from experiments.benchmark import table
from experiments.benchmark.comparisons import comparisons
from experiments.benchmark.grid import NAMES, ours
from experiments.benchmark.shared import Settings
from experiments.benchmark.timer import Timing
from fer_jax import cli
from fer_jax.outputs import write_text

ALL = [*NAMES, "whole_loop", "first_step"]
COMPARE = flags.DEFINE_list("compare", ALL, f"Which of {', '.join(ALL)}.")
VARIANT = flags.DEFINE_string("variant", "b2", "Which EfficientNet, b0 to b7.")
SIZE = flags.DEFINE_integer("size", 96, "Pixels.", lower_bound=32)
BATCH = flags.DEFINE_integer("batch", 64, "Images.", lower_bound=2)
TURNS = flags.DEFINE_integer("turns", 5, "Pairs of turns of each comparison.", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 3.0, "Length of a turn.", lower_bound=0.01)
OUTPUT = flags.DEFINE_string("output", "runs/bench/benchmark.json", "Beside it lies the table.")


def main(argv: Sequence[str]) -> int:
    """Run what was chosen; 1 where contestants disagree or fer_jax itself fails."""
    del argv
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(VARIANT.value, SIZE.value, BATCH.value, cores or 1, folder)
        found = table.about(settings, TURNS.value, SECONDS.value)
        timing = Timing(settings, TURNS.value, SECONDS.value, say)

        # The weights that all start from, and where fer_jax computes.
        say(f"{cores} cores, load {found['machine']['load_average_at_start']}; shared files")
        with timing.start(ours("prepare"), settings) as prepared:
            platform, found["device"] = prepared.about["platform"], prepared.about["device"]
        found["comparisons"] = dict(comparisons(COMPARE.value, timing, platform != "cpu"))

    output, lines = pathlib.Path(OUTPUT.value), list(table.table(found))
    write_text(output, json.dumps(found, indent=1, allow_nan=False) + "\n")
    write_text(output.with_suffix(".md"), "\n".join(lines) + "\n")
    print("\n".join(["", *lines, "", str(output)]))
    for failure in table.failures(found):
        print(f"error: {failure}", file=sys.stderr)
    return int(bool(table.failures(found)))


def say(text: str) -> None:
    """A line of progress, with the seconds so far."""
    print(f"{time.perf_counter() - STARTED:6.0f} s  {text}", flush=True)


flags.register_validator("compare", {*ALL}.issuperset, f"must be of {', '.join(ALL)}")
STARTED = time.perf_counter()
if __name__ == "__main__":
    cli.run(main)
