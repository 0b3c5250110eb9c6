"""Tables of images: fer2013.csv and its relatives, a row of pixels each; Hugging Face's Parquet."""

import codecs
import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from fer_jax.data import files, images
from fer_jax.data.images import UnreadableImage
from fer_jax.data.layouts import ROLE_NAMES, labelled, role_of, row_key
from fer_jax.data.records import Entry, Found, ReadOptions
from fer_jax.errors import UserError, one_line, printable
from fer_jax.labels import FER2013_CSV_ORDER

SIDE = 48
PIXELS = SIDE * SIDE
LINE_LIMIT = 64 * 1024  # characters; a row of floats needs 2,304 * 26
SEPARATORS = ",;\t|"
CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")  # read alone, whatever else lies there
LABEL_NAMES, USAGE_NAMES = ("emotion", "label"), ("usage", "split")
PARQUET_LABELS = ("label", "labels", "emotion", "expression")
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
    found, places = [], dict[str, Path]()
    for name in tables:
        places[name] = tree.path / name
        if tree.kind != "folder":
            places[name] = files.unpack(tree, [name]) / PurePosixPath(name).name
        role, rows = role_of(name) or "train", _parquet_labels(places[name], name)
        for i, (place, label) in enumerate(rows):
            key = f"{name}/{row_key(i, len(rows) - 1)}"
            found.append((Entry(f"{name} {place}", role, -1, key, -1), label))
    listing = labelled("Parquet", found, options.classes(), ignored={*names} - {*tables})
    return listing, partial(_parquet_image, places, options.max_pixels)


def _parquet_labels(path: Path, name: str) -> list[tuple[str, str]]:
    """("GROUP ROW", label) of each row; numbers by their name where the file tells it."""
    try:
        file = _open_parquet(path, name)
        columns, metadata = file.schema_arrow.names, file.schema_arrow.metadata or {}
        column = next((name for name in PARQUET_LABELS if name in columns), None)
        if column is None or "image" not in columns:
            raise UserError(f"{name} needs columns image and label, it has {', '.join(columns)}")
        known: Sequence[str] = ()
        # as `datasets` writes them
        with contextlib.suppress(KeyError, ValueError, TypeError, RecursionError):
            known = json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"]
        return [
            (f"{group} {row}", str(known[label] if label in range(len(known)) else label))
            for group in range(file.num_row_groups)
            for row, label in enumerate(file.read_row_group(group, [column])[column].to_pylist())
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:  # Arrow's own derive from these
        raise UserError(f"cannot read {name}: {one_line(error)}") from None


def _parquet_image(places: Mapping[str, Path], max_pixels: int, ref: str) -> np.ndarray:
    """Ref `"data/train.parquet 3 17"` (row group, row in it) -> uint8 [H, W, C]."""
    name, group, row = ref.rsplit(" ", 2)
    try:
        cell = _encoded(places[name], int(group))[int(row)]
    except (OSError, ValueError) as error:
        raise UnreadableImage(one_line(error)) from error
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise UnreadableImage("the row holds no image's bytes")
    return images.decode(data, max_pixels)


@lru_cache(4)
def _encoded(path: Path, group: int) -> list[Any]:
    """The encoded images of one row group: some hundred, as a rule."""
    file = _open_parquet(path, str(path))
    return file.read_row_group(group, ["image"])["image"].to_pylist()


def _open_parquet(path: Path, name: str) -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(f"{name} needs pyarrow: pip install 'fer_jax[parquet]'") from None
    return parquet.ParquetFile(path)
