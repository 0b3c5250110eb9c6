"""FER+'s votes are read by column and joined by row."""

import numpy as np
import pytest
from made_data import make_rows

from fer_jax.data import sidecars
from fer_jax.errors import UserError
from fer_jax.labels import LABELS

ROWS = make_rows(84)
HEAD = ("Usage", "Image name", *sidecars.COLUMNS)
OWN = dict(
    zip(
        LABELS,
        ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
        strict=True,
    )
)


def ballot(name: str, **counts: int) -> list[str]:
    """One line: six votes for the class `name` unless `counts` say otherwise."""
    counts = counts or {OWN[name]: 6, "contempt": 2, "unknown": 2}
    return ["Training", "", *(str(counts.get(column, 0)) for column in sidecars.COLUMNS)]


def write(path, lines, head=HEAD):
    path.write_text("".join(",".join(line) + "\n" for line in [head, *lines]))
    return str(path)


def test_columns_are_found_by_name(tmp_path):
    lines = [ballot(name) for _, name, _ in ROWS]
    plain = sidecars.read_votes(write(tmp_path / "fer2013new.csv", lines))
    backwards = [list(reversed(line)) for line in lines]
    path = write(tmp_path / "votes.csv", backwards, tuple(reversed(HEAD)))
    np.testing.assert_array_equal(sidecars.read_votes(path), plain)
    most = plain[:, sidecars.CLASSES].argmax(axis=1)
    assert [LABELS[i] for i in most] == [name for _, name, _ in ROWS]


def test_votes_are_joined_by_row(tmp_path):
    votes = sidecars.read_votes(write(tmp_path / "a.csv", [ballot(name) for _, name, _ in ROWS]))
    joined = sidecars.join_votes(votes, np.array([5, -1, 0]))
    np.testing.assert_array_equal(joined, [votes[5], np.zeros(10), votes[0]])


def test_refusals(tmp_path):
    lines = [ballot(name) for _, name, _ in ROWS]
    votes = sidecars.read_votes(write(tmp_path / "short.csv", lines[:-1]))
    with pytest.raises(UserError, match="has 83 rows and the data a row 83"):
        sidecars.join_votes(votes, np.arange(84))
    with pytest.raises(UserError, match="lacks the column 'NF'"):
        sidecars.read_votes(write(tmp_path / "cut.csv", [line[:-1] for line in lines], HEAD[:-1]))
    for vote in ("many", "9" * 30, "-3"):
        lines[2][3] = vote
        with pytest.raises(UserError, match="row 2: "):
            sidecars.read_votes(write(tmp_path / "words.csv", lines))
    with pytest.raises(UserError, match="cannot read --ferplus"):
        sidecars.read_votes(str(tmp_path / "nothing.csv"))
