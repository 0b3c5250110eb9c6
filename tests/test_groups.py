"""Figures by metadata: every image in its group, the gap as planted, mistakes in one line."""

import json

import numpy as np
import pytest
from support import call, read_data, unpadded

from fer_jax.errors import UserError
from fer_jax.evaluation import groups
from fer_jax.evaluation.calibration import calibration_error, reliability
from fer_jax.evaluation.predictions import Predictions


def planted(right: list[bool], sure: float = 0.6) -> Predictions:
    """Answers of class 0 with that probability, which is the label where `right`."""
    probabilities = np.full((len(right), 7), (1 - sure) / 6, np.float32)
    probabilities[:, 0] = sure
    labels = np.where(right, 0, 1).astype(np.int32)
    keys = tuple(map(str, range(len(right))))
    return Predictions(keys, labels, probabilities, np.zeros(len(right), np.float32))


def test_counts_add_up_and_the_gap_is_as_planted():
    values = ["a"] * 40 + ["b"] * 50 + ["rare"] * 5 + [""] * 5
    right = [True] * 30 + [False] * 10 + [True] * 10 + [False] * 40 + [True] * 10
    found = groups.measure({"light": values}, planted(right), 1000)["light"]
    assert [(row["group"], row["n"]) for row in found["groups"]] == [
        ("a", 40),
        ("b", 50),
        ("rare", 5),
    ]
    assert sum(row["n"] for row in found["groups"]) + found["without_value"] == len(right)
    assert [row["accuracy"] for row in found["groups"]] == [0.75, 0.2, 1.0]
    errors = [row["expected_calibration_error"] for row in found["groups"]]
    assert errors == pytest.approx([0.15, 0.4, 0.4], abs=1e-6)
    for row in found["groups"][:2]:
        low, high = row["accuracy_95_interval"]
        assert low < row["accuracy"] < high

    gap = found["gap"]  # the five all right are too few
    assert (gap["best"], gap["worst"], gap["accuracy"]) == ("a", "b", pytest.approx(0.55))
    assert 0.1 < gap["by_chance"] < 0.3
    text = groups.markdown({"calibration": 1, "groups": {"light": found}})
    assert "Largest gap: 55.0 points, a against b" in text
    assert "Left out of it, with fewer than 30 images: rare. Without a value: 5 images." in text


def test_by_chance_is_what_equal_groups_show():
    """Of 100 splits of alike images at random, about one in twenty has a larger gap."""
    draw, beyond = np.random.default_rng(0), 0
    for _ in range(100):
        answers = planted(list(draw.random(240) < 0.7))
        values = list(draw.choice(["a", "b", "c"], 240))
        gap = groups.measure({"x": values}, answers, 400)["x"]["gap"]
        beyond += gap["accuracy"] > gap["by_chance"]
    assert 1 <= beyond <= 14


def test_one_group_alone_has_no_gap():
    found = groups.measure({"x": ["a"] * 40}, planted([True] * 40), 100)
    assert found["x"]["gap"] is None
    assert "gap" not in groups.markdown({"calibration": 1, "groups": found})


def test_many_numbers_are_cut_into_quarters():
    values = [f"{number / 10}" for number in range(100)] + [""]
    found = groups.grouped(list(reversed(values)))
    assert [int(inside.sum()) for inside in found.values()] == [25] * 4
    assert next(iter(found)) == "quarter 1 (0 to 2.5)"
    assert not sum(found.values())[0]  # the empty one
    np.testing.assert_array_equal(np.flatnonzero(found["quarter 1 (0 to 2.5)"]), range(76, 101))


@pytest.mark.parametrize("many", [0, 50, 90])
def test_tied_numbers_are_each_in_one_group(many):
    values = ["0"] * many + [str(number) for number in range(30)]
    found = groups.grouped(values)
    np.testing.assert_array_equal(sum(map(np.ndarray.astype, found.values(), [int] * 9)), 1)


def test_a_quarter_between_two_tied_numbers_is_not_empty():
    """Of ages with many tens the first quarter may end between 4 and 10."""
    values = [*"01234", *["10"] * 6, *map(str, range(11, 20))]
    found = groups.measure({"age": values}, planted([True] * 20), 100)["age"]
    assert sum(row["n"] for row in found["groups"]) == 20


def test_few_numbers_and_texts_are_groups_of_their_own():
    assert list(groups.grouped(["10", "2", "2", "10"])) == ["2", "10"]
    assert list(groups.grouped([f"{i}" for i in range(20)] + ["old"]))[-1] == "old"
    assert len(groups.grouped([f"{i}" for i in range(20)] + ["inf"])) == 21  # no quarters of it


@pytest.fixture(scope="module")
def data(small_csv):
    return read_data(small_csv)


