"""Files beside the images: lists of keys, soft targets by key, FER+'s votes by row."""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.data.records import Records
from fer_jax.errors import UserError, one_line
from fer_jax.labels import LABELS, canonical
from fer_jax.outputs import in_one_step


def read_keys(path: str) -> list[str]:
    """The keys that a file lists, one in each line, each once; UserError if it cannot be read."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read a list of keys from {path}: {one_line(error)}") from None
    return list(dict.fromkeys(filter(None, (line.rstrip("\r") for line in text.split("\n")))))


def listed(records: Records, path: str, option: str, what: str) -> tuple[np.ndarray, str]:
    """Bool [N]: whose key the file lists; the path, and how many keys are of no image of `what`.

    UserError where all are: it is a list of other data or of another split.
    """
    keys = read_keys(path)
    mask = records.among(keys)
    if keys and not mask.any():
        raise UserError(
            f"{option}={path}: none of its {len(keys)} keys, first {keys[0]!r}, is of {what} (such "
            f"as {records.keys[0]!r}): give a list that was made of this data"
        )
    others = len(keys) - int(mask.sum())
    unknown = f", {others} of whose keys name no image of {what}" if others else ""
    return mask, path + unknown


# ---- soft targets: each image's class probabilities, beside its label ----------------------------

ARRAYS = ("key", "probabilities")
HINT = f"it needs key [N] and probabilities [N, {len(LABELS)}], as predictions.npz has them"
TOLERANCE = 1e-3  # of a row's sum, which is then made 1


def attach(records: Records, path: str) -> Records:
    """`records` with the targets of the file; an image without one has its label as target.

    UserError where the file has no image of them; `note` says how many have one.
    """
    keys, probabilities = read_targets(path)
    place = {key: i for i, key in enumerate(keys)}
    found = np.array([place.get(key, -1) for key in records.keys])
    known = found >= 0
    if not known.any():
        raise UserError(
            f"data.targets={path} has none of the {len(records):,} training images: its first key "
            f"is {next(iter(keys), None)!r}, theirs {records.keys[0]!r}; make it from this data"
        )
    targets = np.eye(len(LABELS), dtype=np.float32)[records.labels]
    targets[known] = probabilities[found[known]]
    count = f"{known.sum():,} of {len(records):,} training images"
    left = f"; the other {(~known).sum():,} keep their labels" if not known.all() else ""
    return records.with_targets(targets, f"targets: {count} have soft targets in {path}{left}")


def read_targets(path: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Keys and probabilities float32 [N, 7], classes in the project's order; UserError else."""
    try:
        with Path(path).expanduser().open("rb") as opened, np.load(opened) as file:
            keys, probabilities = (file[name] for name in ARRAYS)
    except Exception as error:  # whatever NumPy and zip make of a broken file
        raise UserError(f"cannot read data.targets={path}: {one_line(error)}; {HINT}") from error
    if keys.ndim != 1 or keys.dtype.kind != "U" or len(set(keys.tolist())) != len(keys):
        raise UserError(f"data.targets={path} has no list of keys, each of them once; {HINT}")
    fitting = probabilities.shape == (len(keys), len(LABELS)) and probabilities.dtype.kind == "f"
    sums = probabilities.sum(axis=1, dtype=np.float64) if fitting else np.zeros(1)
    if not ((abs(sums - 1) <= TOLERANCE).all() and (probabilities >= 0).all()):
        shape = list(probabilities.shape)
        raise UserError(f"data.targets={path}: its {shape} are no probabilities; {HINT}")
    return tuple(keys.tolist()), (probabilities / sums[:, None]).astype(np.float32)


def write_targets(
    path: str | os.PathLike[str], keys: tuple[str, ...], probabilities: np.ndarray
) -> None:
    """What `read_targets` reads; UserError where it cannot be written."""
    arrays: dict[str, Any] = {"key": np.array(keys, np.str_), "probabilities": probabilities}
    in_one_step(Path(path), lambda new: np.savez_compressed(new, **arrays))


# ---- FER+: ten people's votes for each row of fer2013.csv ----------------------------------------

EMOTIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear")
COLUMNS = (*EMOTIONS, "contempt", "unknown", "NF")
CLASSES = tuple([canonical(name) for name in EMOTIONS].index(label) for label in LABELS)
"""Where the project's labels stand among COLUMNS."""


def read_votes(path: str) -> np.ndarray:
    """fer2013new.csv -> votes int [rows, 10], columns as COLUMNS; UserError for another file."""
    found: list[list[np.uint8]] = []
    try:
        with Path(path).expanduser().open(encoding="utf-8-sig", newline="") as stream:
            for row in csv.DictReader(stream):
                found.append([np.uint8(row[name]) for name in COLUMNS])
    except KeyError as error:
        raise UserError(
            f"--ferplus={path} lacks the column {error}: give FER+'s fer2013new.csv"
        ) from None
    except (OSError, csv.Error, TypeError, ValueError, OverflowError) as error:
        reason = f"row {len(found)}: {one_line(error)}"
        raise UserError(f"cannot read --ferplus={path}, {reason}") from None
    return np.array(found, np.int64).reshape(-1, len(COLUMNS))


def join_votes(votes: np.ndarray, rows: np.ndarray) -> np.ndarray:
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
