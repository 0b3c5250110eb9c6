"""fer2013.csv and its relatives: rows of 2,304 pixels -> entries and their pixels."""

import codecs
import csv
import io
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from fer_jax.data.files import printable
from fer_jax.data.layouts import ROLE_NAMES, labelled, role_of, row_key
from fer_jax.data.records import Entry, Listing, ReadOptions
from fer_jax.errors import UserError
from fer_jax.labels import FER2013_CSV_ORDER

SIDE = 48
PIXELS = SIDE * SIDE
LINE_LIMIT = 64 * 1024  # characters; a row of floats needs 2,304 * 26
VALUE_LIMIT = 128 * 1024  # characters of a quoted value, as the csv module has it
SEPARATORS = ",;\t|"
LABEL_NAMES, USAGE_NAMES = ("emotion", "label"), ("usage", "split")
PUNCTUATION = str.maketrans("[](),;", "      ")  # of lists, within a value


@dataclass(frozen=True)
class Header:
    """How a file is parted, and where it has its columns; None for those it lacks."""

    separator: str
    emotion: int | None
    usage: int | None
    pixels: tuple[int, ...]
    """One column of all pixels, or 2,304 in the pixels' order."""


@dataclass(frozen=True)
class Row:
    """One row, its class as the file writes it."""

    role: str
    emotion: str
    pixels: bytes


@dataclass(frozen=True)
class CsvPixels:
    """Ref `"row 12"` -> that row's pixels uint8 [48, 48, 1]; holds every row in memory."""

    rows: dict[str, bytes]

    def __call__(self, ref: str) -> np.ndarray:
        """uint8 [48, 48, 1], read-only."""
        return np.frombuffer(self.rows[ref], np.uint8).reshape(SIDE, SIDE, 1)


def parse_header(line: str) -> Header | None:
    """`"emotion, Usage, pixels"` -> columns, blanks and case apart; None if it is another file.

    The separator is the one that makes columns of it; csv.Sniffer is misled by the pixels' blanks.
    """
    for separator in SEPARATORS:
        names = [cell.strip().lower() for cell in next(csv.reader([line], delimiter=separator), [])]
        column = {name: i for i, name in reversed(list(enumerate(names)))}
        emotion = next((column[name] for name in LABEL_NAMES if name in column), None)
        usage = next((column[name] for name in USAGE_NAMES if name in column), None)
        if "pixels" in column:
            return Header(separator, emotion, usage, (column["pixels"],))
        numbered = {
            int(found[1]): i
            for i, name in enumerate(names)
            if (found := re.fullmatch(r"pixel[ _]?(\d{1,4})", name, re.ASCII))
        }
        if numbered:
            return Header(separator, emotion, usage, tuple(numbered[i] for i in sorted(numbered)))
    return None


def sniff(stream: BinaryIO) -> Header | None:
    """The header with which a file begins, if it is one of this kind."""
    with _text(stream) as text:
        return parse_header(text.readline(LINE_LIMIT))


def read_csv(
    stream: BinaryIO, name: str, options: ReadOptions, alone: bool = True
) -> tuple[Listing, CsvPixels]:
    """Every row as an entry (key and row: its index, header not counted) and its pixels.

    Of a file that is not `alone` rows are no rows of fer2013.csv: refs and keys bear its name.
    UserError where the header lacks a column or the numbers of the classes are ambiguous.
    """
    role, before = role_of(printable(name)) or "train", "" if alone else name
    with _text(stream) as text:
        header = _checked_header(text.readline(LINE_LIMIT))
        rows = tqdm(_lines(text), desc=f"reading {name}", unit="row", disable=None, leave=False)
        parsed = list(_parsed(iter(rows), lambda row: parse_row(row, header, role)))
    if not parsed:
        raise UserError("it has a header and no rows")

    found, stray = [], []
    pixels: dict[str, bytes] = {}
    for i, row in enumerate(parsed):
        ref, key = f"{before} row {i}".strip(), row_key(i, len(parsed) - 1)
        if isinstance(row, str):
            stray.append((ref, row))
            continue
        entry = Entry(ref, row.role, -1, key if alone else f"{before}/{key}", i if alone else -1)
        found.append((entry, row.emotion))
        pixels[ref] = row.pixels
    return labelled(name, found, options.classes(FER2013_CSV_ORDER), stray), CsvPixels(pixels)


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
        role = _role(cells[header.usage].strip())
    return Row(
        role, cells[header.emotion].strip(), _pixels(" ".join([cells[i] for i in header.pixels]))
    )


def _checked_header(line: str) -> Header:
    header = parse_header(line)
    if header is None or header.emotion is None:
        wanted = "emotion (or label), pixels (or pixel0, pixel1, ...) and Usage"
        shown = f"it has {line.strip()[:80]!r}" if line else "the file is empty"
        raise UserError(f"the first line must name columns {wanted}: {shown}")
    if len(header.pixels) not in (1, PIXELS):
        raise UserError(f"it has {len(header.pixels):,} of the {PIXELS:,} columns of pixels")
    return header


def _text(stream: BinaryIO) -> io.TextIOWrapper:
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
    """Lines that are not blank; of one beyond the limit only its start, lest it fill the memory."""
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

    while first := following():
        block, quotes, size = [first], first.count('"'), len(first)
        while quotes % 2 and size < VALUE_LIMIT and (line := following()):
            block.append(line)
            quotes, size = quotes + line.count('"'), size + len(line)
        row = _row_or_reason("".join(block), parse)
        if isinstance(row, str) and len(block) > 1:
            waiting.extendleft(reversed(block[1:]))
            row = _row_or_reason(first, parse)
        yield row


def _row_or_reason(text: str, parse: Callable[[str], Row]) -> Row | str:
    try:
        return parse(text)
    except ValueError as error:
        return str(error)


def _role(usage: str) -> str:
    role = ROLE_NAMES.get(usage.lower())
    if role is None:
        known = "Training, PublicTest, PrivateTest, train, val, test"
        raise ValueError(f"Usage {usage[:40]!r} is none of {known}")
    return role


def _pixels(text: str) -> bytes:
    """2,304 numbers; ValueError names the first that is no whole number from 0 to 255."""
    for kind, plain in ((np.int64, text), (np.float64, text.translate(PUNCTUATION))):
        try:
            values = np.fromstring(plain, kind, sep=" ")
        except ValueError:
            continue
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
