"""Figures of merit of a set of predictions, through scikit-learn where it has them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from fer_jax.errors import UserError
from fer_jax.evaluation.calibration import expected_calibration_error
from fer_jax.evaluation.predictions import Predictions
from fer_jax.labels import LABELS

BOOTSTRAP_SAMPLES = 10_000
COLLAPSE_SHARE = 0.9


def accuracy(predictions: Predictions) -> float:
    """Top-1 accuracy, 0..1: the number of correct answers divided by N, as Python divides."""
    return int(np.sum(predictions.predicted == predictions.labels)) / len(predictions)


def loss(predictions: Predictions) -> float:
    """Mean unweighted cross-entropy in nats, exactly summed: the images' order does not matter."""
    return math.fsum(predictions.losses.tolist()) / len(predictions)


def bootstrap_interval(correct: int, n: int, samples: int, seed: int) -> list[float]:
    """The 2.5 % and 97.5 % quantiles of accuracy over bootstrap samples of the n images.

    Drawing n images with replacement makes the number of correct ones binomial (n, correct / n),
    so that number is drawn at once (Efron & Tibshirani 1993, chapter 13: percentile interval).
    """
    draws = np.random.default_rng(seed).binomial(n, correct / n, size=samples) / n
    return [float(edge) for edge in np.quantile(draws, (0.025, 0.975))]


def collapse_warning(predicted: np.ndarray, label_names: Sequence[str] = LABELS) -> str | None:
    """A sentence if one class takes over 90 % of predicted int [N], the mark of a collapse."""
    counts = np.bincount(predicted, minlength=len(label_names))
    share = float(counts.max() / max(counts.sum(), 1))
    if share <= COLLAPSE_SHARE:
        return None
    name = label_names[int(counts.argmax())]
    return f"{share:.1%} of all predictions are {name!r}: the model has collapsed to one answer"


def summary(
    predictions: Predictions,
    *,
    label_names: Sequence[str] = LABELS,
    bootstrap_samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Every figure of the report as plain Python numbers, ready for strict JSON.

    Macro-F1 and balanced accuracy are means over the classes that occur in the split; the others
    are named in `absent_classes` and have None for what is undefined. `confusion_matrix` has rows
    of true and columns of predicted classes. UserError if there is nothing to measure.
    """
    _check(predictions, label_names)
    n, predicted = len(predictions), predictions.predicted
    correct = int(np.sum(predicted == predictions.labels))
    per_class = _per_class(predictions.labels, predicted, label_names)
    present = [row for row in per_class.values() if row["support"]]
    warning = collapse_warning(predicted, label_names)
    indices = range(len(label_names))
    return {
        "n": n,
        "accuracy": accuracy(predictions),
        "accuracy_95_interval": bootstrap_interval(correct, n, bootstrap_samples, seed),
        "loss": loss(predictions),
        "macro_f1": math.fsum(row["f1"] for row in present) / len(present),
        "balanced_accuracy": math.fsum(row["recall"] for row in present) / len(present),
        "expected_calibration_error": expected_calibration_error(
            predictions.probabilities, predictions.labels
        ),
        "per_class": per_class,
        "confusion_matrix": confusion_matrix(
            predictions.labels, predicted, labels=indices
        ).tolist(),
        "absent_classes": [name for name, row in per_class.items() if not row["support"]],
        "warnings": [warning] if warning else [],
        "bootstrap": {"samples": bootstrap_samples, "seed": seed},
    }


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


def _per_class(
    labels: np.ndarray, predicted: np.ndarray, label_names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    table = precision_recall_fscore_support(
        labels, predicted, labels=range(len(label_names)), average=None, zero_division=0.0
    )
    rows: dict[str, dict[str, Any]] = {}
    for name, precision, recall, f1, support in zip(label_names, *table, strict=True):
        figures = zip(("precision", "recall", "f1"), (precision, recall, f1), strict=True)
        rows[name] = {key: float(value) if support else None for key, value in figures}
        rows[name]["support"] = int(support)
    return rows
