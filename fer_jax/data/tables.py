"""Tables of images: fer2013.csv and its relatives, a row of pixels each; Hugging Face's Parquet."""

import codecs
import contextlib
import csv
import io
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, NamedTuple

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
VALUE_LIMIT = 128 * 1024  # characters of a quoted value, as the csv module has it
SEPARATORS = ",;\t|"
CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")  # read alone, whatever else lies there
LABEL_NAMES, USAGE_NAMES = ("emotion", "label"), ("usage", "split")
PARQUET_LABELS = ("label", "labels", "emotion", "expression")
PUNCTUATION = str.maketrans("[](),;", "      ")  # of lists, within a value


# ---- CSV ---------------------------------------------------------------------------------------


class Header(NamedTuple):
    """How a file is parted, and where it has its columns; None for those it lacks."""

    separator: str
    emotion: int | None
    usage: int | None
    pixels: tuple[int, ...]  # one column of all, or 2,304 in the pixels' order


class Row(NamedTuple):
    """One row, its class as the file writes it."""

    role: str
    emotion: str
    pixels: bytes


def find_csv(tree: files.Tree, names: Sequence[str], options: ReadOptions) -> Found | None:
    """fer2013.csv, else icml_face_data.csv, else other CSV of such a kind, a split each.

    UserError where a header lacks a column or the numbers of the classes are ambiguous.
    """
    tables = [name for name in names if name.lower().endswith(".csv")]
    bases = {name: printable(name).rsplit("/", 1)[-1] for name in tables}
    fitting = [name for known in CSV_NAMES for name in tables if bases[name].lower() == known][:1]
    notes: list[str] = []
    if names == tables[:1]:
        fitting = tables  # the only file: what is wrong with it is to be said
    for name in tables if not fitting else ():
        with files.opened(tree, name) as stream, _text(stream) as text:
            header = parse_header(text.readline(LINE_LIMIT))
        if header and header.emotion is None:
            notes.append(f"{printable(name)} has no labels: it is not read")
        elif header:
            fitting = [*fitting, name]
    if notes and not fitting:
        raise UserError(notes[0])
    if len({role_of(bases[name]) for name in fitting} - {None}) < len(fitting) > 1:
        raise UserError(f"{', '.join(fitting[:3])} all fit: give the path of one")
    if not fitting:
        return None

    found: list[tuple[Entry, str]] = []
    stray: list[tuple[str, str]] = []
    pixels: dict[str, bytes] = {}
    for name in fitting:
        # Rows of several files are no rows of fer2013.csv: refs and keys bear the file's name.
        alone, base = len(fitting) == 1, bases[name]
        with files.opened(tree, name) as stream:
            rows = _rows(stream, base)
        for i, row in enumerate(rows):
            ref, key = f"row {i}" if alone else f"{base} row {i}", row_key(i, len(rows) - 1)
            if isinstance(row, str):
                stray.append((ref, row))
                continue
            key, number = (key, i) if alone else (f"{base}/{key}", -1)
            found.append((Entry(ref, row.role, -1, key, number), row.emotion))
            pixels[ref] = row.pixels
    layout, ignored = " and ".join(bases[name] for name in fitting), {*names} - {*fitting}
    classes = options.classes(FER2013_CSV_ORDER)
    return labelled(layout, found, classes, stray, ignored, notes), partial(_csv_image, pixels)


def _csv_image(rows: Mapping[str, bytes], ref: str) -> np.ndarray:
    """Ref `"row 12"` -> uint8 [48, 48, 1], read-only."""
    return np.frombuffer(rows[ref], np.uint8).reshape(SIDE, SIDE, 1)


