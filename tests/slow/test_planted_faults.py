"""Full, read-only and vanished folders, a clock set back, a lost worker: one line, and go on."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import (
    EPOCH_ENDS,
    UNDRAWN,
    assert_identical,
    call,
    finish,
    logged,
    make_trainer,
    read_data,
    run,
    small_run,
    stable_bytes,
    start,
    wait_until,
)

from fer_jax import train
from fer_jax.data.records import fingerprint
from fer_jax.training.checkpoints import Checkpoints

pytestmark = pytest.mark.timeout(1200)  # on a busy machine

COMMANDS = ("main", "evaluate", "prepare", "convert", "recognise")
ROOM = {  # KiB of the disk, more at each try, until the command has enough
    "main": (16, 100, 300, 600, 1200, 64000),
    "evaluate": (8, 16, 24, 32, 2000),
    "prepare": (64, 200, 400, 600, 4000),
    "convert": (16, 64, 128, 4000),
    "recognise": (4, 8, 16, 24, 4000),
}


class Disk:
    """A file system of its own."""

    def __init__(self, place):
        self.place = place
        place.mkdir()
        self.mount("-t", "tmpfs", "-o", "size=1m", "tmpfs")

    def mount(self, *options):
        subprocess.run(["mount", *options, self.place], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path):
    try:
        made = Disk(tmp_path / "disk")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield made
    subprocess.run(["umount", "-l", made.place], check=True)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(70):
        Image.fromarray(draw.integers(0, 256, (48, 48), np.uint8)).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture
def flags(finished_run, small_csv, photographs):
    """The flags of each command, to write below a folder."""

    def of(command, place):
        return {
            "main": small_run(small_csv, place / "run"),
            "evaluate": [f"--checkpoint={finished_run}", f"--output={place / 'report'}"],
            "prepare": [f"--source={small_csv}", f"--output={place / 'prepared'}"],
            "convert": [
                *("--source=fer_jax", f"--input={finished_run}"),
                f"--output={place / 'model.safetensors'}",
            ],
            "recognise": [
                *(photographs, f"--model={finished_run}", "--crop=whole"),
                f"--output={place / 'rows.jsonl'}",
            ],
            "audit": [f"--data={small_csv}", f"--output={place / 'audit'}"],
        }[command]

    return of


def final_state(workdir, data):
    with Checkpoints(workdir, "accuracy", read_only=True) as checkpoints:
        assert checkpoints.latest == EPOCH_ENDS[-1]
        return checkpoints.restore(checkpoints.latest, make_trainer(data).template())


def hidden(place):
    return [path for path in place.rglob(".*") if path.name != ".lock"]


def left(place):
    """What is the same in every run: bytes, of prepared data the records."""
    prints = fingerprint(read_data(place / "prepared")) if (place / "prepared").exists() else {}
    return prints | {
        str(path.relative_to(place)): stable_bytes(path)
        for path in place.rglob("*")
        if path.is_file()
        and path.name not in ("report.json", "report.md")  # name their command
        and ".array_record" not in path.name  # whose records have their values in any order
    }


def assert_the_same_run(workdir, other, data):
    assert_identical(final_state(workdir, data), final_state(other, data))
    assert logged(workdir, "validation") == logged(other, "validation")
    steps = [record["step"] for record in logged(workdir, "train")]
    assert steps == list(range(1, EPOCH_ENDS[-1] + 1))
    predictions = [run / "report" / "predictions.npz" for run in (workdir, other)]
    assert len({path.read_bytes() for path in predictions}) == 1


@pytest.mark.parametrize("command", [*COMMANDS, "audit"])
def test_a_reader_that_goes_takes_nothing_with_it(
    command, flags, finished_run, small_csv, tmp_path
):
    """`COMMAND 2>&1 | head -1`, of a head that reads nothing."""
    process = start(command, flags(command, tmp_path / "unread"))
    process.stdout.close()
    process.stderr.close()
    assert process.wait(500) == 0
    if command == "main":
        assert_the_same_run(tmp_path / "unread" / "run", finished_run, small_csv)
    else:
        call(command, flags(command, tmp_path / "read"))
        unread, read = left(tmp_path / "unread"), left(tmp_path / "read")
        drawn = dict.fromkeys(
            (name for name in read if name.endswith(".png")), b""
        )  # here not drawn
        assert unread | drawn == read | drawn != drawn


@pytest.mark.parametrize("attempt", range(3))  # it is a race of threads
def test_reads_that_nobody_waits_for_any_more_say_nothing(attempt, finished_run, tmp_path):
    """All data files of a checkpoint cut short: many reads fail at once."""
    shutil.copytree(finished_run, tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints" / str(EPOCH_ENDS[-1])).rglob("d/*"):
        os.truncate(file, min(1000, file.stat().st_size))
    flags = [f"--checkpoint={tmp_path / 'run'}", f"--step={EPOCH_ENDS[-1]}"]
    assert "is damaged; that of step" in run("evaluate", flags).refusal()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax' futures
@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_gets_room_bit_by_bit(
    command, disk, flags, finished_run, small_csv, tmp_path, monkeypatch
):
    """Refused at one write after another, each in one line; then as if there had been room."""
    refused = []
    for room in ROOM[command]:
        disk.mount("-o", f"remount,size={room}k")
        outcome = call(command, flags(command, disk.place))
        assert not hidden(disk.place)
        if outcome.status == 0:
            break
        refused.append(outcome.refusal())
    print(*refused, sep="\n")
    assert outcome.status == 0
    assert len(refused) >= 3
    if command == "main":
        assert_the_same_run(disk.place / "run", finished_run, small_csv)
        return
    (tmp_path / "calm").mkdir()
    assert call(command, flags(command, tmp_path / "calm")).status == 0
    assert left(disk.place) == left(tmp_path / "calm")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_cannot_be_written(command, disk, flags):
    disk.mount("-o", "remount,ro")
    assert "Read-only file system" in call(command, flags(command, disk.place)).refusal()


def test_a_workdir_that_vanishes(small_csv, tmp_path, monkeypatch):
    """Removed by another while it trains."""
    monkeypatch.setattr(train, "validate", vanishing(train.validate, tmp_path / "run"))
    line = call("main", small_run(small_csv, tmp_path / "run")).refusal()
    assert str(tmp_path / "run") in line


def vanishing(function, folder):
    def call_without(*arguments, **named):
        shutil.rmtree(folder, ignore_errors=True)
        return function(*arguments, **named)

    return call_without


def test_a_clock_that_is_set_back(finished_run, small_csv, tmp_path, monkeypatch):
    """Between a run's stop and its end, by ten years."""
    workdir = tmp_path / "run"
    shutil.copytree(finished_run, workdir)
    shutil.rmtree(workdir / "report")
    shutil.rmtree(workdir / "checkpoints" / str(EPOCH_ENDS[-1]))
    for name in ("time", "time_ns"):
        clock, back = getattr(time, name), 10 * 365 * 86400 * (1 if name == "time" else 10**9)
        monkeypatch.setattr(time, name, lambda clock=clock, back=back: clock() - back)
    outcome = call("main", small_run(small_csv, workdir))
    assert outcome.status == 0, outcome.err
    assert_the_same_run(workdir, finished_run, small_csv)


def children(process):
    """Process numbers."""
    found = []
    for task in Path(f"/proc/{process.pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has ended
            found += map(int, task.read_text().split())
    return found


def test_a_worker_that_is_killed(small_csv, tmp_path):
    command = small_run(small_csv, tmp_path / "run", data__workers=1, train__epochs=300)
    process = start("main", command, **UNDRAWN)
    wait_until(lambda: logged(tmp_path / "run"), process, 500)
    for number in children(process):
        name = Path(f"/proc/{number}/cmdline").read_bytes()
        if b"resource_tracker" not in name:
            os.kill(number, signal.SIGKILL)
    assert "Worker process was terminated" in finish(process, 300).refusal()