def table(tmp_path, lines) -> str:
    path = tmp_path / "metadata.csv"
    path.write_text("\n".join(lines) + "\n" * bool(lines))
    return str(path)


@pytest.mark.parametrize("by", ["key", "row", "file"])
def test_images_are_named_by_key_row_or_file(data, tmp_path, by):
    records = data.split("validation")
    called = {
        "key": records.keys,
        "row": [f"{row}" for row in records.rows],
        "file": [f"faces\\{key}.png" for key in records.keys],
    }[by]
    lines = [f"{i},{name},{i % 3}" for i, name in enumerate(called)]
    other = {"row": str(data.split("train").rows[0])}.get(by, data.split("train").keys[0])
    given = [f"\ufeffage,{by},kind", *reversed(lines[1:]), f"9,{other},9"]
    found = groups.read_metadata(table(tmp_path, given), data, records)
    expected = range(len(records))
    assert (
        found
        == {
            "age": [
                "",
                *map(str, expected[1:]),
            ],  # the first image has no line, train's is left out
            "kind": ["", *(str(i % 3) for i in expected[1:])],
        }
    )


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], ["has 0 lines", "columns (none)", "key, row, file"]),
        (["key,age"], ["has 0 lines", "key,age"]),
        (["name,age", "a,1"], ["columns name,age", "key, row, file"]),
        (["KEY", "{0}"], ["has 1 lines", "another to group by"]),
        (["key,age", "{0},1", "nobody,2"], ["1 of its 2 lines", "'nobody'", "such as '{0}'"]),
        (["row,age", "minus,2"], ["1 of its 1 lines", "such as"]),
        (["row,age", "-1,2"], ["1 of its 1 lines"]),
        (["key,age", ",2"], ["1 of its 1 lines", "''"]),
        (["key,age", "{train},1"], ["that is scored", "'{train}'"]),
        (["key,age", "{0},1", "{0},2"], ["'{0}' is of 2 lines"]),
        (["key;age", "{0};1"], ["columns key;age"]),
        (["key,age,sex", "{0},1,f", "{1},1"], ["has 2 lines, 1 of them too"]),
        (["key,age", "{0},1,5"], ["has 1 lines, 1 of them too"]),
    ],
)
def test_what_names_no_images_is_refused(data, tmp_path, lines, words):
    records = data.split("validation")
    names = {"train": data.split("train").keys[0]}
    path = table(tmp_path, [line.format(*records.keys, **names) for line in lines])
    with pytest.raises(UserError) as caught:
        groups.read_metadata(path, data, records)
    text = str(caught.value)
    assert "\n" not in text
    assert path in text
    assert all(word.format(*records.keys, **names) in text for word in words), text


def test_an_unknown_row_is_no_lines(data, tmp_path):
    records = data.split("validation").take(range(3))
    records.rows[1] = -1
    lines = ["row,age", f"{records.rows[0]},1", "-1,2"]
    with pytest.raises(UserError, match="1 of its 2 lines, first row '-1'"):
        groups.read_metadata(table(tmp_path, lines), data, records)


@pytest.mark.parametrize("content", [None, b"key,age\n\xff\xfe,1\n", b'key,age\n"\x00'])
def test_what_cannot_be_read_is_one_line_and_status_2(finished_run, small_csv, tmp_path, content):
    path = tmp_path / "metadata.csv"
    if content is not None:
        path.write_bytes(content)
    flags = [f"--checkpoint={finished_run}", f"--data={small_csv}", f"--groups={path}"]
    assert f"--groups={path}" in call("evaluate", flags).refusal()


def test_the_report_has_the_groups(data, finished_run, small_csv, tmp_path):
    records = data.split("validation")
    lines = ["key,half", *(f"{key},{'ab'[i % 2]}" for i, key in enumerate(records.keys))]
    flags = [f"--checkpoint={finished_run}", f"--data={small_csv}", f"--output={tmp_path / 'r'}"]
    outcome = call("evaluate", [*flags, f"--groups={table(tmp_path, lines)}"])
    assert outcome.status == 0, outcome.err
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    answers = Predictions.load(tmp_path / "r" / "predictions.npz")
    rows = report["groups"]["half"]["groups"]
    right = answers.predicted == answers.labels
    assert [row["accuracy"] for row in rows] == [right[::2].mean(), right[1::2].mean()]
    assert sum(row["n"] for row in rows) == report["n"]
    expected = calibration_error(reliability(answers.probabilities[::2], answers.labels[::2]))
    assert rows[0]["expected_calibration_error"] == pytest.approx(expected)
    text = unpadded((tmp_path / "r" / "report.md").read_text())
    assert f"| a | {rows[0]['n']} | {rows[0]['accuracy']:.1%} |" in text
    assert "stress" not in report
