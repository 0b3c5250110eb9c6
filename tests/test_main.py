"""The main command from end to end: the files it promises, and one figure everywhere."""

import json
import re
import shutil

import numpy as np
import pytest
from absl import flags
from support import (
    EPOCH_ENDS,
    REPORT_FILES,
    SMALL,
    assert_identical,
    call,
    contents,
    logged,
    small_run,
)

from fer_jax import main, trained
from fer_jax.labels import LABELS

PICTURES = ("learning_curves.png", "class_distribution.png", "augmented.png")


@pytest.fixture(scope="module")
def report(finished_run):
    return json.loads((finished_run / "report" / "report.json").read_text())


def best(finished_run):
    """The validation record that chose the checkpoint: the first of the most accurate."""
    return max(logged(finished_run, "validation"), key=lambda record: record["accuracy"])


def test_the_workdir_holds_what_was_promised(finished_run):
    assert (finished_run / "run.json").exists()
    assert any((finished_run / "tensorboard").iterdir())
    for name in [*PICTURES, *(f"report/{name}" for name in REPORT_FILES)]:
        assert (finished_run / name).stat().st_size > 0, name


def test_every_step_and_every_epoch_is_logged_once(finished_run):
    assert [r["step"] for r in logged(finished_run, "train")] == list(range(1, EPOCH_ENDS[-1] + 1))
    assert tuple(r["step"] for r in logged(finished_run, "validation")) == EPOCH_ENDS
    for record in logged(finished_run, "train"):
        assert record.keys() >= {"loss", "accuracy", "gradient_norm", "learning_rate"}
        assert record["gradient_norm"] > 0


def test_the_report_is_of_the_best_checkpoint_and_equals_what_was_logged(finished_run, report):
    chosen = best(finished_run)
    assert report["checkpoint_step"] in EPOCH_ENDS
    at_step = [
        r for r in logged(finished_run, "validation") if r["step"] == report["checkpoint_step"]
    ]
    assert report["accuracy"] == at_step[0]["accuracy"] == chosen["accuracy"]
    for name in ("loss", "macro_f1", "balanced_accuracy"):
        assert report[name] == at_step[0][name]


def test_the_report_counts_every_image_once(finished_run, report):
    assert report["n"] == 35
    assert sum(map(sum, report["confusion_matrix"])) == 35
    assert report["label_names"] == list(LABELS)
    assert report["split"] == report["selected_on"] == "validation"
    with np.load(finished_run / "report" / "predictions.npz") as file:
        assert len(set(file["key"].tolist())) == 35
        np.testing.assert_allclose(file["probabilities"].sum(1), 1, rtol=1e-5)
        right = np.mean(file["probabilities"].argmax(1) == file["label"])
    assert report["accuracy"] == right


def test_what_was_said(finished_run):
    out = finished_run.with_suffix(".out").read_text()
    assert re.search(r"^train +13 +4 +12 +16 +14 +13 +11 +83$", out, re.MULTILINE)
    best = r"best checkpoint: step (11|21) of 21, restored\n(WARNING: .+\n)*[\d.]+% accuracy on val"
    assert re.search(best, out)
    assert f"{finished_run}/report/report.md" in out
    assert "Traceback" not in finished_run.with_suffix(".err").read_text()


def test_run_json_says_what_the_run_is(finished_run):
    about = json.loads((finished_run / "run.json").read_text())
    assert about["labels"] == list(LABELS)
    assert about["identity"]["train.batch_size"] == SMALL["train.batch_size"]
    assert set(about["fingerprint"]) == {"train", "validation", "test"}


def test_evaluate_gives_the_same_figures(finished_run, small_csv, report, tmp_path):
    output = tmp_path / "again"
    flags = [f"--checkpoint={finished_run}", f"--data={small_csv}", f"--output={output}"]
    outcome = call("evaluate", flags)
    assert outcome.status == 0, outcome.err
    again = json.loads((output / "report.json").read_text())
    assert {path.name for path in output.iterdir()} == set(REPORT_FILES)
    assert again["loss"] == pytest.approx(report["loss"], rel=1e-6)  # the folded model's
    for name in ("accuracy", "macro_f1", "confusion_matrix", "checkpoint_step", "n"):
        assert again[name] == report[name]
    assert again["data_fingerprint"] == report["data_fingerprint"]


