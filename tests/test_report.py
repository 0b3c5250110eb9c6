"""The report on disk: its keys, its honesty, its pictures, and what an interruption leaves."""

import json
import re

import numpy as np
import pytest
from made_data import recompressed, some_faces
from PIL import Image
from support import REPORT_FILES, unpadded

from fer_jax import outputs
from fer_jax.errors import UserError
from fer_jax.evaluation import plots, report
from fer_jax.evaluation.metrics import Copied
from fer_jax.evaluation.predictions import Predictions
from fer_jax.evaluation.tables import table
from fer_jax.labels import LABELS

FILES = set(REPORT_FILES)


def context(**changes):
    return {
        "checkpoint": "runs/b2-1a2b",
        "checkpoint_step": 3592,
        "selected_on": "validation",
        "split": "validation",
        "data_path": "data/fer2013.csv",
        "data_fingerprint": "ab" * 32,
        "label_names": list(LABELS),
        "command": "python -m fer_jax.evaluate --split=validation",
        "tta": "none",
        "temperature": 1.0,
        "members": [
            {
                "checkpoint": "runs/b2-1a2b",
                "checkpoint_step": 3592,
                "selected_on": "validation",
                "label_smoothing": 0.0,
            }
        ],
        **changes,
    }


def some_predictions(n=140, seed=0, skill=2.0) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 7).astype(np.int32)
    logits = rng.normal(size=(n, 7)) + skill * np.eye(7)[labels]
    probabilities = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    losses = -np.log(probabilities[np.arange(n), labels])
    return Predictions(tuple(f"img{i}" for i in range(n)), labels, probabilities, losses)


def image(index: int) -> np.ndarray:
    return np.full((48, 48, 1), index % 256, np.uint8)


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_everything_is_written_and_read_back(tmp_path, drawn_pictures):
    given = some_predictions()
    returned = report.write_report(tmp_path / "a" / "report", given, image, context())
    folder = tmp_path / "a" / "report"
    assert names(folder) == FILES
    written = json.loads((folder / "report.json").read_text())
    assert written == returned
    assert written["n"] == 140
    assert written["accuracy"] == int((given.probabilities.argmax(1) == given.labels).sum()) / 140
    for key, value in context(label_names=list(LABELS)).items():
        assert written[key] == value
    read = Predictions.load(folder / "predictions.npz")
    assert read.keys == given.keys
    np.testing.assert_array_equal(read.probabilities, given.probabilities)
    for name in ("confusion_matrix", "reliability", "mistakes"):
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.convert("L").entropy() > 0.3


def test_calibration_of_the_report_agrees_with_its_table(tmp_path):
    written = report.write_report(tmp_path, some_predictions(), image, context())
    rows = [row for row in written["reliability"] if row["count"]]
    assert sum(row["count"] for row in rows) == 140
    gaps = sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in rows)
    assert written["expected_calibration_error"] == pytest.approx(gaps / 140)


def test_temperature_scaling_is_reported_before_and_after(tmp_path):
    """The made logits tell half of what they know; times 3 they are to be divided by 1.5."""
    honest = some_predictions(n=1400)
    cubed = honest.probabilities.astype(float) ** 3
    sure = (cubed / cubed.sum(1, keepdims=True)).astype(np.float32)
    losses = -np.log(sure[np.arange(1400), honest.labels])
    given = Predictions(honest.keys, honest.labels, sure, losses)
    written = report.write_report(tmp_path, given, image, context())
    scaling = written["temperature_scaling"]
    error = scaling["expected_calibration_error"]
    assert error["before"] == written["expected_calibration_error"] > 2 * error["after"]
    assert scaling["loss"]["before"] == pytest.approx(written["loss"], rel=1e-5)
    assert scaling["loss"]["after"] < scaling["loss"]["before"]
    assert sum(row["count"] for row in scaling["reliability"]) == sum(scaling["images"]) == 1400
    for value in (*scaling["temperatures"], scaling["temperature"]):
        assert value == pytest.approx(1.5, rel=0.1)
        assert f"{value:.3f}" in (tmp_path / "report.md").read_text()
    text = unpadded((tmp_path / "report.md").read_text())
    assert f"| after | {error['after']:.2%} |" in text


