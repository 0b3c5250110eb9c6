"""Images a second, detection included, beside the package `fer`, in turns on the same pictures.

`python -m experiments.versus_fer --data=PATH --peer=PYTHON`, PYTHON having `fer` installed, which
finds faces by OpenCV's Haar cascade, as it comes. Each contestant is one process; pictures of
640 x 480 show one to four of PublicTest's faces, 144 pixels each. A picture is a call, as there.
"""

import contextlib
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import cv2
import numpy as np
from absl import flags

import fer_jax
from experiments.benchmark.timer import USERS, last_line
from fer_jax import cli
from fer_jax.data.augment import resize
from fer_jax.data.sources import open_dataset
from fer_jax.errors import UserError
from fer_jax.outputs import write_text

DATA = flags.DEFINE_string("data", None, "FER2013 in any layout.", required=True)
PEER = flags.DEFINE_string("peer", None, "Python of an environment with fer.", required=True)
OUTPUT = flags.DEFINE_string("output", "runs/versus_fer", "Folder of the table.")
PICTURES, TURNS, FACE = 24, 5, 144

# Each line of input is a turn; the answer is [seconds, faces found].
LOOP = """
import glob, itertools, json, sys, time
files = sorted(glob.glob(sys.argv[1] + "/*.png"))
{load}
pictures = [{read} for file in files]
for turn in itertools.chain([None], sys.stdin):
    start = time.perf_counter()
    faces = sum(len({ask}) for picture in pictures)
    print(json.dumps([time.perf_counter() - start, faces]), flush=True)
"""
OURS = {
    "load": "import fer_jax, cv2; model = fer_jax.load()",
    "read": "cv2.imread(file)[..., ::-1]",
    "ask": "model.predict(picture, batch_size=4)[0]",
}
FER = {
    "load": "import cv2; from fer.fer import FER; model = FER()",
    "read": "cv2.imread(file)",
    "ask": "model.detect_emotions(picture)",
}


def main(argv: Sequence[str]) -> None:
    """Draw the pictures, take turns, write versus_fer.md."""
    del argv
    scripts = {
        "fer_jax": (sys.executable, LOOP.format(**OURS)),
        "fer": (PEER.value, LOOP.format(**FER)),
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        there = draw(pathlib.Path(folder))
        children = {
            name: stack.enter_context(child(name, *s, folder)) for name, s in scripts.items()
        }
        for name, process in children.items():
            print(name, "ready:", answer(process), flush=True)
        turns = [{name: turn(p) for name, p in children.items()} for _ in range(TURNS)]
        for process in children.values():
            process.stdin.close()

    lines = ["| | images a second | faces found | fer_jax is faster by |", "|---|--:|--:|--:|"]
    for name in scripts:
        speed = statistics.median(PICTURES / t[name][0] for t in turns)
        ratios = [t[name][0] / t["fer_jax"][0] for t in turns]
        beside = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(f"| {name} | {speed:.1f} | {turns[0][name][1]} of {there} | {beside} |")
    write_text(pathlib.Path(OUTPUT.value, "versus_fer.md"), "\n".join(lines) + "\n")
    print("\n".join(lines))


def draw(folder: pathlib.Path) -> int:
    """Write the pictures; the number of faces in them."""
    records = open_dataset(DATA.value, fer_jax.load().model.data).split("validation")
    random, there = np.random.default_rng(0), 0
    for number in range(PICTURES):
        picture = np.full((480, 640), 110, np.uint8)
        for place in range(1 + number % 4):
            top, left = 48 + 216 * (place // 2), 88 + 280 * (place % 2)
            face = records[int(random.integers(len(records)))]["image"]
            picture[top : top + FACE, left : left + FACE] = resize(face, FACE)[..., 0]
            there += 1
        cv2.imwrite(str(folder / f"{number:02}.png"), picture)
    return there


def child(name: str, python: str, script: str, folder: str) -> subprocess.Popen:
    """A contestant, which first answers all pictures once, unasked; the allocator is its own."""
    with pathlib.Path(folder, f"{name}.log").open("w") as log:
        return subprocess.Popen(
            [python, "-c", script, folder, log.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=USERS,
        )


def turn(process: subprocess.Popen) -> list:
    """[seconds, faces] of all pictures."""
    process.stdin.write("\n")
    process.stdin.flush()
    return answer(process)


def answer(process: subprocess.Popen) -> list:
    """Its next line of JSON; libraries may print others."""
    for line in process.stdout:
        if line.startswith("["):
            return json.loads(line)
    python, *_, log = process.args
    raise UserError(f"{python} ended: {last_line(pathlib.Path(log))}")


if __name__ == "__main__":
    cli.run(main)
