"""Prints and writes the comparisons: `python -m experiments.benchmark [--compare=NAMES]`."""

import dataclasses
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence

from absl import flags

from experiments.benchmark import comparisons, report
from experiments.benchmark.children import Child
from experiments.benchmark.choice import NOT_RUN, Length
from experiments.benchmark.comparisons import NAMES, Result
from experiments.benchmark.processes import Training
from experiments.benchmark.rounds import BATCHES, DTYPES, Round, alone, rounds
from experiments.benchmark.settings import ROOT, Settings
from experiments.parity.random_weights import GAINS
from fer_jax import cli
from fer_jax.errors import UserError

ALL = (*NAMES, "whole_loop", "first_step", "whole_run")
COMPARE = flags.DEFINE_list(
    "compare", None, f"Which of {', '.join(ALL)}; all, but whole_run only on a GPU."
)
RECIPE = flags.DEFINE_string("recipe", str(ROOT / "configs/b2_scratch.py"), "The model's config.")
VARIANT = flags.DEFINE_string("variant", "b2", "Which EfficientNet, b0 to b7.")
SIZE = flags.DEFINE_integer("size", 96, "Pixels.")
BATCH = flags.DEFINE_list("batch", None, "Images: 64, on a GPU larger ones too.")
DTYPE = flags.DEFINE_list("dtype", None, "float32, on a GPU bfloat16 too.")
TURNS = flags.DEFINE_integer("turns", 5, "Pairs of turns of each comparison.")
SECONDS = flags.DEFINE_float("seconds", 3.0, "Length of a turn.")
THREADS = flags.DEFINE_integer("threads", 0, "Cores to use; 0: all.")
DATA = flags.DEFINE_string("data", "", "Grey faces for the pipelines; made in memory without it.")
WHOLE_RECIPE = flags.DEFINE_string(
    "whole_recipe", str(ROOT / "configs/b2.py"), "The config of whole_run."
)
WHOLE_EPOCHS = flags.DEFINE_integer("whole_epochs", 8, "Its epochs.")
OUTPUT = flags.DEFINE_string("output", "runs/bench/benchmark.json", "All that was found.")


def main(argv: Sequence[str]) -> int:
    """Run what was chosen; 1 where contestants disagree or fer_jax itself fails."""
    del argv
    check()
    found: dict[str, Result] = {}
    load = report.load_average()
    with tempfile.TemporaryDirectory() as folder:
        settings = first_settings(folder)
        say(f"{settings.threads} cores, load {load}; weights and images")
        with Child(comparisons.our_entry("prepare"), settings) as prepared:
            about = prepared.about
        gpu = about["platform"] != "cpu"
        chosen = COMPARE.value or (ALL if gpu else ALL[:-1])
        names = tuple(name for name in NAMES if name in chosen)
        first = Round(settings, gpu, Length(TURNS.value, SECONDS.value), names, say)
        dtypes = DTYPE.value or (DTYPES if gpu else DTYPES[:1])
        batches = given_batches() or (BATCHES if gpu else BATCHES[:1])
        for suffix, round_ in rounds(first, dtypes, batches):
            found |= {name + suffix: result for name, result in round_.results()}
        training = Training(path(WHOLE_RECIPE), WHOLE_EPOCHS.value, DATA.value)
        loop, timed = alone(chosen, first, training)
        found |= loop
    turns = dataclasses.asdict(first.length)
    absent = {"status": NOT_RUN, "reason": f"JAX sees no GPU, it computes on {about['platform']}"}
    whole = report.document(settings, turns, about, found, timed, {} if gpu else absent, load)
    report.write(pathlib.Path(OUTPUT.value), whole)
    print("\n".join(["", *report.table(whole), OUTPUT.value]))
    failures = report.failures(whole)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return int(bool(failures))


def check() -> None:
    """UserError for flags that cannot be meant."""
    unknown = sorted(set(COMPARE.value or ()) - set(ALL))
    batches, dtypes = BATCH.value or [], DTYPE.value or []
    if unknown:
        raise UserError(f"--compare={unknown[0]} is not one of {', '.join(ALL)}")
    if VARIANT.value not in GAINS:
        raise UserError(f"--variant={VARIANT.value} is not one of {', '.join(GAINS)}")
    if WHOLE_EPOCHS.value < 1:
        raise UserError(f"--whole_epochs={WHOLE_EPOCHS.value} must be positive")
    if TURNS.value < 1 or SECONDS.value <= 0:
        raise UserError(f"--turns={TURNS.value} --seconds={SECONDS.value:g} must be positive")
    if not all(batch.isdecimal() and int(batch) > 1 for batch in batches):
        raise UserError(f"--batch={','.join(batches)} must be numbers from 2 on")
    if not {*dtypes} <= {*DTYPES}:
        raise UserError(f"--dtype={','.join(dtypes)} must be of {', '.join(DTYPES)}")
    if not 0 <= THREADS.value <= len(cores()):
        raise UserError(f"--threads={THREADS.value}: there are {len(cores())} cores")


def first_settings(folder: str) -> Settings:
    """Of the first batch size and precision; this process and its children keep to the cores."""
    threads = THREADS.value or len(cores())
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores()[:threads])
    return Settings(
        config=path(RECIPE),
        variant=VARIANT.value,
        size=SIZE.value,
        batch=(given_batches() or BATCHES)[0],
        dtype=(DTYPE.value or DTYPES)[0],
        threads=threads,
        folder=folder,
        data=DATA.value,
    )


def path(flag: flags.FlagHolder) -> str:
    """Of the file that a flag names: contestants start in another folder."""
    return str(pathlib.Path(flag.value).resolve())


def given_batches() -> list[int]:
    """Of the flag; empty where it is not given."""
    return [int(batch) for batch in BATCH.value or ()]


def cores() -> list[int]:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def say(text: str) -> None:
    """A line of progress, with the seconds so far."""
    print(f"{time.perf_counter() - STARTED:6.0f} s  {text}", flush=True)


STARTED = time.perf_counter()
if __name__ == "__main__":
    cli.run(main)
