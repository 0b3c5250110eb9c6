"""How far confidence can be believed: reliability table and expected calibration error."""

from dataclasses import dataclass

import numpy as np

BINS = 15


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
