"""What a person and a machine see of a run: progress, JSON lines, TensorBoard events."""

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
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
        self._steps_per_epoch = steps_per_epoch
        self._batch_size = batch_size
        self._tensorboard = tensorboard
        self._write = write
        self._start_step = start_step
        self._clock = clock
        self._interval = (start_step, clock())
        self._console = _Console(stream or sys.stdout, start_step, steps_total, clock)
        self._file: TextIO | None = None
        self._events: EventsWriter | None = None

    def __enter__(self) -> Self:
        if self._write:
            try:
                self._open()
            except BaseException:
                self._close()
                raise
        self._interval = (self._start_step, self._clock())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def progress(self, step: int) -> None:
        """Moves the progress bar to `step` without logging anything; cheap, for every step."""
        if self._write:
            self._console.advance(step, self._epoch_text(step))

    def train(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs training `metrics` of `step`, with images per second since the last call.

        The interval begins anew at `validation`, so that evaluation does not count as training.
        """
        now = self._clock()
        last_step, last_time = self._interval
        images = (step - last_step) * self._batch_size
        speed = round(images / max(now - last_time, 1e-9), 2) if images else math.nan
        self._interval = (step, now)
        record = self._record(step, "train", {**metrics, "images_per_second": speed})
        if self._write:
            self._store(record)
            self._console.train(step, self._epoch_text(step), record)

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs the validation `metrics` of the state after `step`; shown in a line of its own."""
        record = self._record(step, "validation", metrics)
        if self._write:
            self._store(record)
            self._console.message(f"{self._epoch_text(step)}  step {step}  {results_line(record)}")
        self._interval = (step, self._clock())

    def message(self, text: str) -> None:
        """Prints `text` without tearing the progress bar."""
        if self._write:
            self._console.message(text)

    def _open(self) -> None:
        self._file = _open_metrics(self._workdir / METRICS_FILE, self._start_step)
        if self._tensorboard:
            self._events = _open_events(self._workdir / TENSORBOARD_FOLDER, self._start_step)
        self._console.open(self._epoch_text(self._start_step))

    def _close(self) -> None:
        self._console.close()
        if self._events is not None:
            self._events.close()
            self._events = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _record(self, step: int, kind: str, metrics: Mapping[str, float]) -> Record:
        epoch = round(step / self._steps_per_epoch, 4)
        values = {name: _plain(value) for name, value in metrics.items()}
        return {"step": int(step), "epoch": epoch, "kind": kind, **values}

    def _store(self, record: Record) -> None:
        if self._file is None:
            raise RuntimeError("RunLog is used outside its `with` block")
        try:
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
            if self._events is not None:
                _write_events(self._events, record)
        except OSError as error:
            raise _unwritable(self._workdir, error) from error

    def _epoch_text(self, step: int) -> str:
        total = max(1, round(self._console.steps_total / self._steps_per_epoch))
        current = math.floor((max(step, 1) - 1) / self._steps_per_epoch) + 1
        return f"epoch {min(current, total)}/{total}"


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


class _Console:
    """The part that a person watches: a bar on a terminal, otherwise a line now and then."""

    def __init__(
        self, stream: TextIO, start_step: int, steps_total: int, clock: Callable[[], float]
    ):
        self.steps_total = steps_total
        self._stream = stream
        self._start_step = start_step
        self._clock = clock
        self._start_time = clock()
        self._last_line = -math.inf
        self._bar: tqdm | None = None

    def open(self, epoch: str) -> None:
        self._start_time = self._clock()
        if self._stream.isatty():
            self._bar = tqdm(
                total=self.steps_total,
                initial=self._start_step,
                desc=epoch,
                bar_format=_BAR,
                file=self._stream,
                dynamic_ncols=_columns(self._stream) > 0,
                ncols=None if _columns(self._stream) > 0 else 80,
                smoothing=0,
            )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def advance(self, step: int, epoch: str) -> None:
        # Metrics are logged some steps after `progress` was told of theirs: never move back.
        if self._bar is not None and step > self._bar.n:
            self._bar.set_description_str(epoch, refresh=False)
            self._bar.update(step - self._bar.n)

    def train(self, step: int, epoch: str, record: Record) -> None:
        words = results_line(record)
        if self._bar is not None:
            short = words.replace("  ", ", ").replace("images", "img")
            self._bar.set_postfix_str(short, refresh=False)
            self.advance(step, epoch)
            self._bar.refresh()
        elif self._clock() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = self._clock()
            left = f"{self._time_left(step)} left"
            self.message(f"{epoch}  step {step}/{self.steps_total}  {words}  {left}")

    def message(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def _time_left(self, step: int) -> str:
        done = max(step - self._start_step, 1)
        seconds = (self._clock() - self._start_time) / done * max(self.steps_total - step, 0)
        return str(tqdm.format_interval(seconds))


def _columns(stream: TextIO) -> int:
    """The terminal's width, 0 where it does not tell, as under some container runtimes."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0


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
