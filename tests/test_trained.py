"""A run's folder and the file made of it: the same model, the same score, or one line."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from made_data import csv_text
from made_models import made_file, made_model, two_stages
from support import REPORT_FILES, assert_identical, call, small_rows, small_run

from fer_jax import model_file, trained
from fer_jax.errors import UserError
from fer_jax.labels import LABELS


@pytest.fixture(scope="module")
def converted(finished_run, tmp_path_factory):
    """The model file of `finished_run`, and what the converter said."""
    path = tmp_path_factory.mktemp("converted") / "model.safetensors"
    flags = ["--source=fer_jax", f"--input={finished_run}", f"--output={path}", "--licence=MIT"]
    outcome = call("convert", flags)
    assert outcome.status == 0, outcome.err
    return path, outcome.out


def test_the_file_holds_the_variables_of_the_best_checkpoint(converted, finished_run):
    path, _ = converted
    run, file = trained.load(finished_run), trained.load(path)
    assert_identical(file.variables, jax.tree.map(np.asarray, dict(run.variables)))
    assert file.about == model_file.load(path).about
    assert file.about.labels == list(LABELS)
    assert file.about.licence == "MIT"
    assert file.about.origin == run.about.origin
    assert file.about.training_data == run.about.training_data
    assert file.about.metrics == run.about.metrics
    assert file.about.metrics["accuracy"] == run.about.metrics["accuracy"]


def test_the_file_scores_as_the_run_to_the_last_digit(converted, finished_run, small_csv, tmp_path):
    reports = {}
    for name, checkpoint in (("run", finished_run), ("file", converted[0])):
        output = tmp_path / name
        flags = [f"--checkpoint={checkpoint}", f"--data={small_csv}", f"--output={output}"]
        outcome = call("evaluate", flags)
        assert outcome.status == 0, outcome.err
        assert sorted(path.name for path in output.iterdir()) == sorted(REPORT_FILES)
        reports[name] = json.loads((output / "report.json").read_text())
    run, file = reports["run"], reports["file"]
    assert file["accuracy"] == run["accuracy"]
    assert file["confusion_matrix"] == run["confusion_matrix"]
    assert file["checkpoint_step"] == run["checkpoint_step"]
    assert file["selected_on"] == run["selected_on"] == "validation"
    assert file["loss"] == pytest.approx(run["loss"], rel=1e-6)  # in other batches
    assert file["checkpoint"] == str(converted[0])


def test_the_report_of_a_file_lies_beside_it(converted, small_csv, tmp_path):
    path = tmp_path / "model.safetensors"
    shutil.copy(converted[0], path)
    outcome = call("evaluate", [f"--checkpoint={path}", f"--data={small_csv}", "--split=test"])
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "model" / "report-test" / "report.json").exists()
    assert f"{tmp_path}/model/report-test/report.md" in outcome.out


# --- Which images are scored, and what is said of them ------------------------------------------


def report_of(*flags):
    outcome = call("evaluate", flags)
    assert outcome.status == 0, outcome.err
    place = Path(outcome.out.rsplit("report ", 1)[1].strip()).parent
    return json.loads((place / "report.json").read_text()), place, outcome.out


@pytest.fixture(scope="module")
def undivided(tmp_path_factory):
    """Data of training images alone, the run that held a fifth of it out, and its model file."""
    place = tmp_path_factory.mktemp("undivided")
    rows = [("train", name, image) for _, name, image in small_rows()]
    (place / "fer2013.csv").write_text(csv_text(rows))
    division = {"data__validation_fraction": 0.2, "data__split_seed": 3}
    flags = small_run(place / "fer2013.csv", place / "run", train__epochs=1, **division)
    assert call("main", flags).status == 0
    flags = [f"--input={place / 'run'}", f"--output={place / 'model.safetensors'}"]
    assert call("convert", ["--source=fer_jax", *flags]).status == 0
    return place


def test_a_model_file_scores_the_images_that_its_run_held_out(undivided):
    """Its header tells how: no other fraction or seed, whatever a default would be."""
    run = json.loads((undivided / "run" / "report" / "report.json").read_text())
    data = undivided / "fer2013.csv"
    report, place, _ = report_of(
        f"--checkpoint={undivided / 'model.safetensors'}", f"--data={data}"
    )
    assert report["data_fingerprint"] == run["data_fingerprint"]
    assert (report["n"], report["accuracy"]) == (run["n"], run["accuracy"])
    assert report["split_chose_checkpoint"]
    assert place.name == "report-validation"


def test_of_other_undivided_data_all_images_are_scored(undivided, finished_run, tmp_path):
    data = undivided / "fer2013.csv"
    report, _, said = report_of(
        f"--checkpoint={finished_run}", f"--data={data}", f"--output={tmp_path}"
    )
    assert (report["split"], report["n"]) == ("all", 132)
    assert "no splits: all 132 images are one split, all" in said
    assert report["split_chose_checkpoint"] is False


def test_an_older_file_that_does_not_tell_its_division_scores_all(undivided, tmp_path):
    file = model_file.load(undivided / "model.safetensors")
    about = dataclasses.replace(file.about, splitting=None)
    model_file.save(tmp_path / "m.safetensors", dataclasses.replace(file, about=about))
    flags = [f"--checkpoint={tmp_path / 'm.safetensors'}", f"--data={undivided / 'fer2013.csv'}"]
    report, _, _ = report_of(*flags)
    assert (report["split"], report["n"]) == ("all", 132)
    assert "not known which split chose" in report["note"]


def test_another_data_sets_report_stands_beside_and_claims_no_choice(
    converted, small_csv, tmp_path
):
    """Nor does a class that is absent from its training part matter: nothing is trained."""
    path, other = tmp_path / "model.safetensors", tmp_path / "fer2013.csv"
    shutil.copy(converted[0], path)
    lines = small_csv.read_text().splitlines()
    kept = [x for x in lines if not (x.startswith("1,") and x.endswith("Training"))]
    own, own_place, _ = report_of(f"--checkpoint={path}", f"--data={small_csv}")
    kept[1 + [x.rsplit(",", 1)[1] for x in kept[1:]].index("PublicTest")] = ""
    other.write_text("\n".join(filter(None, kept)) + "\n")
    report, place, _ = report_of(f"--checkpoint={path}", f"--data={other}")
    assert report["n"] == own["n"] - 1
    assert place.name == f"report-validation-{report['data_fingerprint'][:8]}"
    assert json.loads((own_place / "report.json").read_text()) == own
    assert own["split_chose_checkpoint"]
    assert report["split_chose_checkpoint"] is False
    assert "chosen on \"its own data's validation\"; 'validation' took no part" in report["note"]


def test_what_the_converter_says(converted):
    said = converted[1]
    assert "EfficientNet-MINI, fer head of 7 classes (padding SAME), " in said
    assert f"labels {','.join(LABELS)}" in said
    assert "licence MIT" in said
    assert f"wrote {converted[0]}" in said


def test_a_file_is_evaluated_only_on_told_data(converted):
    line = call("evaluate", [f"--checkpoint={converted[0]}"]).refusal()
    assert "no data path" in line


@pytest.mark.parametrize(
    ("labels", "head", "words"),
    [
        (["happy", "angry", *LABELS[1:3], *LABELS[4:]], "fer", ["happy,angry", "read wrongly"]),
        (None, "fer", ["(none)"]),
        (None, "none", ["(none)"]),
        (list("abcdefghij"), "imagenet", ["a,b,c"]),
    ],
)
def test_other_labels_are_refused(labels, head, words, tmp_path):
    with two_stages():
        path = tmp_path / "m.safetensors"
        model_file.save(path, made_file(made_model(head=head), labels=labels))
        with pytest.raises(UserError) as caught:
            trained.load(path)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_run_answers_on_devices_that_do_not_divide_its_batch(finished_run, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda *_: 3)
    assert trained.load(finished_run).evaluator.config.batch_size == 9


def test_a_model_file_has_no_steps_to_choose_from(converted):
    line = call("evaluate", [f"--checkpoint={converted[0]}", "--step=5"]).refusal()
    assert line.startswith(f"--step=5: {converted[0]} is a model file")


@pytest.mark.parametrize("name", ["none", "none.safetensors", "a" * 300])
def test_what_is_not_there_is_refused(name, tmp_path):
    line = call("evaluate", [f"--checkpoint={tmp_path / name}"]).refusal()
    assert str(tmp_path) in line


def test_another_librarys_file_is_refused_with_the_way_to_convert_it(tmp_path):
    path = tmp_path / "m.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert "fer_jax.convert" in call("evaluate", [f"--checkpoint={path}"]).refusal()
