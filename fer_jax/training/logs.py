"""What a person and a machine see of a run: progress, JSON lines, TensorBoard events."""

import contextlib
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TextIO

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from fer_jax.errors import UserError
from fer_jax.sections import Section, key

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
SECONDS_BETWEEN_LINES = 10.0
_BAR = "{desc} |{bar}| {n_fmt}/{total_fmt}, {remaining} left{postfix}"

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class LogConfig(Section):
    """The section `log`."""

    section = "log"
    every_steps: int = key(1, 10**9, neutral=True)
    tensorboard: bool = key(neutral=True)


class RunLog:
    """Context manager that logs one run, or one continued part of it, into `workdir`.

    `metrics.jsonl` gets one strict JSON line per call of `train` and `validation`, `tensorboard/`
    the same as events; a terminal shows a progress bar, anything else a line now and then. What a
    killed part logged after `start_step` is removed on entry. With `write=False` (every process but
    the first) nothing is touched or printed. UserError where `workdir` cannot be written.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        steps_total: int,
        steps_per_epoch: float,
        batch_size: int,
        tensorboard: bool,
        write: bool,
        start_step: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`batch_size` is the global one; `stream` is where a person looks (None: stdout)."""
        self._workdir = Path(workdir)
        self._steps_total, self._steps_per_epoch = steps_total, steps_per_epoch
        self._batch_size, self._tensorboard, self._write = batch_size, tensorboard, write
        self._stream, self._clock = stream or sys.stdout, clock
        self._start = self._interval = (start_step, clock())  # (step, time) that speeds count from
        self._last_line = -math.inf
        self._stack = contextlib.ExitStack()
        self._file: TextIO | None = None
        self._events: EventsWriter | None = None
        self._bar: tqdm | None = None

    def __enter__(self) -> Self:
        step, _ = self._start
        with contextlib.ExitStack() as stack:
            if self._write:
                self._file = stack.enter_context(_open_metrics(self._workdir / METRICS_FILE, step))
            if self._write and self._tensorboard:
                folder = self._workdir / TENSORBOARD_FOLDER
                self._events = stack.enter_context(contextlib.closing(_open_events(folder, step)))
            if self._write and self._stream.isatty():
                bar = _bar(self._stream, self._epoch_text(step), step, self._steps_total)
                self._bar = stack.enter_context(bar)
            self._stack = stack.pop_all()
        self._start = self._interval = (step, self._clock())
        return self

    def __exit__(self, *_: object) -> None:
        self._file = self._events = self._bar = None
        self._stack.close()

    def progress(self, step: int) -> None:
        """Moves the progress bar to `step` without logging anything; cheap, for every step."""
        # Metrics are logged some steps after `progress` was told of theirs: never move back.
        if self._bar is not None and step > self._bar.n:
            self._bar.set_description_str(self._epoch_text(step), refresh=False)
            self._bar.update(step - self._bar.n)

    def train(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs training `metrics` of `step`, with images per second since the last call.

        The interval begins anew at `validation`, so that evaluation does not count as training.
        """
        now, (last_step, last_time) = self._clock(), self._interval
        images = (step - last_step) * self._batch_size
        speed = round(images / max(now - last_time, 1e-9), 2) if images else math.nan
        self._interval = (step, now)
        record = self._store(step, "train", {**metrics, "images_per_second": speed})
        words = results_line(record)
        if self._bar is not None:
            short = words.replace("  ", ", ").replace("images", "img")
            self._bar.set_postfix_str(short, refresh=False)
            self.progress(step)
            self._bar.refresh()
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            place = f"{self._epoch_text(step)}  step {step}/{self._steps_total}"
            self.message(f"{place}  {words}  {self._time_left(step)} left")

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs the validation `metrics` of the state after `step`; shown in a line of its own."""
        record = self._store(step, "validation", metrics)
        self.message(f"{self._epoch_text(step)}  step {step}  {results_line(record)}")
        self._interval = (step, self._clock())

    def message(self, text: str) -> None:
        """Prints `text` without tearing the progress bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        elif self._write:
            self._stream.write(text + "\n")
        if self._write:
            self._stream.flush()

    def _store(self, step: int, kind: str, metrics: Mapping[str, float]) -> Record:
        """The record, written out at once."""
        epoch = round(step / self._steps_per_epoch, 4)
        values = {name: _plain(value) for name, value in metrics.items()}
        record = {"step": int(step), "epoch": epoch, "kind": kind, **values}
        if not self._write:
            return record
        if self._file is None:
            raise RuntimeError("RunLog is used outside its `with` block")
        try:
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
            if self._events is not None:
                _write_events(self._events, record)
        except OSError as error:
            raise _unwritable(self._workdir, error) from error
        return record

    def _epoch_text(self, step: int) -> str:
        total = max(1, round(self._steps_total / self._steps_per_epoch))
        current = math.floor((max(step, 1) - 1) / self._steps_per_epoch) + 1
        return f"epoch {min(current, total)}/{total}"

    def _time_left(self, step: int) -> str:
        start_step, start_time = self._start
        each = (self._clock() - start_time) / max(step - start_step, 1)
        return str(tqdm.format_interval(each * max(self._steps_total - step, 0)))


def read_metrics(workdir: str | os.PathLike[str]) -> list[Record]:
    """The records of `workdir`'s metrics.jsonl, oldest first; [] where there are none.

    A torn last line, as a kill leaves it, is passed over; UserError names any other broken line.
    """
    path = Path(workdir) / METRICS_FILE
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check the path") from error
    records = []
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is not None:
            records.append(record)
        elif line and number < len(lines):
            raise UserError(f"{path} line {number} is not a metrics record: mend or remove it")
    return records


def results_line(record: Mapping[str, Any]) -> str:
    """One record in words: `validation loss 1.2345  accuracy 56.78 %  46 images/s`."""
    kind = "" if record["kind"] == "train" else f"{record['kind']} "
    parts = []
    if "loss" in record:
        parts.append(f"{kind}loss {_number(record['loss'], '.4f')}")
    if "accuracy" in record:
        parts.append(f"accuracy {_number(record['accuracy'], '.2%').replace('%', ' %')}")
    if "images_per_second" in record:
        parts.append(f"{_number(record['images_per_second'], '.0f')} images/s")
    return "  ".join(parts)


def _bar(stream: TextIO, epoch: str, step: int, steps: int) -> tqdm:
    """A progress bar at `step`; 80 columns wide where a terminal does not tell its width."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns  # 0 under some container runtimes
    except (OSError, ValueError):
        columns = 0
    return tqdm(
        total=steps,
        initial=step,
        desc=epoch,
        bar_format=_BAR,
        file=stream,
        dynamic_ncols=columns > 0,
        ncols=None if columns else 80,
        smoothing=0,
    )


def _open_metrics(path: Path, start_step: int) -> TextIO:
    """metrics.jsonl, open for appending, without what a killed part wrote after `start_step`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _truncate(path, start_step)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error


def _truncate(path: Path, start_step: int) -> None:
    if not path.exists():
        return
    kept = [record for record in read_metrics(path.parent) if record["step"] <= start_step]
    text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in kept).encode()
    if text == path.read_bytes():
        return
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(text)
    os.replace(temporary, path)


def _open_events(folder: Path, start_step: int) -> EventsWriter:
    """A writer whose events replace, in TensorBoard, those of a killed part after `start_step`.

    SummaryWriter would write through a thread, which loses what it holds when the process is
    killed, and which blocks training for good once it has died of a full disk.
    """
    # The default file name has a resolution of a second: a quick restart would overwrite it.
    suffix = f".{start_step}.{os.getpid()}.{time.monotonic_ns()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        events = EventsWriter(str(folder / "events"), suffix)
        purge = SessionLog(status=SessionLog.START)
        events.write_event(Event(wall_time=time.time(), step=start_step + 1, session_log=purge))
        events.flush()
        return events
    except OSError as error:
        raise _unwritable(folder, error) from error


def _write_events(events: EventsWriter, record: Record) -> None:
    values = [
        Summary.Value(tag=f"{record['kind']}/{name}", simple_value=value)
        for name, value in record.items()
        if name not in ("step", "kind") and value is not None
    ]
    summary = Summary(value=values)
    events.write_event(Event(wall_time=time.time(), step=record["step"], summary=summary))
    events.flush()


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _plain(value: Any) -> float | int | None:
    """A Python number of any scalar; None where it is not finite, since strict JSON has no NaN."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _number(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)


def _unwritable(path: Path, error: OSError) -> UserError:
    reason = error.strerror or str(error)
    return UserError(f"cannot write {path} ({reason}): choose a workdir that can be written")
