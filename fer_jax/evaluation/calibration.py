"""How far confidence can be believed: reliability table, calibration error, and its mending."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax

from fer_jax.evaluation.predictions import Predictions

BINS = 15
TEMPERATURES = (0.01, 100.0)


@dataclass(frozen=True)
class Reliability:
    """Equal-width bins of confidence: edges [M + 1]; count, accuracy and confidence [M].

    `accuracy` and `confidence` are means over the bin's images, NaN where a bin is empty.
    """

    edges: np.ndarray
    count: np.ndarray
    accuracy: np.ndarray
    confidence: np.ndarray

    @property
    def expected_calibration_error(self) -> float:
        """sum_m (count_m / N) |accuracy_m - confidence_m|, 0..1 (Guo et al. 2017, eq. 3)."""
        filled = self.count > 0
        gaps = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float(np.sum(self.count[filled] * gaps) / np.sum(self.count))

    def rows(self) -> list[dict[str, float | int | None]]:
        """One plain dict per bin, for JSON and tables; None for the means of an empty bin."""
        return [
            {
                "from": float(self.edges[m]),
                "to": float(self.edges[m + 1]),
                "count": int(self.count[m]),
                "accuracy": float(self.accuracy[m]) if self.count[m] else None,
                "confidence": float(self.confidence[m]) if self.count[m] else None,
            }
            for m in range(len(self.count))
        ]


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Reliability:
    """The reliability table of probabilities [N, K] and labels int [N].

    Confidence is the largest probability; bin m holds ((m-1)/M, m/M], as in Guo et al. 2017,
    "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599.
    """
    confidence = np.max(probabilities, axis=1)
    correct = np.argmax(probabilities, axis=1) == labels
    edges = np.linspace(0.0, 1.0, bins + 1)
    # Edges in the data's precision, so that float32 0.2 lies in the bin that ends at 0.2.
    position = np.searchsorted(edges[1:].astype(confidence.dtype), confidence, side="left")
    position = np.minimum(position, bins - 1)
    count = np.bincount(position, minlength=bins)
    divisor = np.where(count > 0, count, np.nan)
    return Reliability(
        edges=edges,
        count=count,
        accuracy=np.bincount(position, weights=correct, minlength=bins) / divisor,
        confidence=np.bincount(position, weights=confidence, minlength=bins) / divisor,
    )


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS
) -> float:
    """ECE, 0..1: mean |accuracy - confidence| over equal-width bins, weighted by their counts.

    ECE = sum_m (|B_m| / N) |acc(B_m) - conf(B_m)|, Guo et al. 2017, equation 3, there with M = 15.
    """
    return reliability(probabilities, labels, bins).expected_calibration_error


@dataclass(frozen=True)
class Scaled:
    """Two-fold cross-fitted temperature scaling: no image is scored by what was fitted on it."""

    probabilities: np.ndarray
    """float64 [N, K], each row scaled by the temperature of the other fold."""
    fold: np.ndarray
    """int [N]: 0 or 1."""
    temperatures: tuple[float, float]
    """Fitted on fold 0 and on fold 1; each scales the other."""


def scale(probabilities: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """softmax(log p / T) of [N, K] in float64; T a number or [N, 1]. The order of classes stays."""
    return softmax(_log(probabilities) / temperature, axis=1)


def at_temperature(answers: Predictions, temperature: float) -> Predictions:
    """`answers` with their probabilities as `scale` gives them, and the losses of those; 1: as is.

    Probabilities become float64, in which none that differed are made equal.
    """
    if temperature == 1:
        return answers
    logs = log_softmax(_log(answers.probabilities) / temperature, axis=1)
    losses = -logs[np.arange(len(answers)), answers.labels]
    scaled = scale(answers.probabilities, temperature)
    return replace(answers, probabilities=scaled, losses=losses)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The T that minimises cross-entropy of probabilities [N, K] (Guo et al. 2017, section 4.2).

    Logits are known up to a constant per image, which log p is; the loss is convex in 1 / T. T
    stays within TEMPERATURES, whose edges mean that everything, or nothing, was right.
    """
    logs = _log(probabilities)

    def loss(log_temperature: float) -> float:
        scaled = logs * np.exp(-log_temperature)
        picked = scaled[np.arange(len(labels)), labels]
        return float(np.mean(logsumexp(scaled, axis=1) - picked))

    bounds = tuple(np.log(TEMPERATURES))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def cross_fitted(
    probabilities: np.ndarray, labels: np.ndarray, copies: np.ndarray, seed: int
) -> Scaled | None:
    """Temperature scaling of [N, K] by two random halves; None where there are no two.

    `copies` int [N] is equal for exact copies, which go into one fold: a copy is the same image.
    """
    groups, group = np.unique(copies, return_inverse=True)
    if len(groups) < 2:
        return None
    fold = (np.random.default_rng(seed).permutation(len(groups)) % 2)[group]
    first, second = (
        fit_temperature(probabilities[fold == half], labels[fold == half]) for half in (0, 1)
    )
    others = np.where(fold == 0, second, first)[:, None]
    return Scaled(scale(probabilities, others), fold, (first, second))


def mean_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy in nats of probabilities [N, K] and labels int [N]."""
    return float(-np.mean(_log(probabilities)[np.arange(len(labels)), labels]))


def _log(probabilities: np.ndarray) -> np.ndarray:
    """float64; what underflowed to 0 counts as the least normal float32."""
    least = np.finfo(np.float32).tiny
    return np.log(np.maximum(np.asarray(probabilities, np.float64), least))