def test_a_run_of_another_version_says_which_key_it_lacks(finished_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run, workdir)
    about = json.loads((workdir / "run.json").read_text())
    del about["config"]["model"]["stem_stride"]
    (workdir / "run.json").write_text(json.dumps(about))
    line = call("evaluate", [f"--checkpoint={workdir}", f"--output={tmp_path / 'a'}"]).refusal()
    assert "run.json is of another version: the config has no key 'model.stem_stride'" in line


def test_an_evaluation_needs_no_optimizer(finished_run, tmp_path):
    """Of the run's configuration it reads data, model, evaluation, and what smoothed its labels."""
    workdir = tmp_path / "run"
    shutil.copytree(finished_run, workdir)
    about = json.loads((workdir / "run.json").read_text())
    for section in ("augment", "init", "optimizer", "schedule", "mixing", "train", "log"):
        del about["config"][section]
    (workdir / "run.json").write_text(json.dumps(about))
    one, other = (trained.load(folder) for folder in (workdir, finished_run))
    assert_identical(one.variables, other.variables)


def test_evaluate_on_the_test_split_of_data_that_has_no_other(finished_run, tmp_path, small_csv):
    """An evaluation needs no training images."""
    lines = small_csv.read_text().splitlines()
    alone = tmp_path / "test_only.csv"
    alone.write_text("\n".join([lines[0], *(x for x in lines if x.endswith("PrivateTest"))]) + "\n")
    flags = [f"--checkpoint={finished_run}", f"--data={alone}", "--split=test"]
    outcome = call("evaluate", [*flags, f"--output={tmp_path / 'report'}"])
    assert outcome.status == 0, outcome.err
    result = json.loads((tmp_path / "report" / "report.json").read_text())
    assert (result["n"], result["split"], result["selected_on"]) == (14, "test", "validation")


def test_evaluate_uses_the_runs_own_data_where_none_is_given(finished_run, small_csv, tmp_path):
    flags = [f"--checkpoint={finished_run}", "--split=test", f"--output={tmp_path}"]
    outcome = call("evaluate", flags)
    assert outcome.status == 0, outcome.err
    result = json.loads((tmp_path / "report.json").read_text())
    assert result["data_path"] == str(small_csv)


def test_evaluate_leaves_alone_what_another_process_is_writing(finished_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run, workdir)
    (workdir / "checkpoints" / "40.orbax-checkpoint-tmp-7").mkdir()
    before = contents(workdir), sorted(workdir.rglob("*"))
    outcome = call("evaluate", [f"--checkpoint={workdir}", f"--output={tmp_path / 'report'}"])
    assert outcome.status == 0, outcome.err
    assert (contents(workdir), sorted(workdir.rglob("*"))) == before


def test_a_dry_run_says_what_would_be_and_writes_nothing(small_csv, tmp_path):
    flags = small_run(small_csv, tmp_path / "run", model__head_filters=128)
    outcome = call("main", [*flags, "--dry_run"])
    assert outcome.status == 0, outcome.err
    assert "389,825 trainable parameters, 688 BatchNorm statistics" in outcome.out
    assert re.search(r"^validation +5 +3 +5 +6 +5 +5 +6 +35$", outcome.out, re.MULTILINE)
    assert re.search(r"^\d+ x .+\(cpu\)", outcome.out)
    compiling, memory = outcome.out.split("compiling a step, which tells its memory\n")
    assert re.search(r"about [\d,]+ MiB of memory per device", memory)
    assert "parameters" not in compiling
    assert not contents(tmp_path)
    assert not list(tmp_path.iterdir())


def test_help_lists_the_config():
    """--help shows a command's key flags."""
    assert "config" in {flag.name for flag in flags.FLAGS.get_key_flags_for_module(main)}