def test_the_clean_subset_stands_beside_the_full_one(tmp_path):
    given = some_predictions()
    mask = np.arange(140) % 5 == 0
    copied = Copied(mask, "exact copies of something")
    written = report.write_report(tmp_path, given, image, context(), copied=[copied])
    right, clean = given.predicted == given.labels, written["clean"]
    assert (clean["n"], clean["copies"]) == (112, 28)
    assert clean["accuracy"] == right[~mask].mean()
    assert clean["copies_accuracy"] == right[mask].mean()
    low, high = clean["accuracy_interval"]
    assert low < clean["accuracy"] < high
    assert high - low > np.ptp(written["accuracy_95_interval"])
    assert written["accuracy"] == right.mean()
    text = unpadded((tmp_path / "report.md").read_text())
    assert f"| all others | 112 | {clean['accuracy']:.2%} | {low:.2%} to {high:.2%} |" in text
    assert f"| exact copies of something | 28 | {clean['copies_accuracy']:.2%} |" in text
    said = report.headline(written)
    assert f"{clean['accuracy']:.2%} on 112 images, without 28 exact copies of something" in said
    assert written["clean_of_near"] is None
    assert not written["warnings"]
    with pytest.raises(IndexError, match="140"):
        report.write_report(tmp_path, given, image, context(), copied=[Copied(mask[1:], "")])


@pytest.mark.parametrize("copies", [0, 140])
def test_a_clean_subset_of_all_or_nothing(tmp_path, copies):
    copied = Copied(np.arange(140) < copies, "x")
    given = some_predictions()
    written = report.write_report(tmp_path, given, image, context(), copied=[copied])
    clean = written["clean"]
    assert (clean["n"], clean["copies"]) == (140 - copies, copies)
    of_none = clean["accuracy"] if copies else clean["copies_accuracy"]
    assert of_none is None
    assert clean["accuracy"] == (None if copies else written["accuracy"])
    assert (clean["accuracy_interval"] is None) == bool(copies)


def test_near_copies_stand_beside_exact_ones(tmp_path):
    masks = {"exact copies": np.arange(140) < 20, "exact or near copies": np.arange(140) < 50}
    copied = [Copied(mask, name) for name, mask in masks.items()]
    written = report.write_report(tmp_path, some_predictions(), image, context(), copied=copied)
    assert (written["clean"]["copies"], written["clean_of_near"]["copies"]) == (20, 50)
    said, text = report.headline(written), unpadded((tmp_path / "report.md").read_text())
    for name, mask in masks.items():
        assert f"on {140 - mask.sum()} images, without {mask.sum()} {name}" in said
        assert f"| {name} | {mask.sum()} |" in text


@pytest.mark.parametrize(("copies", "who"), [(140, "ALL 140"), (70, "70 of 140"), (69, None)])
def test_where_most_images_were_in_training_that_comes_first(tmp_path, copies, who):
    copied = [
        Copied(np.zeros(140, bool), "exact copies"),
        Copied(np.arange(140) < copies, "copies"),
    ]
    written = report.write_report(tmp_path, some_predictions(), image, context(), copied=copied)
    warning = f"{who} images are copies: accuracy says little of other faces"
    assert written["warnings"] == ([warning] if who else [])
    assert (report.headline(written).splitlines()[0] == f"WARNING: {warning}") == bool(who)
    assert (f"> **Warning:** {warning}." in (tmp_path / "report.md").read_text()) == bool(who)


def test_where_copies_are_not_known_the_report_says_how_to_know(tmp_path):
    written = report.write_report(tmp_path, some_predictions(), image, context())
    assert written["clean"] is None
    assert "--clean_against=PATH" in (tmp_path / "report.md").read_text()


