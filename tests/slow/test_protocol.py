"""The protocol from seeds to a distilled model: real runs of a small model, one after another."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support import SMALL, call

from experiments import jobs, stages
from fer_jax.evaluation.predictions import Predictions

VIEWS = "test-time augmentation flip_crops, 12 views"
ROWS = [  # name, answers, split, number of reports
    ("single", "plain", "validation", 2),
    ("single", VIEWS, "validation", 2),
    ("ensemble", "ensemble of 2", "validation", 1),
    ("ensemble", f"ensemble of 2, {VIEWS}", "validation", 1),
    ("teacher", "ensemble of 2", "train", 1),
    ("distilled", "plain", "validation", 1),
    ("distilled", VIEWS, "validation", 1),
]


def here(command, check):
    """The job's front door in this process."""
    assert not check
    return SimpleNamespace(returncode=call(command[2].removeprefix("fer_jax."), command[3:]).status)


@pytest.fixture(scope="module")
def done(small_csv, tmp_path_factory):
    """A protocol at its end."""
    place = tmp_path_factory.mktemp("protocol")
    settings = SMALL | {"train.epochs": 1}
    protocol = stages.Protocol(place, "b2.py", str(small_csv), settings, ("0", "1"), ("7",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs.subprocess, "run", here)
        for stage in protocol.stages():
            for job in stage:
                jobs.perform(job)
    return protocol


def reports(protocol):
    return [stages.figures(stage) for stage in protocol.stages()]


def test_every_stage_has_its_row(done):
    rows = reports(done)
    found = [(row["name"], row["answers"], row["split"], len(row["reports"])) for row in rows]
    assert found == ROWS
    text = stages.table(rows)
    first = rows[0]["accuracy"]
    assert f"| {100 * np.mean(first):.2f}% ± {100 * np.std(first, ddof=1):.2f} |" in text
    assert len(text.splitlines()) == 2 + len(ROWS)


def test_models_are_compared_with_the_best_single_one(done):
    rows = reports(done)
    stages.write(done.place, "title", rows)
    found = json.loads((done.place / "protocol.json").read_text())["comparison"]
    best = rows[0]["reports"][int(np.argmax(rows[0]["accuracy"]))]
    distilled = next(row for row in rows if row["name"] == "distilled")["reports"]
    one, other = (Predictions.load(Path(path) / "predictions.npz") for path in (best, *distilled))
    right, others = (answers.predicted == answers.labels for answers in (one, other))
    (pair,) = (pair for pair in found["pairs"] if pair["second"] == "distilled, plain")
    assert pair["first"] == "best single, plain"
    assert pair["only_second_right"] == np.sum(others & ~right)
    assert pair["difference"] == pytest.approx(others.mean() - right.mean())
    assert pair["mcnemar_p"] is not None
    low, high = found["models"][0]["accuracy_95_interval"]
    assert low <= np.mean(rows[0]["accuracy"]) <= high
    assert "ensemble, ensemble of 2 minus best single, plain" in (
        done.place / "protocol.md"
    ).read_text(encoding="utf-8")


def test_the_ensemble_is_the_mean_of_its_members(done):
    singles, _, (ensemble,), *_ = done.stages()
    members = [Predictions.load(job.report / "predictions.npz").probabilities for job in singles]
    joined = Predictions.load(ensemble.report / "predictions.npz").probabilities
    np.testing.assert_allclose(joined, np.mean(members, axis=0), atol=1e-6)


def test_students_learn_from_the_ensembles_answers_on_training_images(done):
    *_, (teacher,), (student,), _ = done.stages()
    config = json.loads((student.folder / "run.json").read_text())["config"]
    assert config["data"]["targets"] == str(teacher.report / "predictions.npz")
    answers = Predictions.load(teacher.report / "predictions.npz")
    assert len(answers) == 83


def test_what_is_done_is_passed_over(done, monkeypatch, capsys):
    monkeypatch.setattr(jobs.subprocess, "run", None)
    todo = [job for stage in done.stages() for job in stage]
    for job in todo:
        jobs.perform(job)
    assert capsys.readouterr().out.count("finished:") == len(todo) == 9


def test_what_was_made_of_other_answers_is_not_done(done):
    """Those that were read by the command, which is the same."""
    singles, augmented, (ensemble,), _, (teacher,), (student,), _ = done.stages()
    for source, made in ((singles[0], [ensemble, augmented[0], teacher]), (teacher, [student])):
        answers = source.report / "predictions.npz"
        before = answers.read_bytes()
        answers.write_bytes((singles[1].report / "predictions.npz").read_bytes())
        assert [job.finished for job in (*made, augmented[1])] == [False] * len(made) + [True]
        answers.write_bytes(before)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "no --data"),
        (["--data=x", "--recipe=none.py"], "none.py: no such file in configs/"),
        (["--data=x", "--seeds=1"], "--seeds=1: give 2 or more numbers"),
        (["--data=x", "--seeds=1,1"], "--seeds=1,1"),
        (["--data=x", "--students="], "--students=: give 1 or more numbers"),
        (["--data=x", "--students=7,07"], "--students=7,07: "),
        (["--data=x", "--set=a"], "--set=a: write --set=KEY=VALUE"),
        (["x"], "unexpected argument 'x'"),
    ],
)
def test_the_door_refuses_in_one_line(flags, words, tmp_path):
    flags = [*flags, f"--output={tmp_path / 'out'}"]
    assert words in call("protocol", flags, package="experiments").refusal()
    assert not (tmp_path / "out").exists()
