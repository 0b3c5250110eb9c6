"""FER+: ten people's votes for each row of fer2013.csv."""

import csv
from pathlib import Path

import numpy as np

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


def join(votes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Votes int [R, 10] of the images of `rows` [N], -1 where unknown -> int [N, 10], 0 there.

    By row number, never by FER+'s own image names; UserError where the file has too few rows.
    """
    beyond = rows.max(initial=-1)
    if beyond >= len(votes):
        raise UserError(
            f"--ferplus has {len(votes):,} rows and the data a row {beyond:,}: it must have one "
            "for each row of fer2013.csv"
        )
    joined = np.zeros((len(rows), len(COLUMNS)), np.int64)
    joined[rows >= 0] = votes[rows[rows >= 0]]
    return joined


def _votes(row: dict[str, str], path: str, line: int) -> list[int]:
    try:
        return [int(row[name]) for name in COLUMNS]
    except (TypeError, ValueError):
        raise UserError(f"--ferplus={path}, line {line}: a vote is no whole number") from None
