"""fer2013.csv and its variants: rows come back, and a bad one is named."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from made_data import (
    SKIP,
    csv_text,
    make_rows,
    opened,
    refused,
    summary,
    write_folder,
)

from fer_jax.data import tables
from fer_jax.labels import FER2013_CSV_ORDER

ROWS = make_rows()
BLACK = " ".join(["0"] * 2304)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"0,{BLACK[:-2]},Training", "2,303 pixels instead of 2,304"),
        (f"0,{BLACK} 0,Training", "2,305 pixels"),
        (f"0,{BLACK[:-1]}256,Training", "a pixel is no whole number from 0 to 255"),
        (f"0,-1{BLACK[1:]},Training", "a pixel is no whole number"),
        (f"0,1.5{BLACK[1:]},Training", "a pixel is no whole number"),
        (f"0,{BLACK},Exam", "Usage 'Exam' is none of"),
        (f"7,{BLACK},Training", "class 7 is outside 0..6"),
        (f"-1,{BLACK},Training", "unknown class '-1'"),
        (f",{BLACK},Training", "unknown class ''"),
        ("0,1 2 3", "it has no column usage"),
    ],
)
def test_a_bad_row_is_named(tmp_path, line, reason):
    lines = csv_text(ROWS).splitlines()
    lines.insert(6, line)
    path = write_folder(tmp_path, {"fer2013.csv": "\n".join(lines).encode()}) / "fer2013.csv"
    message = refused(path)
    assert "cannot read 1 image (row 5: " in message
    assert reason in message
    skipped = opened(path, SKIP)
    assert skipped.unreadable[0][0] == "row 5"
    assert sum(len(records) for records in skipped.roles.values()) == len(ROWS)
    assert 5 not in skipped.roles["train"].rows
    assert skipped.roles["train"].rows[5] == 6


def parsed(line):
    """What `line` is read as, behind a header."""
    return list(tables._rows(io.StringIO(f"emotion,pixels,Usage\n{line}"), "x.csv"))


@given(nps.arrays(np.uint8, 2304), st.sampled_from([" ", "  "]))
@settings(max_examples=30, deadline=None)
def test_any_pixels_come_back(values, gap):
    (row,) = parsed(f"6,{gap.join(map(str, values))},PrivateTest")
    assert row[:2] == ("test", "6")
    np.testing.assert_array_equal(np.frombuffer(row[2], np.uint8), values)


@given(st.text("0123456789 -.,\"'\x00e", max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_line_gives_a_row_or_a_reason(text):
    (row,) = parsed(f"0,{BLACK[: -2 * 10]}{text},Training")
    assert row if isinstance(row, str) else len(row[2]) == 2304


def test_csv_oddities(tmp_path):
    """A byte-order mark, Windows line ends, blank lines, quotes, class names for numbers."""
    lines = csv_text(ROWS).splitlines()
    number, pixels, usage = lines[1].split(",")
    lines[1] = f'"{FER2013_CSV_ORDER[int(number)]}", "{pixels}" ,"{usage.upper()}"'
    lines[1] = lines[1].replace(', "', ',"').replace('" ,', '",')
    text = "\ufeff" + "\r\n".join([*lines, "", "  ", ""])
    odd = write_folder(tmp_path / "a", {"x.csv": text.encode()})
    plain = write_folder(tmp_path / "b", {"x.csv": csv_text(ROWS).encode()})
    assert summary(opened(odd)) == summary(opened(plain))


def test_a_csv_without_usage_is_training(tmp_path):
    rows = make_rows(70, ("train",))
    text = "\n".join(line.removesuffix(",Training").removesuffix(",Usage")
                     for line in csv_text(rows).splitlines())  # fmt: skip
    dataset = opened(write_folder(tmp_path, {"train.csv": text.encode()}))
    assert list(dataset.roles) == ["train", "validation"]


def test_a_csv_without_labels(tmp_path):
    (tmp_path / "test.csv").write_text("pixels\n0 0 0\n")
    assert "must name columns emotion" in refused(tmp_path / "test.csv")
    assert "must name columns emotion" in refused(tmp_path)


def test_a_csv_of_no_rows(tmp_path):
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n")
    assert "has a header and no rows" in refused(tmp_path)


def test_an_endless_line_is_refused(tmp_path):
    lines = csv_text(ROWS).splitlines()
    lines.insert(3, "0," + "1 " * 10**6 + ",Training")
    (tmp_path / "fer2013.csv").write_text("\n".join(lines))
    assert "a line of 65,536 characters or more" in refused(tmp_path, SKIP)
