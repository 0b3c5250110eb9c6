"""What all contestants share: settings, inputs, what one call is, and when two answers agree."""

import dataclasses
import importlib.metadata
import itertools
import json
import pathlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from experiments.parity.random_weights import images

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "b2_scratch.py"
CLASSES = 7
BATCHES, SHIFT = 4, 7  # different ones, so that none is learnt by heart; pixels between two
FACES, SIDE = 28_709, 48  # as many as FER2013 has to train, and as large
SAMPLED = 16  # batches whose grey levels are summed up
MODEL, TIMM, KERAS, ONNX = "model.safetensors", "timm.safetensors", "keras.weights.h5", "model.onnx"
VALUES = "values.json"
LIMITS = {  # largest difference, of the largest magnitude of the peer's answer
    "logits": 1e-3,  # less their mean per image, in inference
    "train_loss": 1e-3,  # of the first step
    "later_loss": 1e-2,  # of the second: rounding has passed through Adam's division
    "bytes": 0.0,  # of augmented images
    "mean": 0.05,  # their grey levels, drawn by each library for itself
    "deviation": 0.15,  # what is moved in is mirrored by some, grey by others
}
TF32 = 0.02  # the least of all limits on a GPU
CONTRAST = 0.05  # by which two images' logits differ, of their largest: else agreement says nothing
Batch = dict[str, np.ndarray]
Answer = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every contestant is told."""

    variant: str
    size: int  # pixels
    batch: int
    threads: int
    folder: str  # where weights and values lie that all contestants read

    def file(self, name: str) -> pathlib.Path:
        """A file that contestants share."""
        return pathlib.Path(self.folder) / name

    def values(self) -> types.SimpleNamespace:
        """The config's numbers that peers need, as `ours` wrote them."""
        return types.SimpleNamespace(**json.loads(self.file(VALUES).read_text()))


@dataclasses.dataclass(frozen=True)
class Contestant:
    """What a peer's `make(task, settings, options)` returns."""

    about: dict[str, Any]
    examples: int  # images in one call
    answer: Callable[[], Answer]  # what must be equal before anything is timed
    batches: Iterator[Any]  # endless
    call: Callable[[Any], Any]  # starts a step on one of them, or an inference
    wait: Callable[[Any], object] = lambda result: None  # until the last call's result is there
    # Calls before each turn that do not count: they take what was made ahead of it, and get back
    # the memory that a virtual machine returned to its host while another had its turn.
    untimed: int = 1


def about(platform: str, device: str, threads: int, *libraries: str) -> dict[str, Any]:
    """Where a contestant computes, `platform` being cpu or gpu."""
    versions = {name: importlib.metadata.version(name) for name in libraries}
    return {"platform": platform, "device": device, "versions": versions, "threads": threads}


def training(
    place: Callable[[Batch], Any], step: Callable[[Any], Any], settings: Settings, **more: Any
) -> Contestant:
    """Steps, whose results are losses, on batches that lie where `place` puts them."""
    batches = [place(batch) for batch in step_batches(settings)]

    def answer() -> Answer:
        """By the step that is timed."""
        first, second = (float(step(batch)) for batch in batches[:2])
        return {"train_loss": first, "later_loss": second}

    more |= {"batches": itertools.cycle(batches), "call": step}
    return Contestant(examples=settings.batch, answer=answer, **more)


def inference(
    place: Callable[[Batch], Any],
    infer: Callable[[Any], Any],
    settings: Settings,
    one: bool,
    to_host: Callable[[Any], Any] = np.asarray,
    **more: Any,
) -> Contestant:
    """Probabilities of batches that lie where `place` puts them; or of `one` image at a time.

    That comes from the host's memory, and its probabilities go back there.
    """
    given = step_batches(settings)
    if one:
        given = [{k: v[i : i + 1] for k, v in given[0].items()} for i in range(BATCHES)]

    def from_host(batch: Batch) -> np.ndarray:
        return to_host(infer(place(batch)))

    def answer() -> Answer:
        """Of the first batch, whose statistics the weights have, as logits less their mean."""
        found = [from_host(batch) for batch in (given if one else given[:1])]
        logits = np.log(np.concatenate(found), dtype=np.float64)
        return {"logits": logits - logits.mean(-1, keepdims=True)}

    batches = itertools.cycle(given if one else [place(batch) for batch in given])
    more |= {"batches": batches, "call": from_host if one else infer}
    return Contestant(examples=1 if one else settings.batch, answer=answer, **more)


def pipeline(batches: Iterator[Any], settings: Settings, **more: Any) -> Contestant:
    """Augmented uint8 batches of one channel, which are dropped."""

    def answer() -> Answer:
        seen = np.stack([np.asarray(batch) for batch in itertools.islice(batches, SAMPLED)])
        return {"bytes": seen.nbytes, "mean": seen.mean(), "deviation": seen.std()}

    more |= {"batches": batches, "call": lambda batch: None}
    return Contestant(examples=settings.batch, answer=answer, **more)


def step_batches(settings: Settings) -> list[Batch]:
    """image uint8 [B, S, S, 3], label int32 [B]: the same for every contestant."""
    drawn, rng = images(settings.size, settings.batch), np.random.default_rng(1)
    return [
        {
            "image": np.roll(drawn, number * SHIFT, axis=2),
            "label": rng.integers(0, CLASSES, settings.batch, dtype=np.int32),
        }
        for number in range(BATCHES)
    ]


def faces(count: int = FACES) -> Batch:
    """image uint8 [N, 48, 48], label int32 [N]: smooth blots; every class is there."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    image = np.stack([cv2.resize(blots, (SIDE, SIDE)) for blots in coarse])
    return {"image": image, "label": np.arange(count, dtype=np.int32) % CLASSES}


def agree(ours: Answer, peer: Answer, least: float = 0.0) -> tuple[dict[str, float], str]:
    """Differences by name, and why they do not do, or nothing; no limit is below `least`."""
    if ours.keys() != peer.keys() or not ours:
        return {}, f"they answer {sorted(ours)} and {sorted(peer)}"
    differences = {name: _difference(ours[name], peer[name]) for name in ours}
    limits = {name: max(LIMITS[name], least) for name in ours}
    beyond = [
        f"{name} differ by {difference:.1e}, allowed are {limits[name]:.0e}"
        for name, difference in differences.items()
        if not difference <= limits[name]
    ]

    # Networks whose signals have died agree about everything.
    logits = np.asarray(peer.get("logits", [[1.0], [0.0]]))
    if not beyond and np.abs(logits[1:] - logits[:1]).max() < CONTRAST * np.abs(logits).max():
        beyond = ["the logits of different images are the same"]
    return differences, "; ".join(beyond)


def _difference(ours: Any, peer: Any) -> float:
    """NaN where either has one, infinite where shapes differ."""
    a, b = np.asarray(ours, np.float64), np.asarray(peer, np.float64)
    return float(np.abs(a - b).max() / np.abs(b).max()) if a.shape == b.shape else float("inf")
