"""Metrics against hand-computed values, and plain NumPy."""

import json
import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from fer_jax.errors import UserError
from fer_jax.evaluation import metrics
from fer_jax.evaluation.predictions import Predictions
from fer_jax.labels import LABELS

# Three of the seven classes, eight images; (true, predicted) below, so by hand:
# class a: 3 true, 2 of them right, 1 false alarm -> precision 2/3, recall 2/3, F1 2/3
# class b: 4 true, 3 of them right, 1 false alarm -> precision 3/4, recall 3/4, F1 3/4
# class c: 1 true, 0 of them right, 1 false alarm -> precision 0, recall 0, F1 0
TRUE = [0, 0, 0, 1, 1, 1, 1, 2]
PREDICTED = [0, 0, 1, 1, 1, 1, 2, 0]
A, B, C, *ABSENT = LABELS


def predictions(true, predicted, classes, confidence=0.8) -> Predictions:
    rest = (1 - confidence) / (classes - 1)
    probabilities = np.full((len(true), classes), rest, np.float32)
    probabilities[np.arange(len(true)), predicted] = confidence
    labels = np.array(true, np.int32)
    losses = -np.log(probabilities[np.arange(len(true)), labels])
    return Predictions(tuple(f"k{i}" for i in range(len(true))), labels, probabilities, losses)


def test_small_example_by_hand():
    report = metrics.summary(predictions(TRUE, PREDICTED, 3), 2000)
    assert report["n"] == 8
    assert report["accuracy"] == 5 / 8
    assert [row[:3] for row in report["confusion_matrix"][:3]] == [[2, 1, 0], [0, 3, 1], [1, 0, 0]]
    assert np.sum(report["confusion_matrix"]) == 8
    assert report["loss"] == pytest.approx((-5 * math.log(0.8) - 3 * math.log(0.1)) / 8, rel=1e-6)
    assert report["macro_f1"] == pytest.approx((2 / 3 + 3 / 4 + 0) / 3)
    assert report["balanced_accuracy"] == pytest.approx((2 / 3 + 3 / 4 + 0) / 3)
    assert report["per_class"][B] == {"precision": 0.75, "recall": 0.75, "f1": 0.75, "support": 4}
    assert report["per_class"][C] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}
    assert report["expected_calibration_error"] == pytest.approx(0.8 - 5 / 8, rel=1e-6)
    assert report["absent_classes"] == ABSENT
    assert report["bootstrap"] == {"samples": 2000, "seed": 0}
    assert report["warnings"] == []


def test_precision_and_recall_are_not_exchanged():
    report = metrics.summary(predictions([0, 0, 0, 1], [0, 1, 1, 1], 2))
    assert report["per_class"][A]["precision"] == 1.0
    assert report["per_class"][A]["recall"] == pytest.approx(1 / 3)
    assert report["per_class"][B]["precision"] == pytest.approx(1 / 3)
    assert [row[:2] for row in report["confusion_matrix"][:2]] == [[1, 2], [0, 1]]


@hypothesis.given(data=st.data(), classes=st.integers(2, 7), n=st.integers(1, 60))
@hypothesis.settings(max_examples=60, deadline=None)
def test_any_probabilities_agree_with_plain_numpy(data, classes, n):
    scores = data.draw(hnp.arrays(np.float32, (n, classes), elements=st.floats(-9, 9, width=32)))
    labels = data.draw(hnp.arrays(np.int32, n, elements=st.integers(0, classes - 1)))
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    losses = -np.log(probabilities[np.arange(n), labels])
    given = Predictions(tuple(map(str, range(n))), labels, probabilities, losses)
    report = metrics.summary(given, bootstrap_samples=50)
    predicted = probabilities.argmax(1)
    matrix = np.zeros((7, 7), int)
    for true, answer in zip(labels, predicted, strict=True):
        matrix[true, answer] += 1
    assert report["confusion_matrix"] == matrix.tolist()
    assert report["accuracy"] == int(np.trace(matrix)) / n
    support, answers, right = matrix.sum(1), matrix.sum(0), np.diag(matrix)
    present = support > 0
    recall = right[present] / support[present]
    f1 = 2 * right[present] / (support + answers)[present]
    assert report["balanced_accuracy"] == pytest.approx(recall.mean())
    assert report["macro_f1"] == pytest.approx(f1.mean())
    assert report["loss"] == pytest.approx(losses.astype(np.float64).mean())
    assert report["absent_classes"] == [LABELS[i] for i in np.flatnonzero(~present)]
    json.dumps(report, allow_nan=False)


