"""Soft targets: each image's class probabilities from a file, by its key, beside its label."""

import os
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from fer_jax.data.records import Records
from fer_jax.errors import UserError, one_line
from fer_jax.labels import LABELS

ARRAYS = ("key", "probabilities")
HINT = f"it needs key [N] and probabilities [N, {len(LABELS)}], as predictions.npz has them"
TOLERANCE = 1e-3  # of a row's sum, which is then made 1


class Targeted:
    """Records of which each has a `target`, float32 [7], beside its `label`."""

    def __init__(self, records: Records, targets: np.ndarray, note: str) -> None:
        self.records = records
        self.targets = targets
        self.note = note
        self.channels = records.channels

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        return {**self.records[index], "target": self.targets[index]}

    def counts(self) -> np.ndarray:
        """Images per class by their labels, int [7]."""
        return self.records.counts()


def attach(records: Records, path: str) -> Targeted:
    """`records` with the targets of the file; an image without one has its label as target.

    UserError where the file has no image of them; `note` says how many have one.
    """
    keys, probabilities = read(path)
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
    return Targeted(records, targets, f"targets: {count} have soft targets in {path}{left}")


def read(path: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Keys and probabilities float32 [N, 7], classes in the project's order; UserError else."""
    try:
        with Path(path).expanduser().open("rb") as opened, np.load(opened) as file:
            keys, probabilities = (file[name] for name in ARRAYS)
    except (OSError, EOFError, KeyError, ValueError, TypeError, BadZipFile, zlib.error) as error:
        raise UserError(f"cannot read data.targets={path}: {one_line(error)}; {HINT}") from error
    if keys.ndim != 1 or keys.dtype.kind != "U" or len(set(keys.tolist())) != len(keys):
        raise UserError(f"data.targets={path} has no list of keys, each of them once; {HINT}")
    if probabilities.shape != (len(keys), len(LABELS)) or probabilities.dtype.kind != "f":
        shape = list(probabilities.shape)
        raise UserError(f"data.targets={path} has probabilities {shape}; {HINT}")
    sums = probabilities.sum(axis=1, dtype=np.float64)
    if not ((probabilities >= 0).all() and (abs(sums - 1) <= TOLERANCE).all()):
        raise UserError(f"data.targets={path}: a row of probabilities is none; {HINT}")
    return tuple(keys.tolist()), (probabilities / sums[:, None]).astype(np.float32)


def write(path: str | os.PathLike[str], keys: tuple[str, ...], probabilities: np.ndarray) -> None:
    """What `read` reads; UserError where it cannot be written."""
    try:
        with open(path, "wb") as file:
            np.savez_compressed(file, key=np.array(keys, np.str_), probabilities=probabilities)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