def test_one_image_has_a_report_without_temperature_scaling(tmp_path):
    written = report.write_report(tmp_path, some_predictions(n=1), image, context())
    assert written["temperature_scaling"] is None
    assert "Too few images" in (tmp_path / "report.md").read_text()


def test_markdown_is_readable_and_complete(tmp_path):
    written = report.write_report(tmp_path, some_predictions(), image, context())
    text = unpadded((tmp_path / "report.md").read_text())
    assert text.startswith(f"# {written['accuracy']:.2%} accuracy on `validation`\n")
    linked = re.findall(r"\]\((\w+\.png)\)", text)
    assert sorted(linked) == ["confusion_matrix.png", "mistakes.png", "reliability.png"]
    for name, row in written["per_class"].items():
        line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        assert line.split("|")[3].strip() == f"{row['recall']:.2%}"
        assert line.split("|")[5].strip() == str(row["support"])
    for value in ("3592", "ab" * 32, "runs/b2-1a2b", "data/fer2013.csv", "fer_jax.evaluate"):
        assert value in text


@pytest.mark.parametrize(
    ("split", "selected_on", "chose", "said", "unsaid"),
    [
        (
            "validation",
            "validation",
            True,
            "chose this checkpoint, so its figures are optimistic",
            "no part",
        ),
        ("test", "validation", False, "took no part in the choice", "optimistic"),
        ("test", None, None, "not known which split chose this checkpoint", "no part"),
    ],
)
def test_note_says_which_split_chose_the_checkpoint(
    tmp_path, split, selected_on, chose, said, unsaid
):
    given = context(split=split, selected_on=selected_on)
    written = report.write_report(tmp_path, some_predictions(), image, given)
    assert said in written["note"]
    assert unsaid not in written["note"]
    assert written["note"] in (tmp_path / "report.md").read_text()
    read = json.loads((tmp_path / "report.json").read_text())
    assert (read["note"], read["split_chose_checkpoint"]) == (written["note"], chose)


def test_collapse_and_absent_classes_are_said_in_the_markdown(tmp_path):
    labels = np.array([0, 1, 1, 2], np.int32)
    probabilities = np.tile(np.float32([0.1, 0.9, 0, 0, 0, 0, 0]), (4, 1))
    losses = np.array([2.3, 0.1, 0.1, 9.0], np.float32)
    given = Predictions(("a", "b", "c", "d"), labels, probabilities, losses)
    report.write_report(tmp_path, given, image, context())
    text = unpadded((tmp_path / "report.md").read_text())
    assert "**Warning:** 100.0% of all predictions are 'disgust'" in text
    assert "balanced accuracy: happy, neutral, sad, surprise" in text
    assert "| happy | – | – | – | 0 | 0 |" in text


def test_mistakes_are_the_most_confident_ones(tmp_path, monkeypatch):
    labels = np.array([0, 0, 0, 0, 1], np.int32)
    probabilities = np.float32([[0.9, 0.1], [0.3, 0.7], [0.01, 0.99], [0.2, 0.8], [0.05, 0.95]])
    given = Predictions(tuple("abcde"), labels, probabilities, -np.log(np.float32([1] * 5)))
    assert report.most_confident_mistakes(given, image).tolist() == [2, 3, 1]
    assert report.most_confident_mistakes(given, image, count=2).tolist() == [2, 3]
    frames = some_faces("validation", 200)[0]
    frames[3] = recompressed(np.roll(frames[2], 1), 75)  # the next frame
    shown = report.most_confident_mistakes(given, lambda i: frames[i][..., None])
    assert shown.tolist() == [2, 1]
    drawn = {}
    monkeypatch.setattr(plots, "contact_sheet", lambda *given, **_: drawn.update(given=given))
    report.write_report(tmp_path, given, image, context())
    images, titles, *_ = drawn["given"]
    assert [int(picture[0, 0, 0]) for picture in images] == [2, 3, 1]
    assert titles == [f"angry → disgust\n{sure:.1f}% sure" for sure in (99, 80, 70)]


