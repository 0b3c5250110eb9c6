"""Figures of merit of a set of predictions, on all of its images and on those without a copy."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fer_jax.errors import UserError
from fer_jax.evaluation.calibration import calibration_error, reliability
from fer_jax.evaluation.predictions import Predictions
from fer_jax.labels import LABELS

BOOTSTRAP_SAMPLES = 10_000
COLLAPSE_SHARE = 0.9


def summary(
    predictions: Predictions,
    *,
    label_names: Sequence[str] = LABELS,
    bootstrap_samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Every figure of the report as plain Python numbers, ready for strict JSON.

    Accuracy is a count divided by a count, the loss an exact sum: neither depends on the order of
    images. Macro-F1 and balanced accuracy are means over the classes that occur in the split; the
    others are named in `absent_classes` and have None for what is undefined. `confusion_matrix` has
    rows of true and columns of predicted classes. UserError if there is nothing to measure.
    """
    from sklearn import metrics  # a second to import

    _check(predictions, label_names)
    predicted, classes = predictions.predicted, range(len(label_names))
    table = metrics.precision_recall_fscore_support(
        predictions.labels, predicted, labels=classes, average=None, zero_division=0.0
    )
    per_class = {name: _class(*row) for name, *row in zip(label_names, *table, strict=True)}
    present = [row for row in per_class.values() if row["support"]]
    warning = collapse_warning(predicted, label_names)
    return {
        **figures(predictions, bootstrap_samples, seed),
        "loss": math.fsum(predictions.losses.tolist()) / len(predictions),
        "macro_f1": math.fsum(row["f1"] for row in present) / len(present),
        "balanced_accuracy": math.fsum(row["recall"] for row in present) / len(present),
        "per_class": per_class,
        "confusion_matrix": metrics.confusion_matrix(
            predictions.labels, predicted, labels=classes
        ).tolist(),
        "absent_classes": [name for name, row in per_class.items() if not row["support"]],
        "warnings": [warning] if warning else [],
        "bootstrap": {"samples": bootstrap_samples, "seed": seed},
    }


def figures(
    predictions: Predictions, samples: int, seed: int, inside: Any = slice(None)
) -> dict[str, Any]:
    """What is told of all images or of those `inside`, bool [N], at least one."""
    probabilities, labels = predictions.probabilities[inside], predictions.labels[inside]
    n, correct = len(labels), int(np.sum(predictions.predicted[inside] == labels))
    return {
        "n": n,
        "accuracy": correct / n,
        "accuracy_95_interval": bootstrap_interval(correct, n, samples, seed),
        "expected_calibration_error": calibration_error(reliability(probabilities, labels)),
        "confidence": float(np.mean(predictions.confidence[inside])),
    }


def _class(precision: float, recall: float, f1: float, support: int) -> dict[str, Any]:
    figures = {"precision": float(precision), "recall": float(recall), "f1": float(f1)}
    return {**(figures if support else dict.fromkeys(figures)), "support": int(support)}


def bootstrap_interval(correct: int, n: int, samples: int, seed: int) -> list[float]:
    """The 2.5 % and 97.5 % quantiles of accuracy over bootstrap samples of the n images.

    Drawing n images with replacement makes the number of correct ones binomial (n, correct / n),
    so that number is drawn at once (Efron & Tibshirani 1993, chapter 13: percentile interval).
    """
    return interval_95(np.random.default_rng(seed).binomial(n, correct / n, size=samples) / n)


def interval_95(draws: np.ndarray) -> list[float]:
    """The 2.5 % and 97.5 % quantiles of [samples]."""
    return [float(edge) for edge in np.quantile(draws, (0.025, 0.975))]


def collapse_warning(predicted: np.ndarray, label_names: Sequence[str] = LABELS) -> str | None:
    """A sentence if one class takes over 90 % of predicted int [N], the mark of a collapse."""
    counts = np.bincount(predicted, minlength=len(label_names))
    share = float(counts.max() / max(counts.sum(), 1))
    if share <= COLLAPSE_SHARE:
        return None
    name = label_names[int(counts.argmax())]
    return f"{share:.1%} of all predictions are {name!r}: the model has collapsed to one answer"


def _check(predictions: Predictions, label_names: Sequence[str]) -> None:
    if not len(predictions):
        raise UserError("0 predictions: at least 1 image is needed; choose a split that has images")
    if predictions.probabilities.shape[1] != len(label_names):
        raise ValueError(
            f"{predictions.probabilities.shape[1]} probabilities an image do not fit "
            f"{len(label_names)} label names"
        )
    finite = np.isfinite(predictions.probabilities).all(axis=1) & np.isfinite(predictions.losses)
    if not finite.all():
        raise UserError(
            f"{int((~finite).sum())} of {len(predictions)} predictions are not finite, first "
            f"{predictions.keys[int(np.argmin(finite))]!r}: the model has diverged; use an earlier "
            "checkpoint"
        )


class Copied(NamedTuple):
    """Which images of a split have a copy in training, and how that is known."""

    mask: np.ndarray  # bool [N], in the order of the split
    against: str  # what counts as a copy, of which training images: "exact copies of ..."


def without_copies(
    predictions: Predictions, copied: Copied, samples: int, seed: int
) -> dict[str, Any]:
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
