"""Worse pictures: each corruption changes images, more so with strength, and always alike."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from support import call, unpadded

from fer_jax import trained
from fer_jax.data.records import Entry, Records, digest
from fer_jax.evaluation import calibration, stress
from fer_jax.evaluation.predictions import Predictions

LEVELS = range(6)


def made_records(channels=1, n=12, size=(48, 48)) -> Records:
    """Smooth pictures of light and shade, as faces are."""
    draw = np.random.default_rng(0)
    images = []
    for _ in range(n):
        coarse = draw.integers(20, 200, (6, 6, channels), np.uint8)
        smooth = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        images.append(smooth.reshape(*size, channels))
    digests = np.stack([np.frombuffer(digest(image), np.uint8) for image in images])
    entries = [Entry(f"{i}", "test", i % 7, f"{i:02d}", i) for i in range(n)]
    return Records(entries, images, digests, None, channels)


def pixels(records, kind, level) -> np.ndarray:
    """At the strength of `level`, 0 for none to 5."""
    strength = stress.CORRUPTIONS[kind][1][level - 1]
    part = stress.Corrupted(records, kind, strength) if level else records
    return np.stack([part[i]["image"] for i in range(len(part))])


@pytest.mark.parametrize("kind", stress.CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_corruption_changes_images_and_the_more_the_stronger(kind, channels):
    records = made_records(channels)
    by_level = [pixels(records, kind, level) for level in LEVELS]
    assert {(p.shape, str(p.dtype)) for p in by_level} == {((12, 48, 48, channels), "uint8")}
    changes = [np.abs(found - by_level[0].astype(float)).mean() for found in by_level]
    assert changes[0] == 0
    assert (np.diff(changes) > 0).all(), changes
    changed = (by_level[5] != by_level[0]).any(axis=(1, 2, 3))
    assert changed.all()


def test_each_corruption_has_five_strengths():
    assert {len(strengths) for _, strengths in stress.CORRUPTIONS.values()} == {5}


@pytest.mark.parametrize(
    ("kind", "strength"), [("blur", 1), ("crop offset", 0.1), ("occlusion", 0.5)]
)
def test_lengths_are_relative_to_the_image(kind, strength):
    """Twice the pixels, twice the blur: what comes out is the same picture, but for its size."""
    blocks = np.random.default_rng(0).integers(0, 256, (8, 8))
    image, large = (
        np.kron(blocks, np.ones((side, side))).astype(np.uint8)[..., None] for side in (6, 12)
    )
    small, great = (
        stress.corrupt(one, kind, strength, np.random.default_rng(1))[..., 0].astype(float)
        for one in (image, large)
    )
    shrunk = cv2.resize(great, (48, 48), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk - small).mean() < 0.4 * np.abs(image[..., 0] - small).mean()


@pytest.mark.parametrize("kind", ["noise", "occlusion", "rotation", "crop offset"])
def test_draws_follow_from_the_image_alone(kind):
    records, order = made_records(), [7, 2, 5]
    whole, part = pixels(records, kind, 4), pixels(records.take(order), kind, 4)
    np.testing.assert_array_equal(part, whole[order])
    np.testing.assert_array_equal(pixels(records, kind, 4), whole)


def test_images_are_not_all_corrupted_alike():
    covered = pixels(made_records(), "occlusion", 2) == 0
    assert len({place.tobytes() for place in covered}) > 6
    turned, records = pixels(made_records(), "rotation", 5), made_records()
    signs = {
        sign
        for i in range(len(records))
        for sign in (-1, 1)
        if (turned[i] == stress._moved(records.image(i), angle=45 * sign)[..., None]).all()
    }
    assert signs == {-1, 1}


def figures(accuracy, confidence=0.6):
    return {"accuracy": accuracy, "confidence": confidence, "expected_calibration_error": 0.1}


def test_the_sentence_names_what_is_borne_and_where_confidence_errs():
    rows = {
        kind: [{"strength": s} | figures(0.68) for s in strengths]
        for kind, (_, strengths) in stress.CORRUPTIONS.items()
    }
    rows["blur"][2:] = [{"strength": s} | figures(0.5) for s in (1.5, 2, 3)]
    rows["noise"][0] |= figures(0.6)  # and what follows is borne by chance
    rows["JPEG"][4] |= figures(0.2, 0.65)
    said = stress.sentence({"plain": figures(0.7), "corruptions": rows})
    assert "Of 70.0% accuracy it loses at most 5 points up to blur 1, no noise, JPEG 10, " in said
    assert "at JPEG 5 it is 65% sure on average and right in 20%" in said
    assert said.count(".") - said.count("0.") == 2 + said.count("1.75")  # one sentence


@pytest.fixture(scope="module")
def model(finished_run, tmp_path_factory):
    """A file of the finished run with a calibration of its own."""
    file = trained.load(finished_run).file()
    about = dataclasses.replace(
        file.about, temperature=0.2, temperature_split="validation", label_smoothing=0.02
    )
    path = tmp_path_factory.mktemp("stressed") / "model.safetensors"
    trained.model_file.save(path, dataclasses.replace(file, about=about))
    return path


def test_the_report_has_the_table_after_the_models_own_calibration(
    model, small_csv, tmp_path, monkeypatch
):
    kinds = {kind: stress.CORRUPTIONS[kind] for kind in ("noise", "rotation")}  # the rest as they
    monkeypatch.setattr(stress, "CORRUPTIONS", kinds)
    data = tmp_path / "fer2013.csv"
    lines = small_csv.read_text().splitlines()
    data.write_text("\n".join([lines[0], *lines[-30:]]) + "\n")
    flags = [f"--checkpoint={model}", f"--data={data}", "--split=test", "--stress"]
    outcome = call("evaluate", flags)
    assert outcome.status == 0, outcome.err
    folder = next((model.parent / "model").glob("report-test*-stress"))
    report = json.loads((folder / "report.json").read_text())
    found = report["stress"]
    assert found["plain"]["accuracy"] == report["accuracy"]
    assert found["plain"]["accuracy_95_interval"] == report["accuracy_95_interval"]

    # Report and predictions stay as answered; the table is calibrated.
    answers = Predictions.load(folder / "predictions.npz")
    scaled = calibration.at_temperature(answers, 0.2, 0.02).probabilities
    error = calibration.calibration_error(calibration.reliability(scaled, answers.labels))
    assert found["plain"]["expected_calibration_error"] == pytest.approx(error)
    assert abs(error - report["expected_calibration_error"]) > 0.01
    assert (report["temperature"], report["calibration"]) == (1.0, 0.2)

    assert list(found["corruptions"]) == ["noise", "rotation"]
    assert all(row["n"] == report["n"] for rows in found["corruptions"].values() for row in rows)
    confidences = {row["confidence"] for rows in found["corruptions"].values() for row in rows}
    assert len(confidences) == 10  # none answers another's images
    text = unpadded((folder / "report.md").read_text())
    assert found["sentence"] in text
    assert "at the temperature 0.2)" in text
    noise = found["corruptions"]["noise"][4]
    cell = f"50: {noise['accuracy']:.1%} ({noise['expected_calibration_error']:.1%}) |"
    assert cell in next(line for line in text.splitlines() if line.startswith("| noise"))
    picture = cv2.imread(str(folder / "stress.png"))
    assert picture is not None
    assert picture.std() > 20
