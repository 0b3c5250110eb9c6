"""Hugging Face's Parquet files: rows of {image: {bytes}, label} -> entries and their images."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.data import images
from fer_jax.data.images import UnreadableImage
from fer_jax.data.layouts import labelled, role_of, row_key
from fer_jax.data.records import Entry, Listing, ReadOptions
from fer_jax.errors import UserError, one_line

LABEL_NAMES = ("label", "labels", "emotion", "expression")


@dataclass(frozen=True)
class ParquetImages:
    """Ref `"data/train.parquet 3 17"` (row group, row in it) -> its decoded pixels."""

    path: Path
    max_pixels: int

    def __call__(self, ref: str) -> np.ndarray:
        """uint8 [H, W, C]; UnreadableImage for what is no whole, allowed image."""
        name, group, row = ref.rsplit(" ", 2)
        try:
            cell = _row_group(self.path / name, int(group))[int(row)]
        except (OSError, ValueError) as error:
            raise UnreadableImage(one_line(error)) from error
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise UnreadableImage("the row holds no image's bytes")
        return images.decode(data, self.max_pixels)


def read_parquet(
    path: Path, names: Sequence[str], options: ReadOptions
) -> tuple[Listing, ParquetImages]:
    """Every row of the files `names` under `path`; the split is what a file's name tells."""
    found = []
    for name in names:
        rows = _labels(path / name)
        for i, (group, row, label) in enumerate(rows):
            key = f"{name}/{row_key(i, len(rows) - 1)}"
            entry = Entry(f"{name} {group} {row}", role_of(name) or "train", -1, key, -1)
            found.append((entry, str(label)))
    return labelled("Parquet", found, options.classes()), ParquetImages(path, options.max_pixels)


def _labels(path: Path) -> list[tuple[int, int, Any]]:
    """(row group, row in it, label) of each row; numbers by their name where the file tells it."""
    try:
        file = _open(path)
        column = next((name for name in LABEL_NAMES if name in file.schema_arrow.names), None)
        if column is None or "image" not in file.schema_arrow.names:
            columns = ", ".join(file.schema_arrow.names)
            raise UserError(f"{path} needs columns image and label, it has {columns}")
        names = _class_names(file.schema_arrow.metadata or {}, column)
        return [
            (group, row, names[label] if names and label in range(len(names)) else label)
            for group in range(file.num_row_groups)
            for row, label in enumerate(file.read_row_group(group, [column])[column].to_pylist())
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:  # Arrow's own derive from these
        raise UserError(f"cannot read {path}: {one_line(error)}") from None


def _class_names(metadata: dict[bytes, bytes], column: str) -> list[str]:
    """What datasets writes into the schema: the names of 0, 1, ...; [] if it did not."""
    try:
        return list(json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"])
    except (KeyError, ValueError, TypeError):
        return []


@functools.lru_cache(4)
def _row_group(path: Path, group: int) -> list[Any]:
    """The encoded images of one row group: some hundred, as a rule."""
    return _open(path).read_row_group(group, ["image"])["image"].to_pylist()


def _open(path: Path) -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(f"{path} needs pyarrow: pip install 'fer_jax[parquet]'") from None
    return parquet.ParquetFile(path)
