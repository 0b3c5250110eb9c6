"""How far confidence can be believed: reliability table, calibration error, and its mending."""

from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp, softmax

from fer_jax.evaluation.predictions import TEMPERATURES, Predictions
from fer_jax.model_file import unsmoothed

BINS = 15
Bins = list[dict[str, Any]]  # a bin's plain numbers: from, to, count, accuracy, confidence


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Bins:
    """The images of [N, K] and int [N] in equal-width bins of confidence, with the means of each.

    Confidence is the largest probability; bin m holds ((m-1)/M, m/M], as in Guo et al. 2017,
    "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599. The means of an
    empty bin are None.
    """
    confidence = np.max(probabilities, axis=1)
    right = np.argmax(probabilities, axis=1) == labels
    edges = np.linspace(0.0, 1.0, bins + 1)
    # Edges in the data's precision, so that float32 0.2 lies in the bin that ends at 0.2.
    position = np.searchsorted(edges[1:].astype(confidence.dtype), confidence, side="left")
    position = np.minimum(position, bins - 1)
    sums = (np.bincount(position, values, bins) for values in (None, right, confidence))
    return [
        {
            "from": float(low),
            "to": float(high),
            "count": int(count),
            "accuracy": float(rights / count) if count else None,
            "confidence": float(sure / count) if count else None,
        }
        for low, high, count, rights, sure in zip(edges[:-1], edges[1:], *sums, strict=True)
    ]


def calibration_error(table: Bins) -> float:
    """Expected, 0..1: sum_m (count_m / N) |accuracy_m - confidence_m| (Guo et al., eq. 3)."""
    names = ("count", "accuracy", "confidence")
    rows = [[row[name] for name in names] for row in table if row["count"]]
    counts, accuracies, confidences = np.array(rows).T
    return float(np.sum(counts * np.abs(accuracies - confidences)) / np.sum(counts))


def scale(probabilities: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """softmax(log p / T) of [N, K] in float64; T a number or [N, 1]. The order of classes stays."""
    return softmax(_log(probabilities) / temperature, axis=1)


def at_temperature(answers: Predictions, temperature: float, smoothing: float) -> Predictions:
    """`answers` unsmoothed, then as `scale` gives them, with the losses of those; at 1 as they are.

    Probabilities become float64, in which none that differed are made equal by the temperature.
    """
    if temperature == 1:
        return answers
    shares = unsmoothed(answers.probabilities.astype(np.float64), smoothing)
    logs = log_softmax(_log(shares) / temperature, axis=1)
    losses = -logs[np.arange(len(answers)), answers.labels]
    return replace(answers, probabilities=scale(shares, temperature), losses=losses)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The T within TEMPERATURES that minimises cross-entropy of [N, K] (Guo et al., section 4.2).

    Log p are the logits up to a constant per image; the loss is convex in 1 / T.
    """
    from scipy.optimize import minimize_scalar  # a second of every start, for those who fit

    logs = _log(probabilities)

    def loss(log_temperature: float) -> float:
        scaled = logs * np.exp(-log_temperature)
        picked = scaled[np.arange(len(labels)), labels]
        return float(np.mean(logsumexp(scaled, axis=1) - picked))

    bounds = tuple(np.log(TEMPERATURES))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def cross_fitted(
    probabilities: np.ndarray,
    labels: np.ndarray,
    copies: np.ndarray,
    seed: int,
    smoothing: float = 0.0,
) -> tuple[np.ndarray, dict[str, Any]] | None:
    """Temperature scaling of [N, K], unsmoothed, by two random halves; None where there are no two.

    -> float64 [N, K], no image by what was fitted on it; how that was done, as report.json says it:
    `temperatures` are of each half, for the other, `temperature` is of all, for other images.
    `copies` int [N] is equal for exact copies, which go into one half: a copy is the same image.
    """
    groups, group = np.unique(copies, return_inverse=True)
    if len(groups) < 2:
        return None
    fold = (np.random.default_rng(seed).permutation(len(groups)) % 2)[group]
    shares = unsmoothed(probabilities.astype(np.float64), smoothing)
    first, second = (fit_temperature(shares[fold == half], labels[fold == half]) for half in (0, 1))
    return scale(shares, np.where(fold == 0, second, first)[:, None]), {
        "method": "two halves, each scaled by the temperature fitted on the other",
        "images": np.bincount(fold, minlength=2).tolist(),
        "seed": seed,
        "temperatures": [first, second],
        "temperature": fit_temperature(shares, labels),
        "label_smoothing": smoothing,
    }


def mean_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy in nats of probabilities [N, K] and labels int [N]."""
    return float(-np.mean(_log(probabilities)[np.arange(len(labels)), labels]))


def _log(probabilities: np.ndarray) -> np.ndarray:
    """float64; what underflowed to 0 counts as the least normal float32."""
    least = np.finfo(np.float32).tiny
    return np.log(np.maximum(np.asarray(probabilities, np.float64), least))
