"""The model that the repository ships, and what its card says of it."""

import json
from pathlib import Path

import numpy as np
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
    file = model_file.load(FILE)
    about = file.about
    assert file.train_hashes.shape == (27_473, 2)  # distinct training images: pixels, looks
    assert np.count_nonzero(file.train_hashes[:, 1] == 0) == 2  # blank ones
    assert (about.architecture["variant"], about.image_size) == ("b2", 96)
    assert about.labels == list(labels.LABELS)
    assert about.training_data
    assert about.origin["selected_on"] == "validation"


def percent(share: float, digits: int) -> str:
    return f"{share:.{digits}%}".replace("%", " %")


@pytest.mark.parametrize(
    ("answers", "name"),
    [("plain", "weights_plain"), ("flip x crops, 12 views", "weights_tta")],
)
def test_the_cards_row_of_figures_is_the_reports(answers, name):
    found = report(name)
    (low, high), clean = found["accuracy_95_interval"], found["clean"]
    clean_low, clean_high = clean["accuracy_interval"]
    scaled = found["temperature_scaling"]["expected_calibration_error"]["after"]
    cells = [
        answers,
        f"{percent(found['accuracy'], 2)} ({100 * low:.2f} to {100 * high:.2f})",
        f"{percent(clean['accuracy'], 2)} ({100 * clean_low:.2f} to {100 * clean_high:.2f})",
        f"{percent(found['expected_calibration_error'], 1)} and {percent(scaled, 1)}",
        f"[{name}](../experiments/results/{name}/report.md)",
    ]
    assert f"| {' | '.join(cells)} |" in CARD.read_text()


def test_the_cards_row_of_each_class_is_the_reports():
    for label, found in report("weights_plain")["per_class"].items():
        recall, precision = (percent(found[name], 1) for name in ("recall", "precision"))
        assert f"| {label} | {recall} | {precision} | {found['support']} |" in CARD.read_text()


def test_what_the_card_says_of_groups_is_the_reports():
    found, card = report("groups")["groups"], CARD.read_text()
    agreement = {row["group"]: row["accuracy"] for row in found.pop("agreement")["groups"]}
    low, _, high = (100 * agreement[share] for share in ("0.3", "0.4", "0.5"))
    assert f"right in {percent(agreement['1.0'], 1)} where all of FER+'s ten voters agree" in card
    assert f"in {low:.0f} to {high:.0f} % where three to five do" in card
    assert all(one["gap"]["accuracy"] < one["gap"]["by_chance"] for one in found.values())


def test_what_the_card_says_of_lite2_is_the_reports():
    file = model_file.load(ROOT / "weights/fer2013_lite2.safetensors")
    assert (file.about.architecture["variant"], file.about.image_size) == ("lite2", 96)
    for name in ("lite2", "ensemble_b2_lite2_flip"):
        assert f"{percent(report(name)['accuracy'], 2)}" in CARD.read_text()


@pytest.mark.slow
def test_evaluating_the_file_gives_the_cards_figure(fer2013: Path, tmp_path: Path):
    asked = [f"--checkpoint={FILE}", f"--data={fer2013 / 'images.zip'}", f"--output={tmp_path}"]
    outcome = run("evaluate", asked, XLA_FLAGS="")  # optimized: there is much to compute
    assert outcome.status == 0, outcome
    found = json.loads((tmp_path / "report.json").read_text())
    # Rounding, on another processor or by another compiler, may turn a close answer or two.
    assert abs(found["accuracy"] - report("weights_plain")["accuracy"]) * found["n"] < 2.5
