"""Faults of inference are what they are called, and the table is of the model's own answers."""

import json
import os
import subprocess
import sys

import pytest
from support import ROOT, run

STEPS = [0, 10, 100, 300, 1000]


@pytest.fixture(scope="module")
def rows(finished_run, small_csv, tmp_path_factory):
    folder = tmp_path_factory.mktemp("collapse") / "out"
    flags = [f"--checkpoint={finished_run}", f"--data={small_csv}", f"--output={folder}"]
    outcome = run("collapse", flags, package="experiments")
    assert outcome.status == 0, outcome.err
    assert (folder / "collapse.md").read_text() in outcome.out
    return {row["fault"]: row for row in json.loads((folder / "collapse.json").read_text())}


def test_without_a_fault_the_answers_are_the_reports(rows, finished_run):
    report = json.loads((finished_run / "report/report.json").read_text())
    assert rows["none"]["accuracy"] == report["accuracy"]
    assert list(rows["none"]["answers"].values()) == [
        sum(row[i] for row in report["confusion_matrix"]) for i in range(7)
    ]


def test_every_fault_has_a_row_of_all_images(rows):
    moving = [f"moving statistics after {steps} steps" for steps in STEPS]
    assert list(rows) == ["none", "input scaled twice", "input not scaled", *moving]
    assert len({sum(row["answers"].values()) for row in rows.values()}) == 1


def test_statistics_come_nearer_by_keras_rule():
    """new = 0.99 old + 0.01 batch, step by step from mean 0 and variance 1."""
    code = """
import numpy as np
from experiments.collapse import statistics_after
goal = {"bn": {"mean": np.array([3.0]), "var": np.array([5.0])}}
mean, var = 0.0, 1.0
for step in range(7):
    mean, var = 0.99 * mean + 0.01 * 3, 0.99 * var + 0.01 * 5
found = statistics_after(7, goal)["bn"]
np.testing.assert_allclose([found["mean"][0], found["var"][0]], [mean, var], rtol=1e-6)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
