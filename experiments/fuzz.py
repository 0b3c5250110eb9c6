"""Spoiled inputs to every reader: `python -m experiments.fuzz --inputs=10000 --output=runs/fuzz`.

Each ends in success or in one line with exit status 2, within time and memory, writing nothing but
its output and running nothing that it brought. What does not is stored. The same command goes on.
"""

import contextlib
import faulthandler
import functools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from absl import flags

from experiments.jobs import ROOT, earlier_rows
from fer_jax import cli
from fer_jax.errors import UserError
from fer_jax.outputs import write_text

INPUTS = flags.DEFINE_integer("inputs", 10_000, "How many, all readers together.", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", "runs/fuzz", "Folder for results and findings.")
SEED = flags.DEFINE_integer("seed", 0, "Of all inputs.")
ONLY = flags.DEFINE_string("only", "", "A reader whose name holds this text, alone.")
REPLAY = flags.DEFINE_integer("replay", None, "Try this one input again, and say how it ended.")

SECONDS, HANG, MEMORY = 20, 40, 4 * 2**30  # of one input; until it is killed; beyond the idle size
RESULTS, FINDINGS = "results.jsonl", "findings"
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
RUNS = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork")
RUNS += ("socket.connect", "socket.sendto")
PICKLED = ("numpy", "collections", "_codecs", "fer_jax", "ml_dtypes", "torch")


def main(argv: Sequence[str]) -> int:
    """Try what is left of --inputs; print and write the table; 1 where anything was found."""
    del argv
    output = Path(OUTPUT.value).absolute()
    if REPLAY.value is not None:
        with crew(output, SEED.value, ONLY.value) as ask:
            print(json.dumps(ask(REPLAY.value), indent=1))
        return 0
    rows = fuzz(output, INPUTS.value, SEED.value, ONLY.value)
    text = table(rows)
    print(text, end="")
    write_text(output / "fuzz.md", text)
    return int(any(row["end"] == "finding" for row in rows))


def fuzz(output: Path, inputs: int, seed: int = 0, only: str = "") -> list[dict[str, Any]]:
    """The results of inputs 0 to `inputs` - 1, in `output` those that were there before."""
    from tqdm import tqdm

    rows = [
        row
        for row in earlier_rows(output, RESULTS, FINDINGS)
        if (row["seed"], row["only"]) == (seed, only) and row["number"] < inputs
    ]
    left = sorted(set(range(inputs)) - {row["number"] for row in rows})
    if not left:
        return rows
    with crew(output, seed, only) as ask, (output / RESULTS).open("a") as file:
        for number in tqdm(left, unit=" inputs", total=inputs, initial=inputs - len(left)):
            row = {"number": number, "seed": seed, "only": only, **ask(number)}
            rows.append(row)
            print(json.dumps(row), file=file, flush=True)
            if row["end"] == "finding":
                place = output / FINDINGS / f"{row['reader'].replace(' ', '_')}-{only}{number}"
                shutil.rmtree(place, ignore_errors=True)
                kept = output / "case" / "in"
                shutil.copytree(kept, place, symlinks=True, ignore=_no_pipes)
                (place / "finding.json").write_text(json.dumps(row, indent=1))
    return rows


def _no_pipes(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if Path(folder, name).is_fifo()}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line for each reader, and one for all."""
    text = (
        "| reader | inputs | accepted | refused | findings | seconds |\n|---|--:|--:|--:|--:|--:|\n"
    )
    for reader in [*sorted({row["reader"] for row in rows}, key=str.lower), None]:
        mine = [row for row in rows if reader in (None, row["reader"])]
        ends = Counter(row["end"] for row in mine)
        counts = (len(mine), ends["accepted"], ends["refused"], ends["finding"])
        cells = " | ".join(f"{count:,}" for count in counts)
        text += f"| {reader or 'all'} | {cells} | {sum(row['seconds'] for row in mine):,.0f} |\n"
    return text


# ---- the parent: one worker at a time, another when it dies or hangs -----------------------------


@contextlib.contextmanager
def crew(output: Path, seed: int, only: str) -> Iterator[Any]:
    """-> a function of an input's number that has it tried."""
    context, held = multiprocessing.get_context("spawn"), {}

    def begin() -> None:
        held["ours"], theirs = context.Pipe()
        held["worker"] = context.Process(
            target=work, args=(theirs, output, seed, only), daemon=True
        )
        held["worker"].start()
        theirs.close()
        held["readers"] = held["ours"].recv()
        if not held["readers"]:
            raise UserError(f"--only={only}: no reader's name holds it")

    def ask(number: int) -> dict[str, Any]:
        start, ours = time.monotonic(), held["ours"]
        reason = f"no end within {HANG} s"
        try:
            ours.send(number)
            if ours.poll(HANG):
                return ours.recv()
        except (EOFError, OSError):
            held["worker"].join()
            reason = f"the process ended with {held['worker'].exitcode}"
        held["worker"].kill()
        begin()
        reader, seconds = held["readers"][number % len(held["readers"])], time.monotonic() - start
        return {"reader": reader, "end": "finding", "why": reason, "seconds": seconds}

    try:
        begin()
        yield ask
    finally:
        held["worker"].kill()
        held["worker"].join()


# ---- the worker ----------------------------------------------------------------------------------


class TooLong(BaseException):
    """The alarm rang: no command's own handler may take it for a fault of the input."""


def work(pipe: Connection, output: Path, seed: int, only: str) -> None:
    """Answer numbers with how their inputs end, until the pipe closes."""
    scratch, case = output / "scratch", output / "case"
    scratch.mkdir(parents=True, exist_ok=True)
    os.environ |= {name: str(scratch) for name in ("TMPDIR", "XDG_CACHE_HOME", "HOME")}
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(scratch / "jax")}
    log = os.open(output / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.enable()
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    for flag in [name for name in flags.FLAGS if _owner(name) == "__mp_main__"]:
        delattr(flags.FLAGS, flag)  # this module's, which a spawned process imports anew
    import hostile

    stand_in()
    bases = hostile.Bases(output / "bases")
    bases.warm_up()
    readers = {name: case for name, case in bases.readers().items() if only in name}
    guard = Guard((case / "out", scratch))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    signal.signal(signal.SIGALRM, _ring)
    pipe.send(list(readers))
    with contextlib.suppress(EOFError):
        while True:
            number = pipe.recv()
            name = list(readers)[number % len(readers)]
            pipe.send({"reader": name, **attempt(readers[name], case, f"{seed} {number}", guard)})


def _owner(flag: str) -> str | None:
    return flags.FLAGS.find_module_defining_flag(flag)


def stand_in() -> None:
    """Nothing is compiled or trained: a run's checkpoints are ones, plans are not weighed."""
    import jax
    import numpy as np

    from fer_jax import train
    from fer_jax.models import efficientnet
    from fer_jax.recognition import recognizer
    from fer_jax.training import checkpoints

    class Ones(contextlib.nullcontext):  # type: ignore[type-arg]
        best = latest = 1

        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__(self)

        def check_step(self, step: int) -> None:
            pass

        def variables(self, step: int, like: Any, averaged: bool) -> Any:
            return jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), like)

        def metrics(self, step: int) -> dict[str, float]:
            return {"accuracy": 0.5}

    efficientnet.STAGES = efficientnet.STAGES[:2]  # smaller files
    checkpoints.Checkpoints = Ones  # type: ignore[assignment, misc]
    train.Trainer.describe = lambda trainer: trainer.beginning()  # type: ignore[method-assign]
    recognizer.load = functools.cache(recognizer.load)


