"""Do two parts mean the same by their class names? Finds class folders exchanged by mistake.

A linear classifier on small edge maps learns the classes of one part. If the other part's folder
"sad" looks more like the first one's "angry" and the other way round, the names that fit best are
not the names as they stand: of all 5,040 ways to name the classes the best is taken, and it is
believed only where it beats the names as they stand by far more than chance.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fer_jax.auditing.near_duplicates import BLOCK, spectra
from fer_jax.labels import LABELS

CELL = 6
SHRINKAGE = 0.1
SPECTRUM_WEIGHT = 5.0  # brings both kinds of features to about one size
FEWEST = 5
"""Images of a class, in each part, without which nothing is said about it."""
ROUNDING = 1e-9  # variance of a mean, where all images of a class score the same
SURE = 4.0
"""Standard errors by which other names must fit better, or those that stand than any other."""


@dataclass(frozen=True)
class Fit:
    """How well class names fit what stands under them."""

    best: tuple[int, ...]
    """best[a]: the class that what is called a looks like."""
    gain: float
    """Standard errors by which `best` beats the names as they stand; 0 if it is them."""
    margin: float
    """Standard errors by which `best` beats the runner-up."""
    unsure: tuple[str, ...]
    """Classes that the runner-up names otherwise."""

    @property
    def moved(self) -> dict[str, str]:
        """{called: looks like} of the classes whose best name is another."""
        return {LABELS[a]: LABELS[b] for a, b in enumerate(self.best) if a != b}

    @property
    def exchanged(self) -> bool:
        """Whether names are exchanged beyond chance."""
        return bool(self.moved) and self.gain >= SURE

    @property
    def agreed(self) -> bool:
        """Whether the names as they stand are right beyond chance."""
        return not self.moved and self.margin >= SURE


def compare(
    images: np.ndarray, labels: np.ndarray, others: np.ndarray, other_labels: np.ndarray
) -> Fit | None:
    """Learns the classes of `images` uint8 [N, 48, 48], reads `others`: how their names fit.

    None where fewer than two classes have FEWEST images in both.
    """
    counts = [np.bincount(part, minlength=len(LABELS)) for part in (labels, other_labels)]
    enough = np.flatnonzero((counts[0] >= FEWEST) & (counts[1] >= FEWEST))
    if len(enough) < 2:
        return None
    known, asked = np.isin(labels, enough), np.isin(other_labels, enough)
    classifier = LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage=SHRINKAGE, priors=np.full(len(enough), 1 / len(enough))
    )
    classifier.fit(features(images[known]), labels[known])
    raw = classifier.predict_log_proba(features(others[asked]))
    scores = np.zeros((len(raw), len(LABELS)))
    scores[:, enough] = np.maximum(raw, -20)  # one image is not to decide
    return fit(scores, other_labels[asked])


def fit(scores: np.ndarray, labels: np.ndarray) -> Fit | None:
    """Scores float [N, 7] (higher: looks more like that class), names int [N] -> the best naming.

    None where fewer than two classes have FEWEST images.
    """
    counts = np.bincount(labels, minlength=len(LABELS))
    present = np.flatnonzero(counts >= FEWEST)
    if len(present) < 2:
        return None
    namings = np.tile(np.arange(len(LABELS)), (math.factorial(len(present)), 1))
    namings[:, present] = list(itertools.permutations(present.tolist()))
    means = np.stack([_mean(scores[labels == a]) for a in range(len(LABELS))])
    totals = means[np.arange(len(LABELS)), namings].sum(axis=1)
    first, second = np.argsort(-totals, kind="stable")[:2]
    best, runner_up = namings[first], namings[second]
    differs = np.flatnonzero(best != runner_up)
    return Fit(
        best=tuple(best.tolist()),
        gain=_lead(scores, labels, best, np.arange(len(LABELS))),
        margin=_lead(scores, labels, best, runner_up),
        unsure=tuple(LABELS[a] for a in differs),
    )


def features(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 48, 48] -> float32 [N, 319]: strength of edges per cell, and low frequencies."""
    parts = np.array_split(images, max(1, len(images) // BLOCK))
    return np.concatenate([_features(part) for part in parts])


def _features(images: np.ndarray) -> np.ndarray:
    """Edges in four directions, summed over cells of 6x6 pixels, relative to the whole image's."""
    pixels = images.astype(np.float32)
    across = pixels[:, 1:-1, 2:] - pixels[:, 1:-1, :-2]
    down = pixels[:, 2:, 1:-1] - pixels[:, :-2, 1:-1]
    slanted = (across + down) * np.sqrt(0.5), (across - down) * np.sqrt(0.5)
    cells = np.stack([_pooled(np.abs(edge)) for edge in (across, down, *slanted)], axis=-1)
    cells = cells.reshape(len(images), -1)
    edges = np.sqrt(cells / (cells.mean(axis=1, keepdims=True) + 1e-3))
    return np.concatenate([edges, SPECTRUM_WEIGHT * spectra(images)], axis=1)


def _pooled(edges: np.ndarray) -> np.ndarray:
    """float32 [N, 46, 46] -> [N, 8, 8]: means over cells, nothing beyond the border."""
    padded = np.pad(edges, ((0, 0), (1, 1), (1, 1)))
    n, side = len(padded), padded.shape[-1]
    return padded.reshape(n, side // CELL, CELL, side // CELL, CELL).mean(axis=(2, 4))


def _mean(scores: np.ndarray) -> np.ndarray:
    return scores.mean(axis=0) if len(scores) else np.zeros(scores.shape[1])


def _lead(scores: np.ndarray, labels: np.ndarray, best: np.ndarray, other: np.ndarray) -> float:
    """By how many standard errors the naming `best` scores above `other`; 0 if they are one."""
    lead, variance = 0.0, ROUNDING
    for a in np.flatnonzero(best != other):
        differences = scores[labels == a][:, best[a]] - scores[labels == a][:, other[a]]
        lead += float(differences.mean())
        variance += float(differences.var(ddof=1)) / len(differences)
    return lead / math.sqrt(variance)
