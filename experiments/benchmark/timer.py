"""The one timer: contestants in processes of their own take turns, each at its best setting.

PyTorch, TensorFlow and JAX keep threads that would fight in one process; here the contestant whose
turn it is not waits for a question. A grid is visited twice, in opposite order: what a slow hour
of the machine takes from a setting on one way, it does not take on the other. The mean of its two
visits chooses, so no lucky one does.
"""

import contextlib
import dataclasses
import importlib
import multiprocessing
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any
from unittest import mock

from experiments.benchmark.grid import Entry
from experiments.benchmark.memory import peak_mib
from experiments.benchmark.shared import TF32, Answer, Contestant, Settings, agree
from fer_jax import cli
from fer_jax.errors import UserError, one_line

# The user's environment, without what fer_jax's restart put there.
RESTART = {cli.TUNABLES: cli.HUGE_PAGES, **cli.tcmalloc()}
USERS = {k: v for k, v in os.environ.items() if RESTART.get(k) != v}
MEASURED, DISAGREEMENT, NOT_RUN, FAILED = "measured", "disagreement", "not run", "failed"
Row = dict[str, Any]  # ready for JSON
Reference = tuple[str, Answer]  # on what platform fer_jax computes, and what it answers


class NotRunError(UserError):
    """Why a contestant cannot be had here, or must not be timed; `row` stands for its figures."""

    def __init__(self, reason: str, status: str = NOT_RUN) -> None:
        super().__init__(reason)
        self.row = {"status": status, "reason": reason}


present: list[Contestant] = []  # in a process of its own, the one that lives there


def reply(question: Callable[..., Any], *arguments: Any) -> Any:
    """In a contestant's process: the answer, or why there is none, in a class that can travel."""
    try:
        return question(*arguments)
    except Exception as error:
        return NotRunError(f"{type(error).__name__}: {one_line(error)}")


def build(log: pathlib.Path, entry: Entry, settings: Settings) -> dict[str, Any]:
    """Make the contestant; returns what it says about itself."""
    with log.open("w") as stream:  # what libraries print
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    module = importlib.import_module(entry.module)
    present.append(module.make(entry.task, settings, entry.options))
    return present[0].about


def answer() -> Answer:
    """What it computes of the inputs that all contestants share."""
    return present[0].answer()


def turn(seconds: float) -> tuple[float, float]:
    """Images per second of a turn, to its last result, and the share of it without a batch."""
    one = present[0]
    for _ in range(one.untimed):
        result = one.call(next(one.batches))
    one.wait(result)

    calls, waited, start = 0, 0.0, time.perf_counter()
    while (asked := time.perf_counter()) < start + seconds or not calls:
        batch = next(one.batches)
        waited += time.perf_counter() - asked
        result, calls = one.call(batch), calls + 1
    one.wait(result)
    took = time.perf_counter() - start
    return calls * one.examples / took, waited / took


class Child(contextlib.AbstractContextManager):
    """A contestant in a process of its own, to be closed."""

    def __init__(self, entry: Entry, settings: Settings) -> None:
        self.entry = entry
        self._log = settings.file(f"{entry.module}-{entry.task}-{os.urandom(4).hex()}.log")
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        with mock.patch.dict(os.environ, environment(entry, settings), clear=True):
            self.about: dict[str, Any] = self.ask(build, self._log, entry, settings)

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._pool.shutdown()

    def ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function there; NotRunError with the reason why it failed."""
        try:
            found = self._pool.submit(reply, question, *arguments).result()
        except BrokenProcessPool:
            found = NotRunError(f"its process has died: {last_line(self._log)}")
        if isinstance(found, NotRunError):
            self._pool.shutdown()
            raise found
        return found


def last_line(log: pathlib.Path) -> str:
    """The last words of a process."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return next(filter(str.strip, reversed(text.splitlines())), "it said nothing").strip()


