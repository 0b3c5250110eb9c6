"""fer2013.csv and icml_face_data.csv: rows of 2,304 pixels -> entries and their pixels."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from fer_jax.data.images import UnreadableImage
from fer_jax.data.layouts import numeric_label, row_key
from fer_jax.data.records import Entry
from fer_jax.errors import UserError
from fer_jax.labels import FER2013_CSV_ORDER, index, parse_order

SIDE = 48
PIXELS = SIDE * SIDE
USAGES = {"training": "train", "publictest": "validation", "privatetest": "test"}
LINE_LIMIT = 64 * 1024  # characters; a row needs at most 2,304 * 4 + 30
_VALUES = {str(value): value for value in range(256)}


@dataclass(frozen=True)
class Columns:
    """Where a file has its columns; usage is None in one that has no such column."""

    emotion: int
    pixels: int
    usage: int | None


class CsvPixels:
    """Ref `"row 12"` -> that row's pixels uint8 [48, 48, 1]; holds every row in memory."""

    def __init__(self) -> None:
        self._rows: dict[str, bytes | str] = {}

    def __setitem__(self, ref: str, pixels: bytes | str) -> None:
        """Store pixels, or the reason why they cannot be read."""
        self._rows[ref] = pixels

    def __call__(self, ref: str) -> np.ndarray:
        """uint8 [48, 48, 1], read-only; UnreadableImage where the row was no good."""
        pixels = self._rows[ref]
        if isinstance(pixels, str):
            raise UnreadableImage(pixels)
        return np.frombuffer(pixels, np.uint8).reshape(SIDE, SIDE, 1)


def parse_header(line: str) -> Columns | None:
    """`"emotion, Usage, pixels"` -> columns, blanks and case apart; None if it is another file."""
    names = [name.strip().strip('"').lower() for name in line.split(",")]
    if "emotion" not in names or "pixels" not in names:
        return None
    usage = names.index("usage") if "usage" in names else None
    return Columns(names.index("emotion"), names.index("pixels"), usage)


def sniff(stream: BinaryIO) -> bool:
    """Whether a file begins with such a header."""
    first = stream.read(256).decode("utf-8-sig", "replace").splitlines()
    return bool(first) and parse_header(first[0]) is not None


def read_csv(stream: BinaryIO, name: str, label_order: str) -> tuple[list[Entry], CsvPixels]:
    """Every row as an entry (key and row: its index, header not counted) and its pixels.

    A row that is no good gets an entry too, whose pixels raise UnreadableImage; UserError where
    the header lacks a column.
    """
    with io.TextIOWrapper(stream, "utf-8-sig", "replace", newline=None) as text:
        columns = parse_header(text.readline(LINE_LIMIT))
        if columns is None:
            raise UserError(f"{name}: the first line must name columns emotion, pixels and Usage")
        rows = tqdm(_lines(text), desc=f"reading {name}", unit="row", disable=None, leave=False)
        order = parse_order(label_order) if label_order else FER2013_CSV_ORDER
        return _read_rows(rows, columns, order)


def _read_rows(
    lines: Iterable[str], columns: Columns, order: Sequence[str]
) -> tuple[list[Entry], CsvPixels]:
    found, pixels = [], CsvPixels()
    for row, line in enumerate(lines):
        try:
            role, label, pixels[f"row {row}"] = parse_row(line, columns, order)
        except (ValueError, csv.Error) as error:
            role, label, pixels[f"row {row}"] = "train", 0, str(error)
        found.append((role, label))
    entries = [
        Entry(f"row {row}", role, label, row_key(row, len(found) - 1), row)
        for row, (role, label) in enumerate(found)
    ]
    return entries, pixels


def parse_row(line: str, columns: Columns, order: Sequence[str]) -> tuple[str, int, bytes]:
    """One line -> (role, label, 2,304 bytes); ValueError says what is wrong with it."""
    cells = next(csv.reader([line]), [])
    needed = max(columns.emotion, columns.pixels, columns.usage or 0) + 1
    if len(cells) < needed:
        raise ValueError(f"{len(cells)} columns instead of {needed}")
    role = "train" if columns.usage is None else _role(cells[columns.usage].strip())
    return role, _label(cells[columns.emotion].strip(), order), _pixels(cells[columns.pixels])


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Lines that are not blank; of one beyond the limit only its start, lest it fill the memory."""
    for line in iter(lambda: text.readline(LINE_LIMIT), ""):
        rest = line
        while rest and not rest.endswith("\n"):
            rest = text.readline(LINE_LIMIT)
        if line.strip():
            yield line


def _role(usage: str) -> str:
    role = USAGES.get(usage.lower())
    if role is None:
        raise ValueError(f"Usage {usage[:40]!r} is none of Training, PublicTest, PrivateTest")
    return role


def _label(emotion: str, order: Sequence[str]) -> int:
    if emotion.isascii() and emotion.isdigit() and len(emotion) < 4:
        if int(emotion) >= len(order):
            raise ValueError(f"emotion {emotion} is outside 0..{len(order) - 1}")
        return numeric_label(emotion, order)
    try:
        return index(emotion[:40])
    except UserError:
        raise ValueError(f"emotion {emotion[:40]!r} is neither 0..6 nor a class name") from None


def _pixels(cell: str) -> bytes:
    return _plain_pixels(cell) or _checked_pixels(cell)


def _plain_pixels(cell: str) -> bytes | None:
    """2,304 numbers parted by single blanks, all at once; None where anything is unusual."""
    text = np.frombuffer(cell.encode("ascii", "replace"), np.uint8)
    gaps = np.flatnonzero(text == ord(" "))
    ends = np.append(gaps, len(text))
    lengths = np.diff(ends, prepend=-1) - 1
    if len(ends) != PIXELS or lengths.min() < 1 or lengths.max() > 3:
        return None
    digits = text.astype(np.int16) - ord("0")
    digits[gaps] = 0
    if digits.min() < 0 or digits.max() > 9:
        return None
    tens = np.where(lengths > 1, digits[ends - 2], 0)
    hundreds = np.where(lengths > 2, digits[ends - 3], 0)
    values = 100 * hundreds + 10 * tens + digits[ends - 1]
    return values.astype(np.uint8).tobytes() if values.max() <= 255 else None


def _checked_pixels(cell: str) -> bytes:
    """One number after the other; ValueError names the first that is no good."""
    values = cell.split()
    if len(values) != PIXELS:
        raise ValueError(f"{len(values):,} pixels instead of {PIXELS:,}")
    try:
        return bytes(map(_VALUES.__getitem__, values))
    except KeyError as error:
        position = values.index(error.args[0])
        raise ValueError(f"pixel {position} is {error.args[0][:20]!r}, not 0..255") from None
