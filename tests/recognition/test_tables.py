"""The committed tables say what the documents say of them."""

import json

from support import ROOT

RESULTS = ROOT / "experiments/results"


def test_answers_that_stay_are_the_more_accurate_the_surer_they_must_be():
    rows = json.loads((RESULTS / "abstention/abstention.json").read_text())["rows"]
    *thresholds, half = rows
    accuracies = [row["accuracy"] for row in thresholds]
    coverages = [row["coverage"] for row in thresholds]
    assert accuracies == sorted(accuracies)
    assert coverages == sorted(coverages, reverse=True)
    assert half["accuracy"] > accuracies[0] + 0.15


def test_predict_has_the_accuracy_of_evaluate_to_the_last_digit():
    rows = json.loads((RESULTS / "abstention/abstention.json").read_text())["rows"]
    report = json.loads((RESULTS / "weights_plain/report.json").read_text())
    assert (rows[0]["coverage"], rows[0]["accuracy"]) == (1.0, report["accuracy"])
