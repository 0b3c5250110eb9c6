"""The parent's side of a contestant: starts its process, asks it, and says why it did not run."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from experiments.benchmark.settings import ROOT, Settings
from fer_jax import cli

PATIENCE = 1200.0  # seconds for one answer: compilers take minutes on few cores
HUGE_PAGES = {cli.TUNABLES: cli.HUGE_PAGES}
TCMALLOC = cli.tcmalloc()  # nothing where it is not installed
ALLOCATORS = {"huge pages": HUGE_PAGES, **({"tcmalloc": TCMALLOC} if TCMALLOC else {})}


class NotRunError(Exception):
    """A contestant that cannot be had here: says why."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A contestant as it is started: which module makes it, of what, in which environment."""

    name: str  # in tables
    room: str
    task: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Child:
    """A contestant's process, to be closed; every method raises NotRunError once it has died."""

    patience = PATIENCE

    def __init__(self, entry: Entry, settings: Settings) -> None:
        self.entry = entry
        self._log = settings.file(f"{entry.room}-{entry.task}-{os.urandom(4).hex()}.log")
        order = {
            "room": entry.room,
            "task": entry.task,
            "settings": dataclasses.asdict(settings),
            "options": dict(entry.options),
        }
        with self._log.open("w") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "experiments.benchmark.child", json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env={**_environment(settings), **entry.environment},
                cwd=ROOT,
                text=True,
            )
        try:
            started = self._read()
        except BaseException:
            self.close()
            raise
        self.about: dict[str, Any] = started["about"]
        self.examples: int = started["examples"]
        self.turns: list[dict[str, float]] = []  # seconds of each, and what else was measured

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def answer(self) -> dict[str, Any]:
        """What it computes of the inputs that all contestants share."""
        return self._ask(do="answer")["answer"]

    def seconds(self, calls: int) -> float:
        """How long so many calls take."""
        reply = self._ask(do="turn", calls=calls)
        self.turns.append({"seconds": reply["seconds"], **reply["extras"]})
        return reply["seconds"]

    def memory(self) -> dict[str, float]:
        """Peaks in MiB, of the process and of its accelerator."""
        return self._ask(do="memory")["memory"]

    def bytes_per_call(self) -> float | None:
        """What a call reads and writes, where its compiler tells."""
        return self._ask(do="bytes")["bytes"]

    def close(self) -> None:
        """End the process; harmless when repeated."""
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()  # its loop ends here
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def _ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise NotRunError(f"its process has ended: {_last_line(self._log)}") from error
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(self.patience, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        in_time = timer.is_alive()
        timer.cancel()
        if not in_time:
            raise NotRunError(f"no answer within {self.patience:g} s")
        if not line:
            status = self._process.wait()
            raise NotRunError(f"its process ended with {status}: {_last_line(self._log)}")
        reply = json.loads(line)
        if "error" in reply:
            raise NotRunError(reply["error"])
        return reply


def _environment(settings: Settings) -> dict[str, str]:
    """The user's, without what only fer_jax would gain by; compilations are kept for this run."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(settings.file("compiled")),
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45",  # two contestants share an accelerator
        **without_allocator(),
    }


def without_allocator() -> dict[str, str]:
    """The user's environment, without what fer_jax's restart put there."""
    return {k: v for k, v in os.environ.items() if k not in (cli.TUNABLES, cli.PRELOAD)}


def _last_line(log: pathlib.Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it said nothing")
