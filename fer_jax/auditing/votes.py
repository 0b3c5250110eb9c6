"""FER+: ten people's votes for each row of fer2013.csv; which images show no face."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_jax.auditing.conventions import Fit, fit
from fer_jax.auditing.pool import Pool
from fer_jax.errors import UserError
from fer_jax.labels import LABELS, canonical

COLUMNS = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
    "unknown",
    "NF",
)
CLASSES = tuple(
    next(i for i, name in enumerate(COLUMNS[:7]) if canonical(name) == label) for label in LABELS
)
"""Where the project's labels stand among COLUMNS."""
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


def read(path: str) -> np.ndarray:
    """fer2013new.csv -> votes int [rows, 10], columns as COLUMNS; UserError for another file."""
    try:
        with Path(path).expanduser().open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            wanted = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if wanted:
                raise UserError(
                    f"--ferplus={path} lacks the column {wanted[0]!r}: give FER+'s fer2013new.csv"
                )
            found = [_votes(row, path, rows.line_num) for row in rows]
            return np.array(found, np.int64).reshape(-1, len(COLUMNS))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read --ferplus={path}: {reason}") from None


def judge(votes: np.ndarray, pool: Pool) -> Judgement:
    """Votes int [rows, 10] joined to the pool by row number, never by FER+'s own image names."""
    known = pool.rows >= 0
    beyond = pool.rows.max(initial=-1)
    if beyond >= len(votes):
        raise UserError(
            f"--ferplus has {len(votes):,} rows and the data a row {beyond:,}: it must have one "
            "for each row of fer2013.csv"
        )
    joined = np.zeros((len(pool), len(COLUMNS)), np.int64)
    joined[known] = votes[pool.rows[known]]
    emotions = joined[:, CLASSES]
    judged = emotions.sum(axis=1) > 0
    own = emotions[np.arange(len(pool)), pool.labels]
    splits = dict.fromkeys(pool.splits)
    shares = emotions / np.maximum(emotions.sum(axis=1, keepdims=True), 1)
    parts = {split: judged & pool.within(split) for split in splits}
    return Judgement(
        joined=int(known.sum()),
        no_face=2 * joined[:, NO_FACE] > joined.sum(axis=1),
        agreeing=int((judged & (own == emotions.max(axis=1))).sum()),
        judged=int(judged.sum()),
        fits={split: fit(shares[part], pool.labels[part]) for split, part in parts.items()},
    )


def _votes(row: dict[str, str], path: str, line: int) -> list[int]:
    try:
        return [int(row[name]) for name in COLUMNS]
    except (TypeError, ValueError):
        raise UserError(f"--ferplus={path}, line {line}: a vote is no whole number") from None
