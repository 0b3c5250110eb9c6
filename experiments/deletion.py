"""Do explanations name the pixels that an answer hangs on: `experiments.deletion --data=PATH`.

The 20 % of pixels with most heat are blurred away; the table has the mean fall of the answered
class's probability over 200 images of PublicTest, beside that for pixels chosen otherwise.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import jax
import numpy as np
from absl import flags

import fer_jax
from experiments.deleting import delete, saliency
from fer_jax import cli
from fer_jax.data.augment import resize
from fer_jax.data.sources import open_dataset
from fer_jax.outputs import write_text
from fer_jax.recognition import explain
from fer_jax.recognition.recognizer import Options

DATA = flags.DEFINE_string("data", None, "FER2013 in any layout.", required=True)
OUTPUT = flags.DEFINE_string("output", "runs/deletion", "Folder of the table.")
IMAGES, SHARE, BATCH, SEED = 200, 0.2, 20, 0


def main(argv: Sequence[str]) -> None:
    """Explain, delete, answer again; write deletion.md."""
    del argv
    model = fer_jax.load()
    images, draw = read(model), np.random.default_rng(SEED)
    before = answers(model, images)
    classes = before.argmax(axis=1)
    last = functools.partial(explain.grad_cam, layer="block7b")
    heats = {
        "`grad_cam` of the third stage, 12 x 12 cells": mapped(
            model, explain.grad_cam, images, classes
        ),
        "`grad_cam` of the last block, 3 x 3 cells": mapped(model, last, images, classes),
        "`saliency`": mapped(model, saliency, images, classes),
        "random pixels": draw.random(images.shape[:3]),
        "random regions of 12 x 12 cells": regions(draw, 12, images),
        "random regions of 3 x 3 cells": regions(draw, 3, images),
        "a disc in the middle": np.broadcast_to(disc(images.shape[1]), images.shape[:3]),
    }
    lines = ["| deleted | fall of the probability | standard error |", "|---|--:|--:|"]
    for name, heat in heats.items():
        less = np.stack([delete(i, h, SHARE) for i, h in zip(images, heat, strict=True)])
        falls = (before - answers(model, less))[np.arange(len(images)), classes]
        error = falls.std() / np.sqrt(len(falls))
        lines.append(f"| {name} | {falls.mean():.3f} | {error:.3f} |")
    write_text(pathlib.Path(OUTPUT.value, "deletion.md"), "\n".join(lines) + "\n")
    print("\n".join(lines))


def read(model: Any) -> np.ndarray:
    """uint8 [IMAGES, S, S, 3], drawn from PublicTest."""
    records = open_dataset(DATA.value, model.model.data).split("validation")
    chosen = np.random.default_rng(SEED).choice(len(records), IMAGES, replace=False)
    faces = np.stack([resize(records[int(i)]["image"], model.size) for i in chosen])
    return np.broadcast_to(faces, (*faces.shape[:3], 3))


def answers(model: Any, images: np.ndarray) -> np.ndarray:
    """Probabilities [N, K]."""
    return np.asarray(jax.nn.softmax(model.logits(list(images), Options())))


def mapped(
    model: Any, kind: Callable[..., Any], images: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """The heat [N, S, S] of each image."""
    heat = jax.jit(functools.partial(kind, model.model.evaluator.model))
    starts = range(0, len(images), BATCH)
    parts = [(images[i : i + BATCH], classes[i : i + BATCH]) for i in starts]
    return np.concatenate([np.asarray(heat(model.model.variables, *part)) for part in parts])


def regions(draw: np.random.Generator, cells: int, images: np.ndarray) -> np.ndarray:
    """Smooth random heat."""
    sides = images.shape[1:3]
    return np.stack([cv2.resize(draw.random((cells, cells)), sides) for _ in images])


def disc(size: int) -> np.ndarray:
    """Heat that falls off from the middle."""
    y, x = np.indices((size, size)) - (size - 1) / 2
    return -np.hypot(x, y)


if __name__ == "__main__":
    cli.run(main)
