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
from fer_jax.outputs import write_text
from fer_jax.sections import Section, key

METRICS_FILE = "metrics.jsonl"
SECONDS_BETWEEN_LINES = 10.0
BAR = "{desc} |{bar}| {n_fmt}/{total_fmt}, {remaining} left{postfix}"  # on a terminal
LINE = "{desc}, step {n_fmt}/{total_fmt}, {remaining} left{postfix}"  # anywhere else
WORDS = {
    "loss": "loss {:.4f}",
    "accuracy": "accuracy {:.2%}",
    "images_per_second": "{:.0f} images/s",
}


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
        self._terminal = self.stream.isatty()
        with contextlib.ExitStack() as stack:
            if self.write:
                self._file = stack.enter_context(open_metrics(self.workdir, self.start_step))
            if self.write and self.tensorboard:
                events = open_events(self.workdir / "tensorboard", self.start_step)
                self._events = stack.enter_context(contextlib.closing(events))
            shown = self.stream if self._terminal else stack.enter_context(open(os.devnull, "w"))
            self._bar = stack.enter_context(self._open_bar(shown))
            self._close = stack.pop_all().close
        self._interval = (self.start_step, self.clock())  # what the speed counts from
        self._last_line = -math.inf
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def progress(self, step: int) -> None:
        """Moves the progress to `step` without logging anything; cheap, for every step."""
        self._bar.set_description_str(self._epoch(step), refresh=False)
        self._bar.update(step - self._bar.n)

    def train(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs training `metrics` of `step`, with images per second since the last call.

        The interval begins anew at `validation`, so that evaluation does not count as training.
        """
        now, (last_step, last_time) = self.clock(), self._interval
        self._interval = (step, now)
        speed = (step - last_step) * self.batch_size / max(now - last_time, 1e-9)
        words = self._store("train", step, {**metrics, "images_per_second": round(speed, 2)})

        self._bar.set_postfix_str(words)
        if not self._terminal and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            self.message(str(self._bar))

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs the validation `metrics` of the state after `step`; shown in a line of its own."""
        words = self._store("validation", step, metrics)
        self.message(f"{self._epoch(step)}, step {step}, validation {words}")
        self._interval = (step, self.clock())

    def message(self, text: str) -> None:
        """Prints `text` without tearing the progress bar."""
        if self.write:
            with tqdm.external_write_mode(self.stream):
                print(text, file=self.stream, flush=True)

    def _store(self, kind: str, step: int, metrics: Mapping[str, float]) -> str:
        """Writes a record out at once, null for what is not finite; returns it in words."""
        values = {name: float(v) if math.isfinite(v) else None for name, v in metrics.items()}
        epoch = round(step / self.steps_per_epoch, 4)
        record = {"step": step, "epoch": epoch, "kind": kind, **values}
        with writing(f"cannot write {self.workdir}", "choose a workdir that can be written"):
            if self._file is not None:
                self._file.write(json.dumps(record, allow_nan=False) + "\n")
                self._file.flush()
            if self._events is not None:
                finite = {f"{kind}/{name}": v for name, v in values.items() if v is not None}
                scalars = [Summary.Value(tag=tag, simple_value=v) for tag, v in finite.items()]
                write_event(self._events, step, summary=Summary(value=scalars))
        return ", ".join(form.format(metrics[n]) for n, form in WORDS.items() if n in metrics)

    def _epoch(self, step: int) -> str:
        total = max(1, round(self.steps_total / self.steps_per_epoch))
        current = math.floor((max(step, 1) - 1) / self.steps_per_epoch) + 1
        return f"epoch {min(current, total)}/{total}"

    def _open_bar(self, stream: TextIO) -> tqdm:
        """A progress bar; 80 columns wide where a terminal does not tell its width."""
        return tqdm(
            total=self.steps_total,
            initial=self.start_step,
            desc=self._epoch(self.start_step),
            bar_format=BAR if self._terminal else LINE,
            file=stream,
            ncols=shutil.get_terminal_size().columns if self._terminal else None,
            smoothing=0,
            disable=not self.write,
        )


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The records of `workdir`'s metrics.jsonl, oldest first; [] where there are none.

    A torn last line, as a kill leaves it, is passed over; UserError names any other broken line.
    """
    path, records = workdir / METRICS_FILE, []
    with writing(f"cannot read {path}", "check the path"):
        lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            records.append({**record, "step": int(record["step"])})
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            if number < len(lines):
                wrong = f"{path} line {number} is not a metrics record: mend or remove it"
                raise UserError(wrong) from error
    return records


def open_metrics(workdir: Path, start_step: int) -> TextIO:
    """metrics.jsonl, open for appending, without what a killed part wrote after `start_step`."""
    path, records = workdir / METRICS_FILE, read_metrics(workdir)
    kept = [json.dumps(record) + "\n" for record in records if record["step"] <= start_step]
    write_text(path, "".join(kept))
    return path.open("a", encoding="utf-8")


def open_events(folder: Path, start_step: int) -> EventsWriter:
    """A writer whose events replace, in TensorBoard, those of a killed part after `start_step`.

    SummaryWriter would write through a thread, which loses what it holds when the process is
    killed, and which blocks training for good once it has died of a full disk.
    """
    suffix = f".{time.monotonic_ns()}"  # the rest of the name has a resolution of a second
    with writing(f"cannot write {folder}", "choose a workdir that can be written"):
        folder.mkdir(parents=True, exist_ok=True)
        events = EventsWriter(str(folder / "events"), suffix)
        write_event(events, start_step + 1, session_log=SessionLog(status=SessionLog.START))
    return events


def write_event(events: EventsWriter, step: int, **what: Any) -> None:
    """One event, on disk at once."""
    events.write_event(Event(wall_time=time.time(), step=step, **what))
    events.flush()
