"""Commands killed at random moments: `python -m experiments.faults --kills=50`.

The same command again must end as if nobody had touched it: the same bytes in the same files, the
same arrays in the same checkpoints, each step once. The same line goes on where it was stopped.
"""

import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from absl import flags

from experiments.jobs import ROOT, earlier_rows
from fer_jax import cli
from fer_jax.outputs import in_one_step, write_text

KILLS = flags.DEFINE_integer("kills", 50, "How many, all commands together.", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", "runs/faults", "Folder for runs and results.")
SEED = flags.DEFINE_integer("seed", 0, "Of all moments.")
JOBS = flags.DEFINE_integer("jobs", 2, "Commands at a time.", lower_bound=1)

RESULTS, PLACE = "results.jsonl", "PLACE"
TURNS = ("train", "evaluate", "train", "prepare", "train", "convert", "train", "recognise")
TURNS += ("train", "train")  # of ten kills
PHOTOGRAPHS, TRIES, AFTER = 150, 6, 0.03  # at most so many seconds after a write
GROWING = ("checkpoints", "tensorboard", "metrics.jsonl", "rows.jsonl", "drawn", ".lock")
CHILD = """
import os, runpy, sys, threading
count, case, at, after, door = 0, *sys.argv[1:5]
del sys.argv[1:5]
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")

def hook(event, arguments):
    global count
    written = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
    if not (written or event in CHANGES) or case not in str(arguments[0]):
        return
    count += 1
    if count == int(at):
        threading.Timer(float(after), os.kill, (os.getpid(), 9)).start()

if door in ("main", "evaluate"):  # drawing takes most of their time, and is not what is tried
    from matplotlib.figure import Figure
    Figure.savefig = lambda figure, path, **_: path.write_bytes(b"drawn")
sys.addaudithook(hook)
try:
    runpy.run_module("fer_jax." + door, run_name="__main__", alter_sys=True)
finally:
    print("changes", count, file=sys.stderr)
"""
"""`python -c CHILD CASE AT AFTER DOOR ...` dies AFTER seconds past change AT of files in CASE."""


def main(argv: Sequence[str]) -> int:
    """Kill what is left of --kills; print and write the table; 1 where anything differed."""
    del argv
    output = Path(OUTPUT.value).absolute()
    rows = kill_all(output, KILLS.value, SEED.value, JOBS.value)
    text = table(rows)
    print(text, end="")
    for row in rows:
        if row["why"]:
            print(f"kill {row['number']}, {row['command']}: {row['why']}")
    write_text(output / "faults.md", text)
    return int(any(row["why"] for row in rows))


def kill_all(output: Path, kills: int, seed: int = 0, jobs: int = 2) -> list[dict[str, Any]]:
    """The results of kills 0 to `kills` - 1, in `output` those that were there before."""
    from tqdm import tqdm

    rows = earlier_rows(output, RESULTS, "calm", "cases")  # other undisturbed runs are no twins
    done = {(row["number"], row["seed"]) for row in rows}
    left = [number for number in range(kills) if (number, seed) not in done]
    if left:
        ground = Ground(output)
        names = {"train": None} | dict.fromkeys(TURNS[number % len(TURNS)] for number in left)
        with ThreadPoolExecutor(jobs) as pool, (output / RESULTS).open("a") as file:
            calm = {name: ground.undisturbed(name) for name in names}
            found = pool.map(lambda number: kill(ground, calm, number, seed), left)
            for row in tqdm(found, total=kills, initial=kills - len(left), unit=" kills"):
                rows.append(row)
                print(json.dumps(row), file=file, flush=True)
    return [row for row in rows if row["seed"] == seed and row["number"] < kills]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line for each command, and one for all."""
    text = "| command | kills | of them at a write | identical | differing | seconds to go on |\n"
    text += "|---|--:|--:|--:|--:|--:|\n"
    for command in [*dict.fromkeys(TURNS), None]:
        mine = [row for row in rows if command in (None, row["command"])]
        if mine:
            writes = sum(row["how"] == "write" for row in mine)
            differing = sum(bool(row["why"]) for row in mine)
            cells = f"{len(mine)} | {writes} | {len(mine) - differing} | {differing}"
            seconds = statistics.median(row["seconds"] for row in mine)
            text += f"| {command or 'all'} | {cells} | {seconds:.0f} |\n"
    return text


# ---- what is killed ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Calm:
    """An undisturbed command: what it left, in how many changes of files and seconds."""

    left: dict[str, str]
    changes: int
    seconds: float  # from its first file to its end


class Ground:
    """Data, a finished run and photographs; and the commands that work on them."""

    def __init__(self, output: Path) -> None:
        """Made once in `output`."""
        sys.path[:0] = [str(ROOT / "tests")]
        import support

        self.output, self.data = output, output / "fer2013.csv"
        self.support, self.run = support, output / "calm" / "train" / "run"
        if not self.data.exists():
            self._photographs(output / "photographs")  # the data tells that they are there
            in_one_step(self.data, lambda new: support.write_small_csv(new.parent))

    def _photographs(self, folder: Path) -> None:
        import numpy as np
        from PIL import Image

        folder.mkdir(exist_ok=True)
        draw = np.random.default_rng(0)
        for number in range(PHOTOGRAPHS):
            pixels = draw.integers(0, 256, (160, 160, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:03}.png")

    def command(self, name: str, case: Path) -> list[str]:
        """Door and flags of what writes into `case`."""
        source = [f"--input={self.run}", "--source=fer_jax"]
        report, rows = case / "report", case / "rows.jsonl"
        return {
            "train": lambda: ["main", *self.support.small_run(self.data, case / "run")],
            "evaluate": lambda: ["evaluate", f"--checkpoint={self.run}", f"--output={report}"],
            "prepare": lambda: ["prepare", f"--source={self.data}", f"--output={case}/prepared"],
            "convert": lambda: ["convert", *source, f"--output={case}/model.safetensors"],
            "recognise": lambda: [
                *("recognise", str(self.output / "photographs"), f"--model={self.run}"),
                *("--crop=whole", f"--output={rows}", f"--draw={case}/drawn"),
            ],
        }[name]()

    def start(self, name: str, case: Path, at: int = 0, after: float = 0.0) -> subprocess.Popen:
        """The command as a process, killed by itself `after` seconds past its change `at`."""
        door, *arguments = self.command(name, case)
        kept = {"FER_JAX_CACHE": str(self.output / "cache"), "PYTHONPATH": str(ROOT)}
        calm = {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # no restart
        told = [str(case), str(at), str(after), door]
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, *told, *arguments],
            cwd=ROOT,
            env=os.environ | self.support.compile_cache() | kept | calm,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def undisturbed(self, name: str) -> Calm:
        """The command from start to end, its programs compiled before."""
        case = self.output / "calm" / name
        kept = case.with_suffix(".json")
        if kept.exists():
            return Calm(**json.loads(kept.read_text()))
        warm = bool(self.support.compile_cache()) or (self.output / "cache").exists()
        for _ in range(1 if warm else 2):
            shutil.rmtree(case, ignore_errors=True)
            case.mkdir(parents=True)
            process = self.start(name, case)
            begun = _first_file(case, process)
            _, err = process.communicate()
            seconds = time.monotonic() - begun
            if process.returncode:
                raise RuntimeError(f"{name} ended with {process.returncode}: {err}")
        calm = Calm(self.left(name, case), int(err.split()[-1]), seconds)
        write_text(kept, json.dumps(dataclasses.asdict(calm)))
        return calm

    def left(self, name: str, case: Path) -> dict[str, str]:
        """What lies in `case`: each file, checkpoint and logged step with its digest."""
        found = dict(_files(case, ("checkpoints", "tensorboard", "metrics.jsonl")))
        if name == "train":
            found |= self._run(case / "run")
        if name == "prepare":
            found |= self._records(case / "prepared")
        return found

    def _records(self, folder: Path) -> Iterator[tuple[str, str]]:
        """Each role's, whose files have the values of a record in any order."""
        for role, records in self.support.read_data(folder).roles.items():
            told = [records.keys, *(a.tolist() for a in (records.labels, records.rows))]
            digest = hashlib.sha256(records.digests.tobytes() + repr(told).encode())
            yield f"records of {role}", digest.hexdigest()

    def _run(self, run: Path) -> Iterator[tuple[str, str]]:
        """The checkpoints' arrays and the log without its speeds."""
        from fer_jax.training.checkpoints import Checkpoints

        for record in self.support.logged(run):
            record.pop("images_per_second", None)
            name = f"{record['kind']} {record['step']}"
            yield name, json.dumps(record)
        steps = [path.name for path in (run / "checkpoints").iterdir()]
        with Checkpoints(run, "accuracy", read_only=True) as found:
            for step in steps:
                state = found.restore(int(step), self.support.make_trainer(self.data).template())
                digest = hashlib.sha256()
                for name, array in self.support.arrays(state).items():
                    digest.update(name.encode() + array.tobytes())
                yield f"checkpoint {step}", digest.hexdigest()


def _files(case: Path, without: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each file's name and digest, whatever the case is called."""
    from support import stable_bytes

    for path in sorted(case.rglob("*")):
        name = path.relative_to(case)
        if path.is_file() and not set(without) & set(name.parts):
            data = stable_bytes(path).replace(str(case).encode(), PLACE.encode())
            digest = hashlib.sha256(data).hexdigest()
            yield str(name), "records" if ".array_record" in path.name else digest


def _first_file(case: Path, process: subprocess.Popen) -> float:
    """When it came to lie in `case`."""
    while process.poll() is None and not any(case.iterdir()):
        time.sleep(0.001)
    return time.monotonic()


# ---- killing -------------------------------------------------------------------------------------


def kill(ground: Ground, calm: dict[str, Calm], number: int, seed: int) -> dict[str, Any]:
    """One command killed and started again: how it was killed, and what then differed."""
    name, draw = TURNS[number % len(TURNS)], random.Random(f"{seed} {number}")
    case, expected = ground.output / "cases" / f"{number}", calm[name]
    how = "write" if expected.changes > 3 and draw.random() < 0.5 else "clock"
    for attempt in range(TRIES):  # it may have ended before
        shutil.rmtree(case, ignore_errors=True)
        case.mkdir(parents=True)
        moment = draw.random() / (1 + attempt)
        if how == "write":
            at = 1 + int(moment * expected.changes)
            process = ground.start(name, case, at, draw.random() * AFTER)
        else:
            at = round(moment * expected.seconds, 3)
            process = ground.start(name, case)
            _first_file(case, process)
            time.sleep(at)
            process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            break
    row = {"number": number, "seed": seed, "command": name, "how": how, "at": at}
    killed = process.returncode == -signal.SIGKILL
    why = differences(dict(_files(case, GROWING)), expected.left, missing=False)
    start = time.monotonic()
    again = ground.start(name, case)
    _, err = again.communicate()
    seconds = round(time.monotonic() - start, 1)
    lines = err.splitlines()[:-1]
    try:
        after = differences(ground.left(name, case), expected.left)
    except Exception as error:  # a checkpoint that cannot be read
        after = repr(error)
    ends = {"not killed": not killed, f"at the kill: {why}": why, f"after it: {after}": after}
    refused = again.returncode == 2 and "is not empty" in err  # prepare, once it had finished
    if not refused:
        ends |= {f"ended with {again.returncode}": again.returncode, f"said {lines[-3:]}": lines}
    said = "; ".join(text for text, true in ends.items() if true)
    if not said:
        shutil.rmtree(case)
    return {**row, "why": said, "seconds": seconds}


def differences(found: dict[str, str], expected: dict[str, str], missing: bool = True) -> str:
    """What is there too much, or is another; with `missing` also what is not there."""
    names = found.keys() | expected.keys() if missing else found.keys() & expected.keys()
    return ", ".join(sorted(name for name in names if found.get(name) != expected.get(name)))


if __name__ == "__main__":
    cli.run(main)
