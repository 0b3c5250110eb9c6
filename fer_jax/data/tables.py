"""Tables of images: fer2013.csv and its relatives, a row of pixels each; Hugging Face's Parquet."""

import codecs
import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from fer_jax.data import files, images
from fer_jax.data.images import UnreadableImage
from fer_jax.data.layouts import ROLE_NAMES, labelled, role_of, row_key
from fer_jax.data.records import Entry, Found, ReadOptions
from fer_jax.errors import UserError, one_line, optional, printable
from fer_jax.labels import FER2013_CSV_ORDER

SIDE = 48
PIXELS = SIDE * SIDE
LINE_LIMIT = 64 * 1024  # characters; a row of floats needs 2,304 * 26
SEPARATORS = ",;\t|"
CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")  # read alone, whatever else lies there
LABEL_NAMES, USAGE_NAMES = ("emotion", "label"), ("usage", "split")
PARQUET_LABELS = ("label", "labels", "emotion", "expression")
BATCH = 1000  # rows of Parquet read at a time
PUNCTUATION = str.maketrans("[](),;", "      ")  # of lists, within a value

Row = tuple[str, str, bytes]
"""Role, class as the file writes it, pixels."""


# ---- CSV ---------------------------------------------------------------------------------------


def find_csv(tree: files.Tree, names: Sequence[str], options: ReadOptions) -> Found | None:
    """fer2013.csv, else icml_face_data.csv, else other CSV of such a kind, a split each.

    UserError where a header lacks a column or the numbers of the classes are ambiguous.
    """
    fitting = _fitting(tree, names)
    found: list[tuple[Entry, str]] = []
    stray: list[tuple[str, str]] = []
    pixels: dict[str, bytes] = {}
    for name in fitting:
        # Rows of several files are no rows of fer2013.csv: refs and keys bear the file's name.
        alone, base = len(fitting) == 1, _base(name)
        with files.opened(tree, name) as stream, _text(stream) as text:
            rows = list(_rows(text, base))
        for i, row in enumerate(rows):
            ref, key = f"row {i}" if alone else f"{base} row {i}", row_key(i, len(rows) - 1)
            if isinstance(row, str):
                stray.append((ref, row))
                continue
            role, given, pixels[ref] = row
            key, number = (key, i) if alone else (f"{base}/{key}", -1)
            found.append((Entry(ref, role, -1, key, number), given))
    if not fitting:
        return None
    layout, ignored = " and ".join(map(_base, fitting)), {*names} - {*fitting}
    classes = options.classes(FER2013_CSV_ORDER)
    return labelled(layout, found, classes, stray, ignored), partial(_csv_image, pixels)


def _fitting(tree: files.Tree, names: Sequence[str]) -> list[str]:
    """The tables to read; UserError where it is not clear which."""
    tables = [name for name in names if name.lower().endswith(".csv")]
    known = [name for given in CSV_NAMES for name in tables if _base(name).lower() == given]
    if known or len(names) == len(tables) == 1:  # what is wrong with it is to be said
        return (known or tables)[:1]

    fitting = []
    for name in tables:
        with files.opened(tree, name) as stream, _text(stream) as text:
            _, columns = _header(text.readline(LINE_LIMIT))
        if not set(columns).isdisjoint(LABEL_NAMES):
            fitting.append(name)
    if len({role_of(_base(name)) for name in fitting} - {None}) < len(fitting) > 1:
        raise UserError(f"{', '.join(fitting[:3])} all fit: give the path of one")
    return fitting


def _base(name: str) -> str:
    return printable(name).rsplit("/", 1)[-1]


def _csv_image(rows: Mapping[str, bytes], ref: str) -> np.ndarray:
    """Ref `"row 12"` -> uint8 [48, 48, 1], read-only."""
    return np.frombuffer(rows[ref], np.uint8).reshape(SIDE, SIDE, 1)


def _text(stream: IO[bytes]) -> io.TextIOWrapper:
    """UTF-8, or UTF-16 as spreadsheets and PowerShell write it; what matters is ASCII."""
    start = stream.read(2)
    stream.seek(0)
    wide = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return io.TextIOWrapper(stream, "utf-16" if wide else "utf-8-sig", "replace", newline=None)


def _header(line: str) -> tuple[str, list[str]]:
    """`"emotion, Usage, pixels"` -> separator and names of columns; none if it is another file.

    Blanks and case are apart, `Pixel 7` and `pixel_7` are `pixel7`. The separator is the one that
    makes such columns of the line; csv.Sniffer is misled by the pixels' blanks.
    """
    for separator in SEPARATORS:
        cells = next(csv.reader([line], delimiter=separator), [])
        names = [re.sub("^pixel[ _]", "pixel", cell.strip().lower()) for cell in cells]
        if "pixels" in names or "pixel0" in names:
            return separator, names
    return "", []


