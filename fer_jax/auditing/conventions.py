"""Do class names mean what stands under them? Finds class folders exchanged by mistake.

What looks like which class is told by a linear classifier of another part on small edge maps, or by
FER+'s votes. If the folder "sad" looks more like "angry" and the other way round, the names that
fit best (an assignment of names to classes) are not the names as they stand; that is believed only
where they fit better by far more than chance.
"""

import math
from typing import Any

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fer_jax.auditing.copies import Pool
from fer_jax.data.sidecars import CLASSES, COLUMNS, join_votes
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
    scores = np.zeros((len(answers), len(LABELS)))
    scores[:, enough] = np.maximum(answers, -20)  # one image is not to decide
    return fit(scores, other_labels[asked])


def judge(votes: np.ndarray, pool: Pool) -> tuple[np.ndarray, dict[str, Any]]:
    """FER+'s votes int [rows, 10] joined to the pool by row number.

    -> bool [N], where more than half of the votes are "no face"; and facts: how many images have a
    row, how many of them votes for the seven classes, how many of these a label with as many votes
    as any other, and split -> how its class names fit the votes.
    """
    joined = join_votes(votes, pool.rows)
    emotions = joined[:, CLASSES]
    judged = emotions.sum(axis=1) > 0
    own = emotions[np.arange(len(pool)), pool.labels]
    shares = emotions / np.maximum(emotions.sum(axis=1, keepdims=True), 1)
    parts = {split: judged & pool.within(split) for split in dict.fromkeys(pool.splits)}
    return 2 * joined[:, COLUMNS.index("NF")] > joined.sum(axis=1), {
        "images": int((pool.rows >= 0).sum()),
        "judged": int(judged.sum()),
        "label_among_most_voted": int((judged & (own == emotions.max(axis=1))).sum()),
        "names": {split: fit(shares[part], pool.labels[part]) for split, part in parts.items()},
    }


def fit(scores: np.ndarray, labels: np.ndarray) -> Fit | None:
    """Scores float [N, 7] (higher: looks more like that class), names int [N] -> the best naming.

    None where fewer than two classes have FEWEST images.
    """
    present = np.flatnonzero(np.bincount(labels, minlength=len(LABELS)) >= FEWEST)
    if len(present) < 2:
        return None
    means = np.stack([scores[labels == a][:, present].mean(axis=0) for a in present])
    means += 1e-9 * np.eye(len(present))  # in a tie they keep their names
    best = present[linear_sum_assignment(means, maximize=True)[1]]

    lead, variance = 0.0, ROUNDING
    for name, other in zip(present, best, strict=True):
        differences = scores[labels == name][:, other] - scores[labels == name][:, name]
        lead += float(differences.mean())
        variance += float(differences.var(ddof=1)) / len(differences)
    gain = lead / math.sqrt(variance)
    moved = {LABELS[a]: LABELS[b] for a, b in zip(present, best, strict=True) if a != b}
    exchanged = bool(moved) and gain >= SURE
    return {"looks_like": moved, "standard_errors": round(gain, 2), "exchanged": exchanged}


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
