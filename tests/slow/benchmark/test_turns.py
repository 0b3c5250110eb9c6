"""Turns, rates and agreement: what is compared, and when it may be."""

import pytest
from made_contestants import ANSWER, Made

from experiments.benchmark import turns
from experiments.benchmark.agreement import agree


def test_turns_alternate_and_each_pair_has_its_ratio():
    diary: list[str] = []
    ours, peer = Made("A", [20.0, 40.0, 90.0], diary), Made("B", [10.0, 40.0, 30.0], diary)
    duel = turns.alternate(ours, peer, 3, (2, 5))
    assert diary == ["A", "B"] * 3
    assert duel.ours == (20, 40, 90)
    assert duel.peer == (10, 40, 30)
    assert duel.ratios == (2, 1, 3)
    assert duel.summary() == (2, 1, 3)  # the ratio of the medians would be 4 / 3


def test_the_faster_has_the_larger_figure():
    fast, slow = Made("fast", [30.0], []), Made("slow", [10.0], [])
    assert turns.alternate(fast, slow, 1, (1, 1)).summary()[0] == pytest.approx(3)
    assert turns.alternate(slow, fast, 1, (1, 1)).summary()[0] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("speed", "calls"), [(10.0, 4), (1.0, 1), (1000.0, 400)])
def test_as_many_calls_as_fill_a_turn(speed, calls):
    compiling = Made("A", [0.001, speed], [])  # the first call takes hours and does not count
    assert turns.calls_for(compiling, seconds=4.0) == calls


def test_equal_answers_agree():
    near = {"logits": [[1.0005, -1.0], [-2.0, 2.0]], "loss": 0.5004}
    assert not agree(ANSWER, near).objection
    assert agree(ANSWER, near).differences["loss"] == pytest.approx(8e-4, rel=0.01)


@pytest.mark.parametrize(
    ("peer", "word"),
    [
        ({"loss": 0.502}, "loss differ"),
        ({"loss": float("nan")}, "loss differ"),
        ({"logits": [[1.01, -1.0], [-2.0, 2.0]]}, "logits differ"),
        ({"logits": [[1.0, -1.0]]}, "logits differ"),
    ],
)
def test_a_difference_is_told(peer, word):
    assert word in agree(ANSWER, {**ANSWER, **peer}).objection


def test_contestants_must_answer_the_same_questions():
    assert "they answer" in agree(ANSWER, {"loss": 0.5}).objection
    assert agree({}, {}).objection


def test_dead_networks_do_not_agree():
    dead = {"logits": [[1.0, -1.0], [1.0, -1.0]], "loss": 0.5}
    assert "the same" in agree(dead, dead).objection


def test_low_precision_has_a_limit_of_its_own():
    ours = {"loss": 1.0, "low_precision_loss": 1.0}
    assert not agree(ours, {"loss": 1.0, "low_precision_loss": 1.05}).objection
    assert agree(ours, {"loss": 1.0, "low_precision_loss": 1.2}).objection
    assert agree(ours, {"loss": 1.05, "low_precision_loss": 1.0}).objection
