"""What exports answer, weigh and cost: `python -m experiments.exports --data=FER2013`.

Each export of --model is asked real and random images, and compared with the unfolded model in JAX.
StableHLO runs in a process that cannot import Flax. Writes exports.md into --output.
"""

import functools
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import cv2
import jax
import numpy as np
import onnxruntime
from absl import flags
from scipy.special import softmax

from fer_jax import cli, trained
from fer_jax.config import packaged
from fer_jax.conversion.exporting import TARGETS
from fer_jax.conversion.onnx import PRECISIONS, SESSION_OPTION
from fer_jax.data.augment import resize
from fer_jax.data.sources import open_dataset
from fer_jax.errors import UserError
from fer_jax.model_file import About, calibrated
from fer_jax.outputs import write_text

DATA = flags.DEFINE_string("data", None, "FER2013 in any layout.", required=True)
MODEL = flags.DEFINE_string("model", "", "A model file; the shipped weights if empty.")
OUTPUT = flags.DEFINE_string("output", "runs/exports", "Folder of the table.")
COUNT = flags.DEFINE_integer("count", 500, "Real images, spread over PublicTest; as many random.")
BATCH = 20  # images; it divides --count
STABLEHLO = """
import sys, time
sys.modules["flax"] = None
import numpy as np
import jax.export
with open(sys.argv[1], "rb") as file:
    call = jax.jit(jax.export.deserialize(bytearray(file.read())).call)
images, found = np.load(sys.argv[2]), []
call(images[:BATCH])
began = time.process_time()
for start in range(0, len(images), BATCH):
    found.append(np.stack(list(call(images[start:start + BATCH])["logits"].values()), 1))
np.savez(sys.argv[3], logits=np.concatenate(found), seconds=time.process_time() - began)
""".replace("BATCH", str(BATCH))
HEAD = """| export | MB | logits off, of the largest: real, random | same answer \
| largest change of a probability | accuracy ({accuracy:.1%} in JAX) \
| CPU ms an image, batch 1, {batch} |
|---|--:|--:|--:|--:|--:|--:|"""

Answer = Callable[[np.ndarray], np.ndarray]  # uint8 [B, S, S, 3] -> logits [B, K]


def main(argv: Sequence[str]) -> None:
    """Export, ask, compare, write the table."""
    del argv
    if COUNT.value < 1 or COUNT.value % BATCH:
        raise UserError(f"--count={COUNT.value}: give a multiple of {BATCH}")
    path = pathlib.Path(MODEL.value or packaged("weights", "fer2013_b2.safetensors"))
    model = trained.load(path)
    images, labels = questions(model)
    whole = jax.jit(functools.partial(model.evaluator.model.apply, model.variables, train=False))
    expected = asked(whole, images)[0]
    right = np.mean(expected[: len(labels)].argmax(1) == labels)
    lines = [HEAD.format(accuracy=right, batch=BATCH)]
    with tempfile.TemporaryDirectory() as name:
        for kind, size, found, speed in answers(pathlib.Path(name), model, images):
            lines.append(row(kind, size, found, expected, labels, model.about, speed))
            print(lines[-1], flush=True)
    write_text(pathlib.Path(OUTPUT.value, "exports.md"), "\n".join(lines) + "\n")
    print(f"wrote {OUTPUT.value}/exports.md")


def questions(model: trained.Trained) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [2 N, S, S, 3], first the real ones, and labels [N] of these."""
    records = open_dataset(DATA.value, model.data).split("validation")
    chosen = np.linspace(0, len(records) - 1, COUNT.value).astype(int)
    size = model.about.image_size
    real = [np.broadcast_to(resize(records[i]["image"], size), (size, size, 3)) for i in chosen]
    random = np.random.default_rng(0).integers(0, 256, (COUNT.value, size, size, 3), np.uint8)
    return np.concatenate([np.stack(real), random]), records.labels[chosen]


def answers(
    folder: pathlib.Path, model: trained.Trained, images: np.ndarray
) -> Iterator[tuple[str, int, np.ndarray, str]]:
    """Of each export its name, bytes, logits [2 N, K], and milliseconds as text."""
    file = model.file()
    for precision in PRECISIONS:
        path = folder / f"{precision}.onnx"
        TARGETS["onnx"].write(path, file, precision=precision)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        if precision == "int8":
            options.add_session_config_entry(SESSION_OPTION, "1")
        session = onnxruntime.InferenceSession(path, options)
        ask: Answer = lambda x, session=session: session.run(["logits"], {"images": x})[0]  # noqa: E731
        single = asked(ask, images[:60], 1)[1]
        found, many = asked(ask, images)
        yield f"ONNX {precision}", path.stat().st_size, found, f"{single:.1f}, {many:.1f}"

    cv2.setNumThreads(1)
    net = cv2.dnn.readNetFromONNX(str(folder / "float32.onnx"))

    def opencv(x: np.ndarray) -> np.ndarray:
        net.setInput(x)
        return net.forward("logits")

    found, single = asked(opencv, images, 1)
    size = (folder / "float32.onnx").stat().st_size
    yield "ONNX float32 in OpenCV's DNN", size, found, f"{single:.1f}, not run"

    program = folder / "m.stablehlo"
    TARGETS["stablehlo"].write(program, file)
    np.save(folder / "images.npy", images)
    names = [program, folder / "images.npy", folder / "out.npz"]
    subprocess.run([sys.executable, "-c", STABLEHLO, *names], check=True)
    with np.load(folder / "out.npz") as saved:
        speed = f"not run, {1e3 * saved['seconds'] / len(images):.1f}"
        yield "StableHLO, without Flax", program.stat().st_size, saved["logits"], speed


def asked(answer: Answer, images: np.ndarray, batch: int = BATCH) -> tuple[np.ndarray, float]:
    """Logits [N, K], and the process's milliseconds an image after a first untimed batch."""
    answer(images[:batch])
    began = time.process_time()
    parts = [np.asarray(answer(images[i : i + batch])) for i in range(0, len(images), batch)]
    return np.concatenate(parts), 1e3 * (time.process_time() - began) / len(images)


def row(
    kind: str,
    size: int,
    found: np.ndarray,
    expected: np.ndarray,
    labels: np.ndarray,
    about: About,
    speed: str,
) -> str:
    """A line of the table; answers are of the real images, changes of all."""
    count = len(labels)
    off = [
        np.abs(found - expected)[part].max() / np.abs(expected[part]).max()
        for part in (slice(count), slice(count, None))
    ]
    same = np.mean(found.argmax(1)[:count] == expected.argmax(1)[:count])
    changes = np.abs(
        softmax(calibrated(found, about), 1) - softmax(calibrated(expected, about), 1)
    ).max()
    right = np.mean(found[:count].argmax(1) == labels)
    return (
        f"| {kind} | {size / 1e6:.1f} | {off[0]:.1e}, {off[1]:.1e} | {same:.1%} | {changes:.5f} | "
        f"{right:.1%} | {speed} |"
    )


if __name__ == "__main__":
    cli.run(main)
