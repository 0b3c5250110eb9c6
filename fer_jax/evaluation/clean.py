"""The clean subset: figures on the images that have no copy in training, beside those on all."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_jax.data.records import has_hash_in
from fer_jax.evaluation.metrics import bootstrap_interval
from fer_jax.evaluation.predictions import Predictions


@dataclass(frozen=True)
class Copied:
    """Which images of a split have a copy in training, and how that is known."""

    mask: np.ndarray
    """Bool [N], in the order of the split."""
    against: str
    """What counts as a copy, of which training images."""


def exact_copies(digests: np.ndarray, train_hashes: np.ndarray) -> Copied:
    """Of digests uint8 [N, 32], what a model tells by the `short_hashes` of its training images."""
    return Copied(has_hash_in(digests, train_hashes), "exact copies of the model's training images")


def figures(predictions: Predictions, copied: Copied, samples: int, seed: int) -> dict[str, Any]:
    """The `clean` of report.json; accuracies are None where there is no image to measure them on.

    ValueError where `copied` is not of these predictions.
    """
    right = predictions.predicted == predictions.labels
    if copied.mask.shape != right.shape:
        raise ValueError(f"{len(right)} predictions, but copies are known of {copied.mask.shape}")
    n, copies = int(np.sum(~copied.mask)), int(np.sum(copied.mask))
    correct = int(np.sum(right & ~copied.mask))
    return {
        "n": n,
        "accuracy": correct / n if n else None,
        "accuracy_interval": bootstrap_interval(correct, n, samples, seed) if n else None,
        "copies": copies,
        "copies_accuracy": int(np.sum(right & copied.mask)) / copies if copies else None,
        "against": copied.against,
    }