def test_no_name_breaks_a_table(tmp_path):
    members = [{"checkpoint": "m.safetensors", "checkpoint_step": None, "label_smoothing": 0.0}]
    given = context(members=members, data_path="a|b\nc.csv", command="x '|'")
    report.write_report(tmp_path, some_predictions(), image, given)
    text = unpadded((tmp_path / "report.md").read_text())
    assert "| data | `a\\|b c.csv` |\n" in text
    assert "| command | `x '\\|'` |" in text
    assert "| step |" not in text  # a converted file has none
    lines = table(("a", "b"), [("x|y", "p\nq")]).splitlines()
    assert lines[2] == "| x\\|y | p q |"


def test_perfect_predictions_have_a_report_too(tmp_path):
    written = report.write_report(tmp_path, some_predictions(skill=50), image, context())
    assert written["accuracy"] == 1.0
    assert names(tmp_path) == FILES
    assert "No mistakes." in (tmp_path / "report.md").read_text()


def test_confusions_are_listed_by_count(tmp_path):
    labels = np.array([3] * 6 + [5] * 4, np.int32)
    answers = [3, 4, 4, 4, 4, 4, 2, 2, 5, 5]
    probabilities = np.eye(7, dtype=np.float32)[answers]
    given = Predictions(tuple(map(str, range(10))), labels, probabilities, np.zeros(10, np.float32))
    report.write_report(tmp_path, given, image, context())
    text = unpadded((tmp_path / "report.md").read_text())
    first = text.index("- happy taken for neutral: 5 (83.3% of happy)")
    assert first < text.index("- sad taken for fear: 2 (50.0% of sad)")


def test_nothing_of_an_earlier_report_stays(tmp_path):
    (tmp_path / "stress.png").write_bytes(b"of an earlier one")
    (tmp_path / "notes.txt").write_text("of its owner")
    report.write_report(tmp_path, some_predictions(), image, context())
    assert names(tmp_path) == FILES | {"notes.txt"}


def test_interrupted_report_does_not_pass_for_a_finished_one(tmp_path, monkeypatch):
    """Killed while files are moved into place: the old report.json is gone, the new not there."""
    report.write_report(tmp_path, some_predictions(), image, context())
    real, moved = outputs.os.replace, []

    def replace(source, target):
        if len(moved) == 3:
            raise KeyboardInterrupt
        moved.append(target.name)
        real(source, target)

    monkeypatch.setattr(outputs.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        report.write_report(tmp_path, some_predictions(seed=1), image, context())
    assert "report.json" not in moved
    assert names(tmp_path) == FILES - {"report.json"}


def test_report_json_comes_last(tmp_path, monkeypatch):
    order = []
    real = outputs.os.replace
    monkeypatch.setattr(outputs.os, "replace", lambda a, b: (order.append(b.name), real(a, b)))
    report.write_report(tmp_path, some_predictions(), image, context())
    assert set(order) == FILES
    assert order[-1] == "report.json"


def test_failure_while_drawing_leaves_the_old_report_alone(tmp_path, monkeypatch):
    report.write_report(tmp_path, some_predictions(), image, context())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(
        plots, "contact_sheet", lambda *a, **k: (_ for _ in ()).throw(MemoryError())
    )
    with pytest.raises(MemoryError):
        report.write_report(tmp_path, some_predictions(seed=1), image, context())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("below", ["", "deeper"])
def test_folder_that_cannot_be_written_is_one_line(tmp_path, below):
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / below if below else tmp_path / "file"
    with pytest.raises(UserError, match="cannot write the report to") as caught:
        report.write_report(folder, some_predictions(), image, context())
    assert "\n" not in str(caught.value)
    assert "choose an output folder" in str(caught.value)
    assert (tmp_path / "file").read_text() == "in the way"


def test_unreadable_image_is_not_called_an_unwritable_folder(tmp_path):
    def vanished(index):
        raise FileNotFoundError("the data went away")

    with pytest.raises(FileNotFoundError, match="went away"):
        report.write_report(tmp_path / "new", some_predictions(), vanished, context())
    assert not (tmp_path / "new").exists()
