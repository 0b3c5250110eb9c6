"""What FER+'s votes say of a data set: which images show no face, which labels they share."""

from dataclasses import dataclass

import numpy as np

from fer_jax.auditing.conventions import Fit, fit
from fer_jax.auditing.pool import Pool
from fer_jax.data.votes import CLASSES, COLUMNS, join

NO_FACE = COLUMNS.index("NF")


@dataclass(frozen=True)
class Judgement:
    """What the votes say of a pool."""

    joined: int
    """Images whose row is known."""
    no_face: np.ndarray
    """Bool [N]: more than half of the votes are NF."""
    agreeing: int
    """Images whose label has as many votes as any other of the seven, of those with such votes."""
    judged: int
    fits: dict[str, Fit | None]
    """Split -> how its class names fit the votes."""


def judge(votes: np.ndarray, pool: Pool) -> Judgement:
    """Votes int [rows, 10] joined to the pool by row number, never by FER+'s own image names."""
    joined = join(votes, pool.rows)
    emotions = joined[:, CLASSES]
    judged = emotions.sum(axis=1) > 0
    own = emotions[np.arange(len(pool)), pool.labels]
    splits = dict.fromkeys(pool.splits)
    shares = emotions / np.maximum(emotions.sum(axis=1, keepdims=True), 1)
    parts = {split: judged & pool.within(split) for split in splits}
    return Judgement(
        joined=int((pool.rows >= 0).sum()),
        no_face=2 * joined[:, NO_FACE] > joined.sum(axis=1),
        agreeing=int((judged & (own == emotions.max(axis=1))).sum()),
        judged=int(judged.sum()),
        fits={split: fit(shares[part], pool.labels[part]) for split, part in parts.items()},
    )