def parse_header(line: str) -> Header | None:
    """`"emotion, Usage, pixels"` -> columns, blanks and case apart; None if it is another file.

    The separator is the one that makes columns of it; csv.Sniffer is misled by the pixels' blanks.
    """
    for separator in SEPARATORS:
        names = [cell.strip().lower() for cell in next(csv.reader([line], delimiter=separator), [])]
        column = {name: i for i, name in reversed(list(enumerate(names)))}
        numbers = {name: re.fullmatch(r"pixel[ _]?(\d{1,4})", name, re.ASCII) for name in names}
        numbered = sorted((int(found[1]), column[name]) for name, found in numbers.items() if found)
        pixels = [column["pixels"]] if "pixels" in column else [i for _, i in numbered]
        if pixels:
            emotion, usage = (
                next((column[name] for name in wanted if name in column), None)
                for wanted in (LABEL_NAMES, USAGE_NAMES)
            )
            return Header(separator, emotion, usage, tuple(pixels))
    return None


def parse_row(text: str, header: Header, role: str) -> Row:
    """One row, maybe of several lines; ValueError says what is wrong with it.

    `role` is that of a file without a column for it.
    """
    try:
        cells = next(csv.reader([text], delimiter=header.separator), [])
    except csv.Error as error:
        raise ValueError(str(error)) from None
    assert header.emotion is not None
    needed = max(header.emotion, header.usage or 0, *header.pixels) + 1
    if len(cells) < needed:
        raise ValueError(f"{len(cells)} columns instead of {needed}")
    if header.usage is not None:
        usage = cells[header.usage].strip()
        if usage.lower() not in ROLE_NAMES:
            known = "Training, PublicTest, PrivateTest, train, val, test"
            raise ValueError(f"Usage {usage[:40]!r} is none of {known}")
        role = ROLE_NAMES[usage.lower()]
    pixels = _pixels(" ".join([cells[i] for i in header.pixels]))
    return Row(role, cells[header.emotion].strip(), pixels)


def _rows(stream: IO[bytes], name: str) -> list[Row | str]:
    """Every row, the header not counted, or the reason why it is none."""
    role = role_of(name) or "train"
    with _text(stream) as text:
        line = text.readline(LINE_LIMIT)
        header = parse_header(line)
        if header is None or header.emotion is None:
            wanted = "emotion (or label), pixels (or pixel0, pixel1, ...) and Usage"
            shown = f"it has {line.strip()[:80]!r}" if line else "the file is empty"
            raise UserError(f"the first line must name columns {wanted}: {shown}")
        if len(header.pixels) not in (1, PIXELS):
            raise UserError(f"it has {len(header.pixels):,} of the {PIXELS:,} columns of pixels")
        lines = tqdm(_lines(text), desc=f"reading {name}", unit="row", disable=None, leave=False)
        rows = list(_parsed(iter(lines), lambda row: parse_row(row, header, role)))
    if not rows:
        raise UserError("it has a header and no rows")
    return rows


