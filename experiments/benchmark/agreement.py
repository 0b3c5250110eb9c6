"""Contestants are equal before they are fast: what two answers must have in common."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

# Largest difference, of the largest magnitude of the peer's answer.
LIMITS = {
    "logits": 1e-3,  # less their mean per image, in inference
    "loss": 1e-3,  # in inference
    "one_logits": 1e-2,  # of the one image, by the call that is timed: a GPU's TF32
    "train_loss": 1e-3,  # of the first step, without dropout
    "later_loss": 1e-2,  # of the second step: rounding has passed through Adam's division
    "statistics": 1e-2,  # batch mean in the last BatchNorm, of the step that is timed: a GPU's TF32
    "plain": 0.02,  # images that are resized and not moved
    "mean": 0.05,  # grey levels of augmented images, drawn by each library for itself
    "deviation": 0.15,  # what is moved in is mirrored by some, grey by others
}
LOW_PRECISION = "low_precision_"  # before a name: the same in bfloat16
LOW_PRECISION_LIMIT = 0.1
CONTRAST = 0.05  # by which two images' logits differ, of their largest: else agreement says nothing


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Differences by name, and why they do not do; empty where they do."""

    differences: dict[str, float]
    objection: str


def agree(ours: Mapping[str, Any], peer: Mapping[str, Any]) -> Agreement:
    """Compare all that both have answered; they must have answered the same things."""
    if ours.keys() != peer.keys() or not ours:
        return Agreement({}, f"they answer {sorted(ours)} and {sorted(peer)}")
    differences = {name: _difference(ours[name], peer[name]) for name in ours}
    beyond = [
        f"{name} differ by {difference:.1e}, allowed are {_limit(name):.0e}"
        for name, difference in differences.items()
        if not difference <= _limit(name)
    ]
    if "logits" in ours and not beyond and _contrast(np.asarray(peer["logits"])) < CONTRAST:
        beyond = ["the logits of different images are the same"]
    return Agreement(differences, "; ".join(beyond))


def one_logits(probabilities: np.ndarray, dtype: str) -> dict[str, Any]:
    """The answer of a timed call, [1, K] probabilities, as logits less their mean."""
    logits = np.log(probabilities.astype(np.float64))
    prefix = "" if dtype == "float32" else LOW_PRECISION
    return {f"{prefix}one_logits": (logits - logits.mean()).tolist()}


def _limit(name: str) -> float:
    return LOW_PRECISION_LIMIT if name.startswith(LOW_PRECISION) else LIMITS[name]


def _difference(ours: Any, peer: Any) -> float:
    """NaN where either has one, infinite where shapes differ."""
    a, b = np.asarray(ours, np.float64), np.asarray(peer, np.float64)
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a - b).max() / np.abs(b).max())


def _contrast(logits: np.ndarray) -> float:
    return float(np.abs(logits[1:] - logits[:1]).max() / np.abs(logits).max()) if len(logits) else 0