def environment(entry: Entry, settings: Settings) -> dict[str, str]:
    """The user's, but the allocator is the entry's; compilations are kept for this run."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(settings.file("compiled")),
        "TORCHINDUCTOR_CACHE_DIR": str(settings.file("inductor")),
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45",  # two contestants share an accelerator
        **USERS,
        **entry.environment,
    }


@dataclasses.dataclass(frozen=True)
class Timing:
    """What all comparisons share."""

    settings: Settings
    turns: int  # pairs of them
    seconds: float  # of each
    say: Callable[[str], None]
    start: Callable[[Entry, Settings], Child] = Child


def duel(ours: Child, peer: Child, timing: Timing) -> Row:
    """A B A B: the ratio of each pair counts, above 1 where ours is faster."""
    pairs = [
        [player.ask(turn, timing.seconds) for player in (ours, peer)] for _ in range(timing.turns)
    ]
    ratios = [a / b for (a, _), (b, _) in pairs]
    return {
        "status": MEASURED,
        "median": statistics.median(ratios),  # not the ratio of the medians
        "min": min(ratios),
        "max": max(ratios),
        "ratios": ratios,
        "fer_jax": _side(ours, [a for a, _ in pairs]),
        "peer": _side(peer, [b for _, b in pairs]),
    }


def _side(child: Child, turns: Sequence[tuple[float, float]]) -> Row:
    """What is known of one who took turns."""
    rates, waits = zip(*turns, strict=True)
    return {
        "name": child.entry.name,
        "images_per_second": statistics.median(rates),
        "images_per_second_min": min(rates),
        "images_per_second_max": max(rates),
        "waiting_share": statistics.mean(waits),
        **child.about,
        "peak_mib": child.ask(peak_mib),
    }


@contextlib.contextmanager
def agreeing(
    entry: Entry, reference: Reference, timing: Timing
) -> Iterator[tuple[Child, dict[str, float]]]:
    """A contestant that may be timed, and how far its answers are from fer_jax's."""
    with timing.start(entry, timing.settings) as child:
        (here, expected), there = reference, child.about["platform"]
        if here != there:
            raise NotRunError(f"it computes on {there}, fer_jax on {here}")
        differences, objection = agree(expected, child.ask(answer), TF32 * (here == "gpu"))
        if objection:
            raise NotRunError(objection, DISAGREEMENT)
        yield child, differences


def visit(entries: Sequence[Entry], reference: Reference, timing: Timing) -> list[Row]:
    """A line on every entry: the rates of its two visits and their mean, or why there are none.

    Each visit has a process of its own, which is gone before the next begins.
    """
    rows: list[Row] = [{"name": entry.name, "status": MEASURED, "rates": []} for entry in entries]
    there = list(zip(entries, rows, strict=True))
    for entry, row in [*there, *reversed(there)]:
        if row["status"] != MEASURED:
            continue
        try:
            with agreeing(entry, reference, timing) as (child, row["agreement"]):
                row["rates"].append(child.ask(turn, timing.seconds)[0])
            row["rate"] = statistics.mean(row["rates"])
            timing.say(f"  {entry.name}: {row['rates'][-1]:.1f} images/s")
        except NotRunError as error:
            row |= error.row
            timing.say(f"  {entry.name}: {row['status']}: {error}")
    return rows


def compare(ours: Child, reference: Reference, entries: Sequence[Entry], timing: Timing) -> Row:
    """A B A B with the best of the peers, in a process that has agreed itself."""
    grid = visit(entries, reference, timing)
    measured = [(row["rate"], n) for n, row in enumerate(grid) if row["status"] == MEASURED]
    if not measured:  # the first who disagrees says why, else the first at all
        first = next((row for row in grid if row["status"] == DISAGREEMENT), grid[0])
        return {"status": first["status"], "reason": first["reason"], "grid": grid}
    try:
        with agreeing(entries[max(measured)[1]], reference, timing) as (peer, differences):
            return duel(ours, peer, timing) | {"agreement": differences, "grid": grid}
    except NotRunError as error:
        return error.row | {"grid": grid}
