"""The run's log: JSON lines, resuming, TensorBoard events, a terminal and a pipe."""

import io
import json
import os
import re
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from fer_jax.errors import UserError
from fer_jax.training.logs import METRICS_FILE, RunLog, read_metrics


class Clock:
    """Time that passes only when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def run_log(workdir, **changes) -> RunLog:
    settings = {
        "steps_total": 40,
        "steps_per_epoch": 10,
        "batch_size": 64,
        "tensorboard": False,
        "write": True,
        "start_step": 0,
        "stream": io.StringIO(),
        **changes,
    }
    return RunLog(workdir, **settings)


def metrics(loss=1.5):
    return {"loss": loss, "accuracy": 0.25, "learning_rate": 1e-3}


def events(workdir) -> list[Event]:
    """Parses TFRecords: uint64 length, uint32 crc, data, uint32 crc."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_one_strict_json_line_per_call(tmp_path):
    clock = Clock()
    with run_log(tmp_path, clock=clock) as log:
        clock.sleep(8)
        log.train(5, metrics())
        log.validation(10, {"loss": np.float32(0.1), "accuracy": 2017 / 3589})
    lines = (tmp_path / METRICS_FILE).read_text().splitlines()
    assert json.loads(lines[0]) == {
        "step": 5,
        "epoch": 0.5,
        "kind": "train",
        "loss": 1.5,
        "accuracy": 0.25,
        "learning_rate": 0.001,
        "images_per_second": 40.0,
    }
    validation = json.loads(lines[1])
    assert validation["kind"] == "validation"
    assert validation["epoch"] == 1.0
    assert validation["accuracy"] == 2017 / 3589
    assert np.float32(validation["loss"]) == np.float32(0.1)
    assert read_metrics(tmp_path) == [json.loads(line) for line in lines]


def test_what_is_not_finite_becomes_null(tmp_path):
    with run_log(tmp_path, tensorboard=True) as log:
        log.train(1, metrics(float("nan")))
        log.validation(1, {"loss": float("inf"), "accuracy": float("-inf")})
    text = (tmp_path / METRICS_FILE).read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert [record["loss"] for record in read_metrics(tmp_path)] == [None, None]


def test_speed_leaves_out_evaluation(tmp_path):
    clock = Clock()
    with run_log(tmp_path, clock=clock) as log:
        clock.sleep(10)
        log.train(5, metrics())
        clock.sleep(16)
        log.train(10, metrics())
        clock.sleep(1000)
        log.validation(10, metrics())
        clock.sleep(4)
        log.train(15, metrics())
    speeds = [row["images_per_second"] for row in read_metrics(tmp_path) if row["kind"] == "train"]
    assert speeds == [32.0, 20.0, 80.0]


def test_speed_after_a_restart_counts_the_steps_of_this_part(tmp_path):
    clock = Clock()
    with run_log(tmp_path, clock=clock, start_step=30) as log:
        clock.sleep(64)
        log.train(31, metrics())
    assert read_metrics(tmp_path)[0]["images_per_second"] == 1.0


def test_every_line_is_on_disk_at_once(tmp_path):
    with run_log(tmp_path, tensorboard=True) as log:
        for step in (1, 2):
            log.train(step, metrics())
            assert len(read_metrics(tmp_path)) == step
            assert events(tmp_path)[-1].step == step


def test_resuming_removes_what_the_killed_part_wrote_too_much(tmp_path):
    with run_log(tmp_path) as log:
        for step in range(5, 31, 5):
            log.train(step, metrics(step))
        log.validation(20, metrics())
        log.validation(30, metrics())
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 35, "epoch": 3.5, "ki')
    with run_log(tmp_path, start_step=20) as log:
        assert [row["step"] for row in read_metrics(tmp_path)] == [5, 10, 15, 20, 20]
        log.train(25, metrics(99))
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 20, 25]
    assert rows[-1]["loss"] == 99
    assert {path.name for path in tmp_path.iterdir()} == {METRICS_FILE}


def test_resuming_from_nothing_removes_all(tmp_path):
    with run_log(tmp_path) as log:
        log.train(5, metrics())
    with run_log(tmp_path) as log:
        log.train(1, metrics())
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]


@pytest.mark.parametrize(
    "torn", ['{"step": 6', "{", '{"step": 6, "kind": "tr', '"step"', "\x00\x00"]
)
def test_torn_last_line_is_passed_over(tmp_path, torn):
    good = json.dumps({"step": 5, "epoch": 0.5, "kind": "train"})
    (tmp_path / METRICS_FILE).write_text(f"{good}\n{torn}")
    assert [row["step"] for row in read_metrics(tmp_path)] == [5]
    with run_log(tmp_path, start_step=7) as log:
        log.train(8, metrics())
    assert [row["step"] for row in read_metrics(tmp_path)] == [5, 8]


def test_whole_last_line_without_its_newline_is_kept(tmp_path):
    (tmp_path / METRICS_FILE).write_text('{"step": 5, "epoch": 0.5, "kind": "train"}')
    with run_log(tmp_path, start_step=5) as log:
        log.train(8, metrics())
    assert [row["step"] for row in read_metrics(tmp_path)] == [5, 8]


@pytest.mark.parametrize("line", ["nonsense", '{"step": 1e999}', '{"step": null}', "[]"])
def test_broken_line_in_the_middle_is_named(tmp_path, line):
    (tmp_path / METRICS_FILE).write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl line 2 is not a metrics record"):
        read_metrics(tmp_path)