def test_accuracy_is_python_division_to_the_last_digit():
    """A mean in float32, or 1 - error, would differ from 2017 / 3589 in its last digits."""
    predicted = [0] * 2017 + [1] * 1572
    given = predictions([0] * 3589, predicted, 2)
    assert metrics.summary(given)["accuracy"] == 2017 / 3589


def test_loss_does_not_depend_on_the_order_of_images():
    rng = np.random.default_rng(0)
    labels = np.zeros(5000, np.int32)
    probabilities = np.full((5000, 2), 0.5, np.float32)
    losses = rng.exponential(size=5000).astype(np.float32) ** 9
    keys = tuple(map(str, range(5000)))
    figures = {
        metrics.summary(
            Predictions(keys, labels, probabilities, rng.permutation(losses)),
            bootstrap_samples=1,
        )["loss"]
        for _ in range(5)
    }
    assert len(figures) == 1


def test_absent_class_is_named_and_left_out_of_the_means():
    report = metrics.summary(predictions([0, 0, 1, 1], [0, 2, 1, 1], 3))
    assert report["absent_classes"] == [C, *ABSENT]
    nothing = {"precision": None, "recall": None, "f1": None, "support": 0}
    assert report["per_class"][C] == nothing
    assert report["balanced_accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert report["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)


def test_interval_is_the_bootstrap_over_images():
    rng = np.random.default_rng(1)
    right = rng.random(300) < 0.6
    report = metrics.summary(predictions([0] * 300, (~right).astype(int), 2), 20_000)
    resampled = right[rng.integers(0, 300, size=(20_000, 300))].mean(axis=1)
    assert report["accuracy_95_interval"] == pytest.approx(
        np.quantile(resampled, (0.025, 0.975)), abs=0.006
    )
    low, high = report["accuracy_95_interval"]
    assert low < right.mean() < high


def test_interval_depends_on_the_seed_alone():
    draws = [tuple(metrics.bootstrap_interval(2017, 3589, 50, seed)) for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1] == tuple(metrics.bootstrap_interval(2017, 3589, 50))
    assert len(set(draws)) > 1


def test_collapse_is_called_a_collapse():
    true = np.arange(100) % 7
    almost = np.where(np.arange(100) < 91, 1, 0)
    report = metrics.summary(predictions(true, almost, 7))
    assert len(report["warnings"]) == 1
    assert "91.0%" in report["warnings"][0]
    assert "'disgust'" in report["warnings"][0]
    assert not metrics.collapse_warnings(np.where(np.arange(100) < 90, 1, 0))


@pytest.mark.parametrize("where", ["probabilities", "losses"])
def test_diverged_model_is_a_user_error(where):
    given = predictions(TRUE, PREDICTED, 3)
    getattr(given, where)[5] = np.nan
    with pytest.raises(UserError, match=r"1 of 8 predictions are not finite, first 'k5'"):
        metrics.summary(given)


def test_predictions_survive_their_file(tmp_path):
    given = predictions(TRUE, PREDICTED, 3)
    given = Predictions(
        ("train/ä b.png", *given.keys[1:]), given.labels, given.probabilities, given.losses
    )
    given.save(tmp_path / "predictions.npz")
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as file:
        assert set(file) == {"key", "label", "probabilities", "loss"}
    read = Predictions.load(tmp_path / "predictions.npz")
    assert read.keys == given.keys
    for name in ("labels", "probabilities", "losses"):
        np.testing.assert_array_equal(getattr(read, name), getattr(given, name))
        assert getattr(read, name).dtype == getattr(given, name).dtype


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04 torn"])
def test_unreadable_predictions_are_a_user_error(tmp_path, content):
    path = tmp_path / "predictions.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="cannot read predictions from"):
        Predictions.load(path)


def test_foreign_archive_and_pickle_are_user_errors(tmp_path):
    np.savez(tmp_path / "other.npz", key=np.zeros(3))
    with pytest.raises(UserError, match=r"other\.npz"):
        Predictions.load(tmp_path / "other.npz")
    objects = np.array([{}], dtype=object)
    np.savez(tmp_path / "evil.npz", key=objects, label=objects, probabilities=objects, loss=objects)
    with pytest.raises(UserError, match=r"evil\.npz"):
        Predictions.load(tmp_path / "evil.npz")
    one, two = np.array(["a"]), np.zeros((2, 7))
    np.savez(tmp_path / "odd.npz", key=one, label=one, probabilities=two, loss=one)
    with pytest.raises(UserError, match=r"odd\.npz: 1 keys, .* do not belong together"):
        Predictions.load(tmp_path / "odd.npz")


def test_arrays_of_different_lengths_are_refused():
    given = predictions(TRUE, PREDICTED, 3)
    with pytest.raises(ValueError, match="do not belong together"):
        Predictions(given.keys[:-1], given.labels, given.probabilities, given.losses)
