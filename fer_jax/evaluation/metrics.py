"""Figures of merit of a set of predictions, on all of its images and on those without a copy."""

import math
from typing import Any, NamedTuple

import numpy as np

from fer_jax.errors import UserError
from fer_jax.evaluation.calibration import calibration_error, reliability
from fer_jax.evaluation.predictions import Predictions
from fer_jax.labels import LABELS

BOOTSTRAP_SAMPLES = 10_000
SEED = 0  # of all that reports draw
COLLAPSE_SHARE = 0.9


def summary(predictions: Predictions, bootstrap_samples: int = BOOTSTRAP_SAMPLES) -> dict[str, Any]:
    """Every figure of the report as plain Python numbers, ready for strict JSON.

    Accuracy is a count divided by a count, the loss an exact sum: neither depends on the order of
    images. Macro-F1 and balanced accuracy are means over the classes that occur in the split; the
    others are named in `absent_classes` and have None for what is undefined. `confusion_matrix` has
    rows of true and columns of predicted classes. UserError if there is nothing to measure.
    """
    _check(predictions)
    matrix = np.zeros((len(LABELS), len(LABELS)), int)
    np.add.at(matrix, (predictions.labels, predictions.predicted), 1)
    per_class = _per_class(matrix)
    present = [row for row in per_class.values() if row["support"]]
    return {
        **figures(predictions, bootstrap_samples),
        "loss": math.fsum(predictions.losses.tolist()) / len(predictions),
        "macro_f1": math.fsum(row["f1"] for row in present) / len(present),
        "balanced_accuracy": math.fsum(row["recall"] for row in present) / len(present),
        "per_class": per_class,
        "confusion_matrix": matrix.tolist(),
        "absent_classes": [name for name, row in per_class.items() if not row["support"]],
        "warnings": collapse_warnings(predictions.predicted),
        "bootstrap": {"samples": bootstrap_samples, "seed": SEED},
    }


def figures(predictions: Predictions, samples: int, inside: Any = slice(None)) -> dict[str, Any]:
    """What is told of all images or of those `inside`, bool [N], at least one."""
    probabilities, labels = predictions.probabilities[inside], predictions.labels[inside]
    n, correct = len(labels), int(np.sum(predictions.predicted[inside] == labels))
    return {
        "n": n,
        "accuracy": correct / n,
        "accuracy_95_interval": bootstrap_interval(correct, n, samples),
        "expected_calibration_error": calibration_error(reliability(probabilities, labels)),
        "confidence": float(np.mean(predictions.confidence[inside])),
    }


def _per_class(matrix: np.ndarray) -> dict[str, dict[str, Any]]:
    """Of counts [7, 7]; precision, recall and F1 are None for a class without an image."""
    found: dict[str, dict[str, Any]] = {}
    counts = (part.tolist() for part in (matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)))
    for name, right, support, answers in zip(LABELS, *counts, strict=True):
        shares = {
            "precision": right / max(answers, 1),
            "recall": right / max(support, 1),
            "f1": 2 * right / max(answers + support, 1),
        }
        found[name] = (shares if support else dict.fromkeys(shares)) | {"support": support}
    return found


def bootstrap_interval(correct: int, n: int, samples: int, seed: int = SEED) -> list[float]:
    """The 2.5 % and 97.5 % quantiles of accuracy over bootstrap samples of the n images.

    Drawing n images with replacement makes the number of correct ones binomial (n, correct / n),
    so that number is drawn at once (Efron & Tibshirani 1993, chapter 13: percentile interval).
    """
    return interval_95(np.random.default_rng(seed).binomial(n, correct / n, size=samples) / n)


def interval_95(draws: np.ndarray) -> list[float]:
    """The 2.5 % and 97.5 % quantiles of [samples]."""
    return [float(edge) for edge in np.quantile(draws, (0.025, 0.975))]


def collapse_warnings(predicted: np.ndarray) -> list[str]:
    """A sentence if one class takes over 90 % of predicted int [N], the mark of a collapse."""
    counts = np.bincount(predicted)
    name, share = LABELS[int(counts.argmax())], counts.max() / len(predicted)
    if share <= COLLAPSE_SHARE:
        return []
    return [f"{share:.1%} of all predictions are {name!r}: the model has collapsed to one answer"]


def _check(predictions: Predictions) -> None:
    finite = np.isfinite(predictions.probabilities).all(axis=1) & np.isfinite(predictions.losses)
    if not finite.all():
        raise UserError(
            f"{np.sum(~finite)} of {len(predictions)} predictions are not finite, first "
            f"{predictions.keys[np.argmin(finite)]!r}: the model has diverged; use an earlier "
            "checkpoint"
        )


class Copied(NamedTuple):
    """Which images of a split have a copy in training, and how that is known."""

    mask: np.ndarray  # bool [N], in the order of the split
    against: str  # what counts as a copy, of which training images: "exact copies of ..."


def without_copies(predictions: Predictions, copied: Copied, samples: int) -> dict[str, Any]:
    """The `clean` of report.json; accuracies are None where no image is left to measure them on."""
    right = predictions.predicted == predictions.labels
    clean, copies = right[~copied.mask], right[copied.mask]
    n, correct = len(clean), int(np.sum(clean))
    return {
        "n": n,
        "accuracy": correct / n if n else None,
        "accuracy_interval": bootstrap_interval(correct, n, samples) if n else None,
        "copies": len(copies),
        "copies_accuracy": int(np.sum(copies)) / len(copies) if len(copies) else None,
        "against": copied.against,
    }
