"""A run that is killed, stopped or started twice ends as one that nobody touched, bit for bit."""

import shutil
import signal

import numpy as np
import pytest
from PIL import Image
from support import (
    EPOCH_ENDS,
    arrays,
    assert_identical,
    call,
    contents,
    finish,
    logged,
    make_trainer,
    run,
    small_run,
    start,
    wait_until,
)

from fer_jax import train
from fer_jax.training.checkpoints import Checkpoints

pytestmark = pytest.mark.timeout(1200)  # on a busy machine

FOR_LONG = 300  # seconds within which a started run must have come to its first steps


def final_state(workdir, data, **changes):
    with Checkpoints(workdir, "accuracy") as checkpoints:
        assert checkpoints.latest == EPOCH_ENDS[-1]
        return checkpoints.restore(checkpoints.latest, make_trainer(data, **changes).template())


def last_step(workdir):
    return max((record["step"] for record in logged(workdir)), default=0)


def unfinished_saves(workdir):
    return [path.name for path in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")]


def begin(command, workdir):
    """The command as a process that has come to its first step: its log is open."""
    parts = set((workdir / "tensorboard").glob("*"))
    process = start("main", command)
    wait_until(lambda: set((workdir / "tensorboard").glob("*")) - parts, process, FOR_LONG)
    return process


def kill_at(process, workdir, step):
    """SIGKILL once `step` is logged."""
    wait_until(lambda: last_step(workdir) >= step, process, FOR_LONG)
    process.send_signal(signal.SIGKILL)
    assert finish(process).status == -signal.SIGKILL


def kill_during_a_save(command, workdir, after_step):
    """SIGKILL while a checkpoint is half written; what a person would find is left behind.

    Where the save is over before the kill: the next one.
    """
    while True:
        process = begin(command, workdir)
        wait_until(lambda last=after_step: last_step(workdir) > last, process, FOR_LONG)
        wait_until(lambda: unfinished_saves(workdir), process, FOR_LONG)
        process.send_signal(signal.SIGKILL)
        assert finish(process).status == -signal.SIGKILL
        if unfinished_saves(workdir):
            return
        after_step = last_step(workdir)


def stop_with(number, process, workdir):
    """A polite signal once a step more is logged; what the command then said."""
    before = last_step(workdir)
    wait_until(lambda: last_step(workdir) > before, process, FOR_LONG)
    process.send_signal(number)
    return finish(process)


def test_a_killed_run_goes_on_and_ends_bit_identical(finished_run, small_csv, tmp_path):
    workdir = tmp_path / "run"
    command = small_run(small_csv, workdir)
    process = begin(command, workdir)
    wait_until((workdir / "checkpoints" / "6").exists, process, FOR_LONG)
    kill_at(process, workdir, 6)
    outcome = call("main", command)
    assert outcome.status == 0, outcome.err
    assert "continuing after step" in outcome.out
    assert_identical(final_state(workdir, small_csv), final_state(finished_run, small_csv))
    assert logged(workdir, "validation") == logged(finished_run, "validation")


@pytest.fixture(scope="module")
def battered_run(small_csv, tmp_path_factory):
    """The workdir of a run killed twice and stopped twice; and what the stopped parts said."""
    workdir = tmp_path_factory.mktemp("battered") / "run"
    command = small_run(small_csv, workdir)
    random_step = int(np.random.default_rng().integers(1, EPOCH_ENDS[0]))
    print(f"killed at step {random_step}")
    kill_at(begin(command, workdir), workdir, random_step)
    kill_during_a_save(command, workdir, after_step=7)
    said = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        said[number] = stop_with(number, begin(command, workdir), workdir)
        said[number, "step"] = last_step(workdir)
    said["end"] = run("main", command)
    return workdir, said


@pytest.mark.slow
def test_the_pictures_of_a_run_are_drawn(battered_run):
    workdir, _ = battered_run
    for name in ("learning_curves", "class_distribution", "augmented", "report/mistakes"):
        with Image.open(workdir / f"{name}.png") as picture:
            assert min(picture.size) > 100


@pytest.mark.slow
def test_the_battered_run_ends_bit_identical(battered_run, finished_run, small_csv):
    workdir, said = battered_run
    assert said["end"].status == 0, said["end"].err
    state = final_state(workdir, small_csv)
    assert_identical(state, final_state(finished_run, small_csv))
    assert any("ema" in name for name in arrays(state))
    assert any("batch_stats" in name for name in arrays(state))


@pytest.mark.slow
def test_its_figures_are_those_of_the_untouched_run(battered_run, finished_run):
    workdir, _ = battered_run
    assert logged(workdir, "validation") == logged(finished_run, "validation")
    files = [folder / "report" / "predictions.npz" for folder in (workdir, finished_run)]
    one, other = (np.load(file) for file in files)
    for name in one.files:
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.slow
def test_its_metrics_hold_every_step_once_and_in_order(battered_run, finished_run):
    workdir, _ = battered_run
    steps = [record["step"] for record in logged(workdir, "train")]
    assert steps == list(range(1, EPOCH_ENDS[-1] + 1))
    for mine, other in zip(logged(workdir, "train"), logged(finished_run, "train"), strict=True):
        assert mine["loss"] == other["loss"]


@pytest.mark.slow
def test_nothing_half_written_is_left(battered_run):
    workdir, _ = battered_run
    assert not unfinished_saves(workdir)
    assert not list(workdir.glob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_polite_signal_saves_and_says_how_to_continue(battered_run, small_csv, number, status):
    workdir, said = battered_run
    outcome = said[number]
    assert outcome.status == status, outcome.err
    assert "Traceback" not in outcome.err
    assert "continue with: python -m fer_jax.main" in outcome.out
    for flag in small_run(small_csv, workdir):
        assert flag in outcome.out
    following = said[signal.SIGINT if number == signal.SIGTERM else "end"]
    stopped_at = said[number, "step"]
    assert f"continuing after step {stopped_at}\n" in following.out


def test_a_finished_run_started_again_says_so_and_changes_nothing(finished_run, small_csv):
    before = contents(finished_run)
    outcome = call("main", small_run(small_csv, finished_run))
    assert outcome.status == 0
    assert f"already finished at step {EPOCH_ENDS[-1]}" in outcome.out
    assert f"%; see {finished_run}/report/report.md" in outcome.out
    assert contents(finished_run) == before


def test_a_finished_run_whose_checkpoints_were_removed_is_finished(
    finished_run, small_csv, tmp_path
):
    shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    outcome = call("main", small_run(small_csv, tmp_path / "run"))
    assert outcome.status == 0, outcome.err
    assert f"already finished at step {EPOCH_ENDS[-1]}" in outcome.out


def test_a_report_of_an_earlier_checkpoint_finishes_no_run(
    finished_run, small_csv, tmp_path, monkeypatch
):
    """As `evaluate --output=RUN/report` writes one, of a run that was stopped."""
    workdir = tmp_path / "run"
    shutil.copytree(finished_run, workdir)
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (workdir / "metrics.jsonl").write_text("".join(lines[:-2]))
    monkeypatch.setattr(train, "learn", lambda *_: 15)
    outcome = call("main", small_run(small_csv, workdir))
    assert outcome.status == 128 + 15, outcome.err
    assert "already finished" not in outcome.out


def test_going_back_takes_the_report_with_it(finished_run, small_csv, tmp_path, monkeypatch):
    """Else a kill after the last checkpoint would leave the report of what is no more."""
    workdir = tmp_path / "run"
    shutil.copytree(finished_run, workdir)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "fit", killed)
    flags = small_run(small_csv, workdir)
    assert "--step=5: " in call("main", [*flags, "--step=5"]).refusal()
    assert "already finished" in call("main", flags).out
    assert call("main", [*flags, "--step=18"]).status == 130
    assert not (workdir / "report" / "report.json").exists()
    monkeypatch.undo()
    outcome = call("main", flags)
    assert outcome.status == 0, outcome.err
    assert "already finished" not in outcome.out
    assert (workdir / "report" / "report.json").exists()


def test_what_does_not_change_the_result_may_change(finished_run, small_csv, tmp_path):
    before = contents(finished_run)
    moved = tmp_path / "elsewhere.csv"
    moved.write_bytes(small_csv.read_bytes())
    changes = {"log__every_steps": 7, "log__tensorboard": False, "data__cache_mib": 1}
    outcome = call("main", small_run(moved, finished_run, **changes))
    assert outcome.status == 0, outcome.err
    assert "already finished" in outcome.out
    assert contents(finished_run) == before


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"optimizer__learning_rate": 0.5}, "optimizer.learning_rate: 0.0003 -> 0.5"),
        ({"train__epochs": 4}, "train.epochs: 2 -> 4"),
        ({"augment__flip": False}, "augment.flip: True -> False"),
    ],
)
def test_another_configuration_is_refused_with_the_difference(
    finished_run, small_csv, change, difference
):
    before = contents(finished_run)
    line = call("main", small_run(small_csv, finished_run, **change)).refusal()
    assert difference in line
    assert "--workdir" in line
    assert contents(finished_run) == before


def test_other_data_is_refused(finished_run, small_csv, tmp_path):
    before = contents(finished_run)
    lines = small_csv.read_text().splitlines(keepends=True)
    number = next(i for i, line in enumerate(lines) if line.startswith("3,"))
    lines[number] = "4" + lines[number][1:]
    other = tmp_path / "fer2013.csv"
    other.write_text("".join(lines))
    assert "fingerprint.train" in call("main", small_run(other, finished_run)).refusal()
    assert contents(finished_run) == before
