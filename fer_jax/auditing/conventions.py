"""Do two parts mean the same by their class names? Finds class folders exchanged by mistake.

A linear classifier on small edge maps learns the classes of one part. If the other
part's folder "sad" looks more like the first one's "angry" and the other way round, the names that
fit best (an assignment of names to classes) are not the names as they stand; that is believed only
where they fit better by far more than chance.
"""

import math
from typing import TypedDict

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fer_jax.labels import LABELS

CELL = 6
SHRINKAGE = 0.1
FEWEST = 5
"""Images of a class, in each part, without which nothing is said about it."""
ROUNDING = 1e-9  # variance of a mean, where all images of a class score the same
SURE = 4.0
"""Standard errors by which other names must fit better to be believed."""


class Fit(TypedDict):
    """Which class names would fit better what stands under them."""

    looks_like: dict[str, str]
    """{called: looks like} of the classes whose best name is another."""
    standard_errors: float
    """By how many the best names beat the names as they stand; 0 if they are them."""
    exchanged: bool
    """Whether that is beyond chance."""


def compare(
    images: np.ndarray, labels: np.ndarray, others: np.ndarray, other_labels: np.ndarray
) -> Fit | None:
    """Learns the classes of `images` uint8 [N, 48, 48], reads `others`: how their names fit.

    None where fewer than two classes have FEWEST images in both.
    """
    counts = [np.bincount(part, minlength=len(LABELS)) for part in (labels, other_labels)]
    enough = np.flatnonzero(np.min(counts, axis=0) >= FEWEST)
    if len(enough) < 2:
        return None
    known, asked = np.isin(labels, enough), np.isin(other_labels, enough)
    classifier = LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage=SHRINKAGE, priors=np.full(len(enough), 1 / len(enough))
    )
    classifier.fit(features(images[known]), labels[known])
    scores = np.zeros((int(asked.sum()), len(LABELS)))
    answers = classifier.predict_log_proba(features(others[asked]))
    scores[:, enough] = np.maximum(answers, -20)  # one image is not to decide
    return fit(scores, other_labels[asked])


def fit(scores: np.ndarray, labels: np.ndarray) -> Fit | None:
    """Scores float [N, 7] (higher: looks more like that class), names int [N] -> the best naming.

    None where fewer than two classes have FEWEST images.
    """
    present = np.flatnonzero(np.bincount(labels, minlength=len(LABELS)) >= FEWEST)
    if len(present) < 2:
        return None
    means = np.stack([scores[labels == a][:, present].mean(axis=0) for a in present])
    means += 1e-9 * np.eye(len(present))  # in a tie they keep their names
    best = linear_sum_assignment(means, maximize=True)[1]

    lead, variance = 0.0, ROUNDING
    for name, other in zip(present, present[best], strict=True):
        differences = scores[labels == name][:, other] - scores[labels == name][:, name]
        lead += float(differences.mean())
        variance += float(differences.var(ddof=1)) / len(differences)
    gain = lead / math.sqrt(variance)
    moved = {LABELS[a]: LABELS[b] for a, b in zip(present, present[best], strict=True) if a != b}
    exchanged = bool(moved) and gain >= SURE
    return Fit(looks_like=moved, standard_errors=round(gain, 2), exchanged=exchanged)


def features(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 48, 48] -> float32 [N, 256]: strength of edges in four directions, per cell."""
    return np.stack([_edges(image.astype(np.float32)) for image in images])


def _edges(image: np.ndarray) -> np.ndarray:
    """Means over cells of 6x6 pixels, relative to the whole image's."""
    across, down = cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1)
    slanted = (across + down) * math.sqrt(0.5), (across - down) * math.sqrt(0.5)
    edges = np.abs([across, down, *slanted]).reshape(4, 8, CELL, 8, CELL)
    cells = edges.mean(axis=(2, 4)).ravel()
    return np.sqrt(cells / (cells.mean() + 1e-3))