def test_no_file_is_no_records(tmp_path):
    assert read_metrics(tmp_path / "nowhere") == []


@pytest.mark.slow
def test_killed_process_loses_nothing_that_it_logged(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from fer_jax.training.logs import RunLog
log = RunLog(Path(sys.argv[1]), steps_total=9, steps_per_epoch=3, batch_size=1, tensorboard=True,
             write=True, start_step=0)
with log:
    for step in range(1, 8):
        log.train(step, {"loss": 1.0, "accuracy": 0.5})
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == -9, done.stderr
    assert [row["step"] for row in read_metrics(tmp_path)] == list(range(1, 8))
    assert [event.step for event in events(tmp_path) if event.HasField("summary")] == [*range(1, 8)]


def test_tensorboard_events_and_purge(tmp_path):
    before = set(threading.enumerate())
    with run_log(tmp_path, tensorboard=True) as log:
        log.train(5, metrics())
        log.validation(10, metrics(0.5))
    with run_log(tmp_path, tensorboard=True, start_step=5) as log:
        log.train(6, metrics())
    assert set(threading.enumerate()) <= before  # those of tests before may end meanwhile
    found = events(tmp_path)
    values = {
        (event.step, value.tag): value.simple_value
        for event in found
        for value in event.summary.value
    }
    assert values[5, "train/loss"] == 1.5
    assert values[5, "train/learning_rate"] == pytest.approx(1e-3)
    assert values[10, "validation/loss"] == 0.5
    assert not any(tag.endswith(("/step", "/kind")) for _, tag in values)
    starts = [e.step for e in found if e.session_log.status == SessionLog.START]
    assert sorted(starts) == [1, 6], "TensorBoard drops events from this step on"
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_other_processes_touch_and_print_nothing(tmp_path):
    stream = Terminal()
    with run_log(tmp_path / "new", write=False, tensorboard=True, stream=stream) as log:
        log.progress(1)
        log.train(5, metrics())
        log.validation(10, metrics())
        log.message("quiet")
    assert not (tmp_path / "new").exists()
    assert stream.getvalue() == ""


def test_pipe_gets_few_whole_lines(tmp_path):
    stream, clock = io.StringIO(), Clock()
    with run_log(tmp_path, stream=stream, clock=clock) as log:
        for step in range(1, 21):
            clock.sleep(4)
            log.progress(step)
            log.train(step, metrics())
        log.validation(20, metrics())
        log.message("saved")
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue()
    first = r"epoch 1/4, step 1/40, \d\d:\d\d left, loss 1.5000, accuracy 25.00%, 16 images/s"
    assert re.fullmatch(first, lines[0])
    assert [line.split("step ")[1].split("/")[0] for line in lines[:-2]] == [
        "1", "4", "7", "10", "13", "16", "19"
    ]  # fmt: skip
    assert lines[-2] == "epoch 2/4, step 20, validation loss 1.5000, accuracy 25.00%"
    assert lines[-1] == "saved"
    assert len(read_metrics(tmp_path)) == 21


def test_terminal_gets_a_bar_that_messages_do_not_tear(tmp_path):
    stream, clock = Terminal(), Clock()
    with run_log(tmp_path, stream=stream, clock=clock) as log:
        log.progress(11)
        log.train(20, metrics())
        log.message("saved step 20")
        log.validation(20, metrics())
        clock.sleep(10)
        log.progress(30)
        log.train(30, metrics())
    text = stream.getvalue()
    states = text.replace("\n", "\r").split("\r")
    bar = [state for state in states if "|" in state][-1]
    for part in ("epoch 3/4", "30/40", "left", "loss 1.5000", "accuracy 25.00%", "images/s"):
        assert part in bar
    assert "saved step 20" in states, "the message shares its line with the bar"
    assert "epoch 2/4, step 20, validation loss 1.5000, accuracy 25.00%" in states


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX")
def test_real_terminal_of_unknown_width(tmp_path):
    """Some container runtimes report 0 columns; tqdm would then draw nothing."""
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as stream:
        with run_log(tmp_path, stream=stream) as log:
            log.progress(10)
            log.train(10, metrics())
        seen = ""
        while "10/40" not in seen:
            seen += os.read(master, 4096).decode()
    os.close(master)
    assert "epoch 1/4 |" in seen


def test_bar_leaves_no_thread_behind(tmp_path):
    before = set(threading.enumerate())
    with run_log(tmp_path, stream=Terminal(), tensorboard=True) as log:
        log.train(1, metrics())
    assert set(threading.enumerate()) <= before


def test_epochs_of_uneven_length(tmp_path):
    """10 images in batches of 4 are 2.5 steps an epoch: steps 3, 5, 8 end one."""
    stream = io.StringIO()
    with run_log(tmp_path, stream=stream, steps_per_epoch=2.5, steps_total=8) as log:
        for step in (1, 3, 5, 6, 8):
            log.validation(step, metrics())
    shown = [line.split()[1].strip(",") for line in stream.getvalue().splitlines()]
    assert shown == ["1/3", "1/3", "2/3", "3/3", "3/3"]
    assert [row["epoch"] for row in read_metrics(tmp_path)] == [0.4, 1.2, 2.0, 2.4, 3.2]


def test_workdir_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write") as caught, run_log(tmp_path / "file"):
        pass
    assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "in the way"


def test_tensorboard_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "tensorboard").write_text("in the way")
    with (
        pytest.raises(UserError, match=r"cannot write .*tensorboard"),
        run_log(tmp_path, tensorboard=True),
    ):
        pass