def _text(stream: IO[bytes]) -> io.TextIOWrapper:
    """UTF-8, or UTF-16 as spreadsheets and PowerShell write it; what matters is ASCII."""
    start = stream.read(4)
    stream.seek(0)
    encoding = "utf-8-sig"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in start:
        encoding = "utf-16-be" if start.startswith(b"\0") else "utf-16-le"
    return io.TextIOWrapper(stream, encoding, "replace", newline=None)


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Lines that are not blank; of one beyond the limit only its start: it may have no end."""
    for line in iter(lambda: text.readline(LINE_LIMIT), ""):
        rest = line
        while rest and not rest.endswith("\n"):
            rest = text.readline(LINE_LIMIT)
        if line.strip():
            yield line


def _parsed(lines: Iterator[str], parse: Callable[[str], Row]) -> Iterator[Row | str]:
    """Each row, or the reason why it is none. A quoted value may span lines.

    Where that makes no row, a quotation mark is astray: it costs its own line, not those behind it.
    The csv module alone would take them all for one row, and number the rest wrongly.
    """
    waiting: deque[str] = deque()

    def following() -> str:
        return waiting.popleft() if waiting else next(lines, "")

    def attempt(text: str) -> Row | str:
        try:
            return parse(text)
        except ValueError as error:
            return str(error)

    while first := following():
        block, quotes, size = [first], first.count('"'), len(first)
        while quotes % 2 and size < VALUE_LIMIT and (line := following()):
            block.append(line)
            quotes, size = quotes + line.count('"'), size + len(line)
        row = attempt("".join(block))
        if isinstance(row, str) and len(block) > 1:
            waiting.extendleft(reversed(block[1:]))
            row = attempt(first)
        yield row


def _pixels(text: str) -> bytes:
    """2,304 numbers; ValueError names the first that is no whole number from 0 to 255."""
    for kind, plain in ((np.int64, text), (np.float64, text.translate(PUNCTUATION))):
        with contextlib.suppress(ValueError):
            values = np.fromstring(plain, kind, sep=" ")
            whole = (values >= 0) & (values <= 255) & (np.floor(values) == values)
            if len(values) == PIXELS and whole.all():
                return values.astype(np.uint8).tobytes()
    given = text.translate(PUNCTUATION).split()
    if len(given) != PIXELS:
        raise ValueError(f"{len(given):,} pixels instead of {PIXELS:,}")
    wrong = next((i for i, value in enumerate(given) if not _is_pixel(value)), 0)
    raise ValueError(f"pixel {wrong} is {given[wrong][:20]!r}, not 0..255")


def _is_pixel(value: str) -> bool:
    try:
        return float(value) in range(256)
    except ValueError:
        return False


# ---- Parquet -----------------------------------------------------------------------------------


def find_parquet(tree: files.Tree, names: Sequence[str], options: ReadOptions) -> Found | None:
    """Every row of {image: {bytes}, label}; the split is what a file's name tells."""
    tables = [name for name in names if name.lower().endswith(".parquet")]
    if not tables:
        return None
    if tree.kind != "folder":
        raise UserError(f"Parquet is not read within a {tree.kind}: unpack it")
    found = []
    for name in tables:
        role, rows = role_of(name) or "train", _parquet_labels(tree.path / name)
        for i, (place, label) in enumerate(rows):
            key = f"{name}/{row_key(i, len(rows) - 1)}"
            found.append((Entry(f"{name} {place}", role, -1, key, -1), label))
    listing = labelled("Parquet", found, options.classes(), ignored={*names} - {*tables})
    return listing, partial(_parquet_image, tree.path, options.max_pixels)


def _parquet_image(path: Path, max_pixels: int, ref: str) -> np.ndarray:
    """Ref `"data/train.parquet 3 17"` (row group, row in it) -> uint8 [H, W, C]."""
    name, group, row = ref.rsplit(" ", 2)
    try:
        cell = _encoded(path / name, int(group))[int(row)]
    except (OSError, ValueError) as error:
        raise UnreadableImage(one_line(error)) from error
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise UnreadableImage("the row holds no image's bytes")
    return images.decode(data, max_pixels)


def _parquet_labels(path: Path) -> list[tuple[str, str]]:
    """("GROUP ROW", label) of each row; numbers by their name where the file tells it."""
    try:
        file = _open_parquet(path)
        columns, metadata = file.schema_arrow.names, file.schema_arrow.metadata or {}
        column = next((name for name in PARQUET_LABELS if name in columns), None)
        if column is None or "image" not in columns:
            given = ", ".join(columns)
            raise UserError(f"{path} needs columns image and label, it has {given}")
        names: Sequence[str] = ()
        with contextlib.suppress(
            KeyError, ValueError, TypeError, RecursionError
        ):  # as `datasets` writes them
            names = json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"]
        return [
            (f"{group} {row}", str(names[label] if label in range(len(names)) else label))
            for group in range(file.num_row_groups)
            for row, label in enumerate(file.read_row_group(group, [column])[column].to_pylist())
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:  # Arrow's own derive from these
        raise UserError(f"cannot read {path}: {one_line(error)}") from None


@lru_cache(4)
def _encoded(path: Path, group: int) -> list[Any]:
    """The encoded images of one row group: some hundred, as a rule."""
    return _open_parquet(path).read_row_group(group, ["image"])["image"].to_pylist()


def _open_parquet(path: Path) -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(f"{path} needs pyarrow: pip install 'fer_jax[parquet]'") from None
    return parquet.ParquetFile(path)
