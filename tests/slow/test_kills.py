"""Commands killed at random moments end as if untouched; and what would differ is found."""

import pytest
from support import _front_door

pytestmark = pytest.mark.timeout(1800)  # on a busy machine


@pytest.fixture(scope="module")
def faults():
    with _front_door("experiments.faults") as door:
        yield door


def test_killed_commands_end_as_if_untouched_and_are_not_killed_again(faults, tmp_path):
    rows = faults.kill_all(tmp_path, 4)
    assert [row["why"] for row in rows] == [""] * 4
    assert [row["command"] for row in rows] == ["train", "evaluate", "train", "prepare"]
    assert faults.kill_all(tmp_path, 4) == rows
    assert "| all | 4 |" in faults.table(rows)


def test_what_differs_is_found(faults):
    expected = {"report.json": "1", "predictions.npz": "2"}
    assert not faults.differences(dict(expected), expected)
    assert faults.differences({**expected, ".left": "3"}, expected) == ".left"
    assert faults.differences({"report.json": "1"}, expected) == "predictions.npz"
    assert faults.differences({"report.json": "0"}, expected, missing=False) == "report.json"
    assert not faults.differences({".left": "3"}, expected, missing=False)
