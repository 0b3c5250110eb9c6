"""The model that the repository ships, and what its card says of it."""

import json
from pathlib import Path

import pytest
from support import ROOT, run

from fer_jax import labels, model_file

FILE = ROOT / "weights/fer2013_b2.safetensors"
CARD = ROOT / "weights/README.md"
REPORTS = ROOT / "experiments/results"


def report(name: str) -> dict:
    return json.loads((REPORTS / name / "report.json").read_text())


def test_the_file_is_small_and_says_what_it_is():
    assert FILE.stat().st_size <= 20e6
    about = model_file.load(FILE).about
    assert (about.architecture["variant"], about.image_size) == ("b2", 96)
    assert about.labels == list(labels.LABELS)
    assert about.training_data
    assert about.origin["selected_on"] == "validation"


@pytest.mark.parametrize("name", ["weights_plain", "weights_tta"])
def test_the_cards_figures_are_the_reports(name):
    found, card = report(name), CARD.read_text()
    low, high = found["accuracy_95_interval"]
    assert f"{found['accuracy']:.2%}".replace("%", " %") in card
    assert f"({100 * low:.2f} to {100 * high:.2f})" in card
    assert f"{found['clean']['accuracy']:.2%}".replace("%", " %") in card


def test_evaluating_the_file_gives_the_cards_figure(fer2013: Path, tmp_path: Path):
    asked = [f"--checkpoint={FILE}", f"--data={fer2013 / 'images.zip'}", f"--output={tmp_path}"]
    outcome = run("evaluate", asked, XLA_FLAGS="")  # optimized: there is much to compute
    assert outcome.status == 0, outcome
    found = json.loads((tmp_path / "report.json").read_text())
    # Rounding, on another processor or by another compiler, may turn a close answer or two.
    assert abs(found["accuracy"] - report("weights_plain")["accuracy"]) * found["n"] < 2.5
