"""A second process, a damaged checkpoint, a full disk: one line each, and the way on."""

import errno
import gc
import json
import os
import shutil

import filelock
import pytest
from support import EPOCH_ENDS, assert_identical, call, contents, make_trainer, small_run

from fer_jax import train, workdir
from fer_jax.cli import Console
from fer_jax.errors import UserError
from fer_jax.training import checkpoints
from fer_jax.training.checkpoints import Checkpoints

LAST, BEFORE = EPOCH_ENDS[1], 18  # steps of the two latest checkpoints


@pytest.fixture
def damaged(finished_run, tmp_path):
    """The finished run without its report, the largest file of its last checkpoint cut short."""
    place = tmp_path / "run"
    shutil.copytree(finished_run, place)
    shutil.rmtree(place / "report")
    files = (place / "checkpoints" / str(LAST) / "state").rglob("d/*")
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
    return place


def final_state(place, data):
    with Checkpoints(place, "accuracy") as found:
        return found.restore(LAST, make_trainer(data).template())


def test_a_second_process_is_refused_and_changes_nothing(damaged, small_csv):
    with filelock.FileLock(damaged / workdir.LOCK_FILE):
        before = contents(damaged)
        line = call("main", small_run(small_csv, damaged)).refusal()
        assert contents(damaged) == before
    assert f"workdir {damaged} is in use by another process" in line
    with workdir.locked(damaged):  # it was not kept
        pass


def test_two_runs_that_start_at_once_do_not_share_a_folder(
    finished_run, small_csv, tmp_path, monkeypatch
):
    """While the one built its step the other was faster."""
    build = train.make_trainer

    def meanwhile(*given):
        shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
        return build(*given)

    monkeypatch.setattr(train, "make_trainer", meanwhile)
    line = call("main", small_run(small_csv, tmp_path / "run", seed=5)).refusal()
    assert "holds another run (seed: 0 -> 5)" in line
    assert contents(tmp_path / "run").keys() - contents(finished_run).keys() <= {".lock"}


def test_a_damaged_checkpoint_names_the_whole_one_to_go_on_from(damaged, finished_run, small_csv):
    flags = small_run(small_csv, damaged)
    line = call("main", flags).refusal()
    assert f"checkpoints/{LAST} is damaged; that of step {BEFORE} is whole" in line
    assert f"go on from it with --step={BEFORE}" in line
    outcome = call("main", [*flags, f"--step={BEFORE}"])
    assert outcome.status == 0, outcome.err
    assert f"continuing after step {BEFORE}\n" in outcome.out
    assert_identical(final_state(damaged, small_csv), final_state(finished_run, small_csv))


def test_a_step_without_a_checkpoint_is_refused(damaged, small_csv):
    line = call("main", [*small_run(small_csv, damaged), "--step=5"]).refusal()
    assert "--step=5" in line
    assert f"only {', '.join(map(str, sorted({BEFORE, LAST})))}" in line


def test_evaluation_takes_the_step_that_it_is_told(damaged, tmp_path):
    flags = [f"--checkpoint={damaged}", f"--output={tmp_path / 'report'}"]
    outcome = call("evaluate", [*flags, f"--step={BEFORE}"])
    assert outcome.status == 0, outcome.err
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["checkpoint_step"] == BEFORE


def test_without_a_whole_one_beside_it_says_so(damaged, small_csv):
    shutil.rmtree(damaged / "checkpoints" / str(BEFORE))
    line = call("main", small_run(small_csv, damaged)).refusal()
    assert "there is no whole one beside it: train anew" in line


def test_many_damaged_files_are_one_line_each_time(finished_run, small_csv, tmp_path, caplog):
    """Whatever becomes of the reads that go on beside the one that failed."""
    template = make_trainer(small_csv).template()
    for count in range(8):
        place = tmp_path / str(count)
        shutil.copytree(finished_run / "checkpoints", place / "checkpoints")
        for file in place.glob("checkpoints/*/state/**/d/*"):
            file.write_bytes(b"")
        refused = pytest.raises(UserError, match="no whole one beside it")
        with refused as error, Checkpoints(place, "accuracy") as found:
            found.restore(LAST, template)
        assert "\n" not in str(error.value)
        shutil.rmtree(place)
    gc.collect()  # an exception that nobody can raise fails any test
    assert not caplog.records


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_write_that_fails_in_the_background_is_one_line(small_csv, tmp_path, monkeypatch, caplog):
    """Orbax raises it and logs it with a traceback."""
    place = "orbax.checkpoint._src.checkpointers.async_checkpointer"
    monkeypatch.setattr(f"{place}._background_wait_for_commit_futures", full)
    line = call("main", small_run(small_csv, tmp_path / "run")).refusal()
    assert "cannot write a checkpoint" in line
    assert "No space left on device" in line
    assert not [record for record in caplog.records if record.exc_info]


def test_a_disk_that_is_full_for_checkpoints(small_csv, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints.ocp.CheckpointManager, "save", full)
    line = call("main", small_run(small_csv, tmp_path / "run")).refusal()
    assert f"cannot write a checkpoint to {tmp_path}/run/checkpoints, no checkpoint yet" in line
    assert "No space left on device" in line


def test_a_disk_that_is_full_for_pictures(small_csv, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "describe_start", full)
    assert "the disk is full" in call("main", small_run(small_csv, tmp_path / "run")).refusal()


def test_what_a_kill_after_the_last_write_left_is_removed(finished_run, small_csv, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    before = contents(tmp_path / "run")
    (tmp_path / "run" / "report" / ".report.json-unfinished-dead").mkdir()
    outcome = call("main", small_run(small_csv, tmp_path / "run"))
    assert "already finished" in outcome.out
    assert contents(tmp_path / "run") == before
    assert not list((tmp_path / "run" / "report").glob(".*"))


@pytest.mark.parametrize("make", [os.pipe, os.openpty])
def test_a_reader_or_a_terminal_that_goes_costs_the_words_alone(make):
    reader, writer = make()
    with os.fdopen(writer, "w") as stream:
        console = Console(stream)
        os.close(reader)
        for _ in range(3):
            print("words", file=console, flush=True)


def test_a_console_on_a_full_disk_is_an_error():
    with open("/dev/full", "wb", buffering=0) as stream, pytest.raises(OSError, match="No space"):
        Console(stream).write(b"words")
