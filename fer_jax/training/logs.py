"""What a person and a machine see of a run: progress, JSON lines, TensorBoard events."""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TextIO

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from fer_jax.errors import UserError, writing
from fer_jax.outputs import in_one_step
from fer_jax.sections import Section, key

METRICS_FILE = "metrics.jsonl"
SECONDS_BETWEEN_LINES = 10.0
HINT = "choose a workdir that can be written"
BAR = "{desc} |{bar}| {n_fmt}/{total_fmt}, {remaining} left{postfix}"

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class LogConfig(Section):
    """The section `log`."""

    section = "log"
    every_steps: int = key(1, 10**9, neutral=True)
    tensorboard: bool = key(neutral=True)


@dataclasses.dataclass
class RunLog:
    """Context manager that logs one run, or one continued part of it, into `workdir`.

    `metrics.jsonl` gets one strict JSON line per call of `train` and `validation`, `tensorboard/`
    the same as events; a terminal shows a progress bar, anything else a line now and then. What a
    killed part logged after `start_step` is removed on entry. With `write=False` (every process but
    the first) nothing is touched or printed. UserError where `workdir` cannot be written.
    """

    workdir: Path
    steps_total: int
    steps_per_epoch: float
    batch_size: int  # over all devices and processes
    tensorboard: bool
    write: bool
    start_step: int
    stream: TextIO = dataclasses.field(default_factory=lambda: sys.stdout)  # where a person looks
    clock: Callable[[], float] = time.monotonic

    def __enter__(self) -> Self:
        self._file: TextIO | None = None
        self._events: EventsWriter | None = None
        self._bar: tqdm | None = None
        with contextlib.ExitStack() as stack:
            if self.write:
                self._file = stack.enter_context(open_metrics(self.workdir, self.start_step))
            if self.write and self.tensorboard:
                events = open_events(self.workdir / "tensorboard", self.start_step)
                self._events = stack.enter_context(contextlib.closing(events))
            if self.write and self.stream.isatty():
                self._bar = stack.enter_context(self._open_bar())
            self._close = stack.pop_all().close
        self._start = self._interval = (self.start_step, self.clock())  # what speeds count from
        self._last_line = -math.inf
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def progress(self, step: int) -> None:
        """Moves the progress bar to `step` without logging anything; cheap, for every step."""
        # Metrics are logged some steps after `progress` was told of theirs: never move back.
        if self._bar is not None and step > self._bar.n:
            self._bar.set_description_str(self._epoch(step), refresh=False)
            self._bar.update(step - self._bar.n)

    def train(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs training `metrics` of `step`, with images per second since the last call.

        The interval begins anew at `validation`, so that evaluation does not count as training.
        """
        now, (last_step, last_time) = self.clock(), self._interval
        images = (step - last_step) * self.batch_size
        speed = round(images / max(now - last_time, 1e-9), 2) if images else math.nan
        self._interval = (step, now)
        words = results_line(self._store(step, "train", {**metrics, "images_per_second": speed}))
        if self._bar is not None:
            short = words.replace("  ", ", ").replace("images", "img")
            self._bar.set_postfix_str(short, refresh=False)
            self.progress(step)
            self._bar.refresh()
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            first, since = self._start
            left = (now - since) / max(step - first, 1) * max(self.steps_total - step, 0)
            place = f"{self._epoch(step)}  step {step}/{self.steps_total}"
            self.message(f"{place}  {words}  {tqdm.format_interval(left)} left")

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs the validation `metrics` of the state after `step`; shown in a line of its own."""
        words = results_line(self._store(step, "validation", metrics))
        self.message(f"{self._epoch(step)}  step {step}  {words}")
        self._interval = (step, self.clock())

    def message(self, text: str) -> None:
        """Prints `text` without tearing the progress bar."""
        if self._bar is not None:
            self._bar.write(text, file=self.stream)
        elif self.write:
            print(text, file=self.stream, flush=True)

    def _store(self, step: int, kind: str, metrics: Mapping[str, float]) -> Record:
        """The record, written out at once; None for what is not finite, as strict JSON has it."""
        numbers = {name: float(value) for name, value in metrics.items()}
        values = {
            name: number if math.isfinite(number) else None for name, number in numbers.items()
        }
        epoch = round(step / self.steps_per_epoch, 4)
        record = {"step": step, "epoch": epoch, "kind": kind, **values}
        with writing(f"cannot write {self.workdir}", HINT):
            if self._file is not None:
                self._file.write(json.dumps(record, allow_nan=False) + "\n")
                self._file.flush()
            if self._events is not None:
                tags = {f"{kind}/{n}": v for n, v in {"epoch": epoch, **values}.items()}
                found = [
                    Summary.Value(tag=t, simple_value=v) for t, v in tags.items() if v is not None
                ]
                write_event(self._events, step, summary=Summary(value=found))
        return record

    def _epoch(self, step: int) -> str:
        total = max(1, round(self.steps_total / self.steps_per_epoch))
        current = math.floor((max(step, 1) - 1) / self.steps_per_epoch) + 1
        return f"epoch {min(current, total)}/{total}"

    def _open_bar(self) -> tqdm:
        """A progress bar; 80 columns wide where a terminal does not tell its width."""
        return tqdm(
            total=self.steps_total,
            initial=self.start_step,
            desc=self._epoch(self.start_step),
            bar_format=BAR,
            file=self.stream,
            ncols=shutil.get_terminal_size().columns,
            smoothing=0,
        )


def results_line(record: Mapping[str, Any]) -> str:
    """One record in words: `validation loss 1.2345  accuracy 56.78 %  46 images/s`."""
    kind = "" if record["kind"] == "train" else f"{record['kind']} "
    words = {
        "loss": f"{kind}loss {{}}",
        "accuracy": "accuracy {}",
        "images_per_second": "{} images/s",
    }
    parts = []
    for name, form in {"loss": ".4f", "accuracy": ".2%", "images_per_second": ".0f"}.items():
        if name in record:
            value = "not finite" if record[name] is None else format(record[name], form)
            parts.append(words[name].format(value.replace("%", " %")))
    return "  ".join(parts)


def read_metrics(workdir: Path) -> list[Record]:
    """The records of `workdir`'s metrics.jsonl, oldest first; [] where there are none.

    A torn last line, as a kill leaves it, is passed over; UserError names any other broken line.
    """
    path, records = workdir / METRICS_FILE, []
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check the path") from error
    for number, line in enumerate(lines, start=1):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            record = json.loads(line)
            if isinstance(record["step"], int):
                records.append(record)
                continue
        if line and number < len(lines):
            raise UserError(f"{path} line {number} is not a metrics record: mend or remove it")
    return records


def open_metrics(workdir: Path, start_step: int) -> TextIO:
    """metrics.jsonl, open for appending, without what a killed part wrote after `start_step`."""
    path = workdir / METRICS_FILE
    with writing(f"cannot write {path}", HINT):
        workdir.mkdir(parents=True, exist_ok=True)
        kept = [record for record in read_metrics(workdir) if record["step"] <= start_step]
        text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in kept)
        if path.exists() and text.encode() != path.read_bytes():
            in_one_step(path, lambda new: new.write_text(text))
        return path.open("a", encoding="utf-8")


def open_events(folder: Path, start_step: int) -> EventsWriter:
    """A writer whose events replace, in TensorBoard, those of a killed part after `start_step`.

    SummaryWriter would write through a thread, which loses what it holds when the process is
    killed, and which blocks training for good once it has died of a full disk.
    """
    # The default file name has a resolution of a second: a quick restart would overwrite it.
    suffix = f".{start_step}.{os.getpid()}.{time.monotonic_ns()}"
    with writing(f"cannot write {folder}", HINT):
        folder.mkdir(parents=True, exist_ok=True)
        events = EventsWriter(str(folder / "events"), suffix)
        write_event(events, start_step + 1, session_log=SessionLog(status=SessionLog.START))
        return events


def write_event(events: EventsWriter, step: int, **what: Any) -> None:
    """One event, on disk at once."""
    events.write_event(Event(wall_time=time.time(), step=step, **what))
    events.flush()