def _rows(text: io.TextIOWrapper, name: str) -> Iterator[Row | str]:
    """Every row, the header not counted, or the reason why it is none."""
    line = text.readline(LINE_LIMIT)
    separator, names = _header(line)
    label, usage = (
        next((name for name in wanted if name in names), None)
        for wanted in (LABEL_NAMES, USAGE_NAMES)
    )
    if label is None:
        wanted = "emotion (or label), pixels (or pixel0, pixel1, ...) and Usage"
        shown = f"it has {line.strip()[:80]!r}" if line else "the file is empty"
        raise UserError(f"the first line must name columns {wanted}: {shown}")
    pixels = ["pixels"] if "pixels" in names else [f"pixel{i}" for i in range(PIXELS)]
    if not set(pixels) <= set(names):
        raise UserError(f"it lacks some of the {PIXELS:,} columns pixel0, pixel1, ...")

    reader, end = csv.DictReader(_lines(text), names, delimiter=separator), 0
    bar = tqdm(reader, desc=f"reading {name}", unit="row", disable=None, leave=False)
    try:
        for cells in bar:
            try:
                yield _row(cells, label, usage, pixels, role_of(name) or "train")
            except ValueError as error:
                # A quotation mark that is not closed takes the rows behind it along: the rest
                # would be numbered wrongly.
                if reader.line_num > end + 1:
                    raise csv.Error(str(error)) from None
                yield str(error)
            end = reader.line_num
    except csv.Error as error:
        raise UserError(f"a quotation mark is astray in row {end}: {error}") from None
    if not end:
        raise UserError("it has a header and no rows")


def _row(
    cells: Mapping[str, str | None], label: str, usage: str | None, pixels: Sequence[str], role: str
) -> Row:
    """One row; ValueError says what is wrong with it. `role` is that of a file without `usage`."""
    missing = [name for name in (label, usage, *pixels) if name and cells[name] is None]
    if missing:
        raise ValueError(f"it has no column {missing[0]}")
    if usage:
        given = str(cells[usage]).strip()
        if given.lower() not in ROLE_NAMES:
            known = "Training, PublicTest, PrivateTest, train, val, test"
            raise ValueError(f"Usage {given[:40]!r} is none of {known}")
        role = ROLE_NAMES[given.lower()]
    return role, str(cells[label]).strip(), _pixels(" ".join([str(cells[n]) for n in pixels]))


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Lines that are not blank; UserError for one beyond the limit, which may have no end."""
    for line in iter(lambda: text.readline(LINE_LIMIT), ""):
        if len(line) == LINE_LIMIT:
            raise UserError(f"it has a line of {LINE_LIMIT:,} characters or more")
        if line.strip():
            yield line


def _pixels(text: str) -> bytes:
    """2,304 whole numbers from 0 to 255; ValueError where it is something else."""
    for kind, plain in ((np.int64, text), (np.float64, text.translate(PUNCTUATION))):
        with contextlib.suppress(ValueError):
            values = np.fromstring(plain, kind, sep=" ")
            whole = (values >= 0) & (values <= 255) & (np.floor(values) == values)
            if len(values) == PIXELS and whole.all():
                return values.astype(np.uint8).tobytes()
    count = len(text.translate(PUNCTUATION).split())
    if count != PIXELS:
        raise ValueError(f"{count:,} pixels instead of {PIXELS:,}")
    raise ValueError("a pixel is no whole number from 0 to 255")


# ---- Parquet -----------------------------------------------------------------------------------


def find_parquet(tree: files.Tree, names: Sequence[str], options: ReadOptions) -> Found | None:
    """Every row of {image: {bytes}, label}; the split is what a file's name tells."""
    tables = [name for name in names if name.lower().endswith(".parquet")]
    if not tables:
        return None
    found, cells = [], dict[str, Any]()
    for name in tables:
        role, rows = role_of(name) or "train", _parquet_rows(tree, name)
        for i, (given, cell) in enumerate(rows):
            key = f"{name}/{row_key(i, len(rows) - 1)}"
            cells[key] = cell.get("bytes") if isinstance(cell, dict) else cell
            found.append((Entry(key, role, -1, key, -1), given))
    listing = labelled("Parquet", found, options.classes(), ignored={*names} - {*tables})
    return listing, partial(_parquet_image, cells, options.max_pixels)


def _parquet_rows(tree: files.Tree, name: str) -> list[tuple[str, Any]]:
    """(label, encoded image) of each row; numbers by their name where the file tells it."""
    parquet = optional("pyarrow.parquet", "parquet", name)
    try:
        with files.opened(tree, name) as stream, parquet.ParquetFile(stream) as file:
            columns, metadata = file.schema_arrow.names, file.schema_arrow.metadata or {}
            column = next((name for name in PARQUET_LABELS if name in columns), None)
            if column is None or "image" not in columns:
                has = ", ".join(columns)
                raise UserError(f"{name} needs columns image and label, it has {has}")
            # In batches: Arrow cannot hold more than 2 GiB of such cells together.
            batches = file.iter_batches(BATCH, columns=[column, "image"])
            rows = [(row[column], row["image"]) for batch in batches for row in batch.to_pylist()]
    except (KeyError, TypeError) as error:  # Arrow's own derive from these, or from files.BROKEN
        raise UserError(f"cannot read {name}: {one_line(error)}") from None

    known: Sequence[str] = ()
    # as `datasets` writes them
    with contextlib.suppress(KeyError, ValueError, TypeError, RecursionError):
        known = json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"]
    return [
        (str(known[label] if label in range(len(known)) else label), cell) for label, cell in rows
    ]


def _parquet_image(cells: Mapping[str, Any], max_pixels: int, ref: str) -> np.ndarray:
    """Ref `"data/train.parquet/00017"` -> uint8 [H, W, C]."""
    if not isinstance(cells[ref], bytes):
        raise UnreadableImage("the row holds no image's bytes")
    return images.decode(cells[ref], max_pixels)
