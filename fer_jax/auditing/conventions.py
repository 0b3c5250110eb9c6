"""Do class names mean what stands under them? Finds class folders exchanged by mistake.

What looks like which class is told by a linear classifier of another part on small edge maps. If
the folder "sad" looks more like "angry" and the other way round, the names that fit best (an
assignment of names to classes) are not the names as they stand; that is believed only where they
fit better by far more than chance.
"""

import math
from typing import Any

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fer_jax.labels import LABELS

CELL = 6  # pixels
SHRINKAGE = 0.1
FEWEST = 5  # images of a class, in each part, without which nothing is said about it
SURE = 4.0  # standard errors by which other names must fit better to be believed
ROUNDING = 1e-9  # variance of a mean, where all images of a class score the same

Fit = dict[str, Any]
"""`looks_like`: {called: looks like} of the classes whose best name is another; `standard_errors`
by which the best names beat those that stand; `exchanged`: whether that is beyond chance."""


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
    classifier.fit(np.stack([edges(image) for image in images[known]]), labels[known])
    answers = classifier.predict_log_proba(np.stack([edges(image) for image in others[asked]]))
    return fit(np.maximum(answers, -20), other_labels[asked], enough)  # one image decides nothing


def fit(scores: np.ndarray, labels: np.ndarray, present: np.ndarray) -> Fit:
    """Scores float [N, K], higher where more like class `present` [K], and names int [N]."""
    names = np.searchsorted(present, labels)
    groups = [scores[names == name] for name in range(len(present))]
    means = np.stack([group.mean(axis=0) for group in groups])
    means += 1e-9 * np.eye(len(present))  # in a tie they keep their names
    best = linear_sum_assignment(means, maximize=True)[1]

    # what the best names gain, by the standard error of that
    gains = [group[:, best[name]] - group[:, name] for name, group in enumerate(groups)]
    variance = ROUNDING + sum(float(gain.var(ddof=1)) / len(gain) for gain in gains)
    errors = sum(float(gain.mean()) for gain in gains) / math.sqrt(variance)
    called = zip(present, present[best], strict=True)
    moved = {LABELS[a]: LABELS[b] for a, b in called if a != b}
    exchanged = bool(moved) and errors >= SURE
    return {"looks_like": moved, "standard_errors": round(errors, 2), "exchanged": exchanged}


def edges(image: np.ndarray) -> np.ndarray:
    """uint8 [48, 48] -> float32 [256]: strength of edges in four directions, per cell of 6x6.

    Relative to the whole image's.
    """
    image = image.astype(np.float32)
    across, down = cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1)
    slanted = (across + down) * math.sqrt(0.5), (across - down) * math.sqrt(0.5)
    strengths = np.abs([across, down, *slanted]).reshape(4, 8, CELL, 8, CELL)
    cells = strengths.mean(axis=(2, 4)).ravel()
    return np.sqrt(cells / (cells.mean() + 1e-3))