def attempt(reader: Any, case: Path, seed: str, guard: "Guard") -> dict[str, Any]:
    """One input, made of `seed` alone: how it ends, why, and how long it took."""
    from support import call

    place, out = case / "in", case / "out"
    shutil.rmtree(case, ignore_errors=True)
    place.mkdir(parents=True)
    out.mkdir()
    door, arguments = reader(place, out, random.Random(seed))
    before, start, outcome, trouble = listing(case, out), time.monotonic(), None, ""
    os.chdir(place)
    signal.alarm(SECONDS)
    try:
        with guard:
            outcome = call(door, arguments)
    except BaseException:
        trouble = traceback.format_exc()
    finally:
        signal.alarm(0)
    os.chdir(ROOT)
    end = {"command": [door, *arguments], "seconds": round(time.monotonic() - start, 3)}
    faults = [*guard.seen, *sorted(listing(case, out) ^ before)]
    lines = [line for line in outcome.err.splitlines() if line] if outcome else []
    refused = outcome and outcome.status == 2 and [x[:7] for x in lines] == ["error: "]
    if trouble or faults or not (refused or (outcome.status == 0 and not lines)):
        status = outcome.status if outcome else None
        why = {"traceback": trouble, "faults": faults, "status": status, "lines": lines}
        return {**end, "end": "finding", "why": why}
    return {**end, "end": "refused" if refused else "accepted", "why": "".join(lines)[:500]}


