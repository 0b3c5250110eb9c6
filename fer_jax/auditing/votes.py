"""What FER+'s votes say of a data set: which images show no face, which labels they share."""

from typing import Any

import numpy as np

from fer_jax.auditing.conventions import fit
from fer_jax.auditing.pool import Pool
from fer_jax.data.sidecars import CLASSES, COLUMNS, join_votes

NO_FACE = COLUMNS.index("NF")


def judge(votes: np.ndarray, pool: Pool) -> tuple[np.ndarray, dict[str, Any]]:
    """Votes int [rows, 10] joined to the pool by row number, never by FER+'s own image names.

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
    return 2 * joined[:, NO_FACE] > joined.sum(axis=1), {
        "images": int((pool.rows >= 0).sum()),
        "judged": int(judged.sum()),
        "label_among_most_voted": int((judged & (own == emotions.max(axis=1))).sum()),
        "names": {split: fit(shares[part], pool.labels[part]) for split, part in parts.items()},
    }
