"""FER+'s votes are joined by row, and tell what is no face and which names are exchanged."""

from dataclasses import replace

import numpy as np
import pytest
from made_data import SKIP, csv_text, make_rows, opened

from fer_jax.auditing.conventions import judge
from fer_jax.auditing.copies import gather
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


@pytest.fixture
def pool(tmp_path):
    (tmp_path / "fer2013.csv").write_text(csv_text(ROWS))
    return gather(opened(tmp_path / "fer2013.csv", SKIP))


@pytest.fixture
def ferplus(tmp_path):
    lines = [ballot(name) for _, name, _ in ROWS]
    lines[3] = ballot("", NF=6, neutral=4)
    lines[4] = ballot("", NF=5, neutral=5)
    return write(tmp_path / "fer2013new.csv", lines)


def test_columns_are_found_by_name(pool, tmp_path):
    backwards = [list(reversed(ballot(name))) for _, name, _ in ROWS]
    path = write(tmp_path / "votes.csv", backwards, tuple(reversed(HEAD)))
    no_face, facts = judge(sidecars.read_votes(path), pool)
    assert facts["images"] == facts["judged"] == facts["label_among_most_voted"] == len(ROWS)
    assert not no_face.any()


def test_no_face_is_a_majority(pool, ferplus):
    no_face, _ = judge(sidecars.read_votes(ferplus), pool)
    assert [int(pool.rows[i]) for i in np.flatnonzero(no_face)] == [3]


def test_exchanged_names_show_in_the_split_where_they_are(pool, ferplus):
    labels = pool.labels.copy()
    validation = pool.within("validation")
    labels[validation & (pool.labels == 3)] = 5
    labels[validation & (pool.labels == 5)] = 3
    _, facts = judge(sidecars.read_votes(ferplus), replace(pool, labels=labels))
    assert facts["names"]["validation"] is None  # four images of a class are too few to say
    _, facts = judge(sidecars.read_votes(ferplus), gather_twice(replace(pool, labels=labels)))
    assert facts["names"]["validation"]["exchanged"]
    assert facts["names"]["validation"]["looks_like"] == {"happy": "sad", "sad": "happy"}
    assert facts["names"]["train"]["looks_like"] == {}


def gather_twice(pool):
    """Every image two times."""
    return replace(
        pool,
        images=np.repeat(pool.images, 2, axis=0),
        splits=tuple(np.repeat(pool.splits, 2).tolist()),
        keys=tuple(np.repeat(pool.keys, 2).tolist()),
        labels=np.repeat(pool.labels, 2),
        rows=np.repeat(pool.rows, 2),
        copies=np.repeat(pool.copies, 2),
    )


def test_unknown_rows_are_not_joined(pool, ferplus):
    unknown = replace(pool, rows=np.full(len(pool), -1, np.int32))
    no_face, facts = judge(sidecars.read_votes(ferplus), unknown)
    assert facts["images"] == 0
    assert not no_face.any()
    assert not any(facts["names"].values())


def test_refusals(pool, tmp_path):
    lines = [ballot(name) for _, name, _ in ROWS]
    with pytest.raises(UserError, match="has 83 rows and the data a row 83"):
        judge(sidecars.read_votes(write(tmp_path / "short.csv", lines[:-1])), pool)
    with pytest.raises(UserError, match="lacks the column 'NF'"):
        sidecars.read_votes(write(tmp_path / "cut.csv", [line[:-1] for line in lines], HEAD[:-1]))
    for vote in ("many", "9" * 30):
        lines[2][3] = vote
        with pytest.raises(UserError, match="line 4: a vote is no whole number"):
            sidecars.read_votes(write(tmp_path / "words.csv", lines))
    with pytest.raises(UserError, match="cannot read --ferplus"):
        sidecars.read_votes(str(tmp_path / "nothing.csv"))