def listing(case: Path, out: Path) -> set[str]:
    """Every file of a case outside its output, with its size."""
    found = {str(path) for path in (case.parent.iterdir()) if path.name != RESULTS}
    for folder, folders, names in os.walk(case):
        if Path(folder) == case:
            folders.remove(out.name)
        for name in names:
            path = Path(folder, name)
            found.add(f"{path} {path.lstat().st_size}")
    return found


def _ring(*_: Any) -> None:
    raise TooLong(f"no end within {SECONDS} s")


class Guard:
    """While entered, notes what the process does that no input may make it do."""

    def __init__(self, allowed: Sequence[Path]) -> None:
        self.allowed = tuple(map(str, (*allowed, "/dev/null", "/proc/self")))
        self.seen: list[str] = []
        self.watching = False
        sys.addaudithook(self.hook)

    def __enter__(self) -> None:
        self.seen, self.watching = [], True

    def __exit__(self, *_: object) -> None:
        self.watching = False

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """What Python calls at each event of its own."""
        if not self.watching:
            return
        if event == "open":
            path, _, how = arguments
            if isinstance(path, int) or not (isinstance(how, int) and how & WRITING):
                return
            self.note(event, path)
        elif event in CHANGES:
            folder = arguments[-1] if isinstance(arguments[-1], int) else -1
            for path in arguments:
                if isinstance(path, str | bytes | os.PathLike):
                    start = f"/proc/self/fd/{folder}" if folder >= 0 and event != "os.mkdir" else ""
                    start = os.path.realpath(start) if start else ""
                    self.note(event, os.path.join(start, os.fsdecode(path)))
        elif event.startswith(RUNS) or (
            event == "pickle.find_class" and not str(arguments[0]).startswith(PICKLED)
        ):
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event == "exec" and not Path(arguments[0].co_filename).is_relative_to(ROOT):
            self.foreign(arguments[0])

    def note(self, event: str, path: Any) -> None:
        """Keep an event that changed something elsewhere."""
        path = os.path.abspath(os.fsdecode(path))
        if not path.startswith(self.allowed):
            self.seen.append(f"{event} {path}")

    def foreign(self, code: Any) -> None:
        """Keep code that is neither a module's nor made by one that makes classes."""
        caller = sys._getframe(2).f_code.co_filename
        known = (sys.prefix, sys.base_prefix, "<frozen")
        if not code.co_filename.startswith(known) and not caller.startswith(known):
            self.seen.append(f"exec {code.co_filename} by {caller}")


if __name__ == "__main__":
    cli.run(main)
