"""Contestants of known speed: in this process, or as real processes that do what they are told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.benchmark import timer
from experiments.benchmark.grid import Entry
from experiments.benchmark.shared import Settings
from experiments.benchmark.timer import NotRunError, Timing

ANSWER = {"logits": np.array([[1.0, -1.0], [-2.0, 2.0]]), "train_loss": 0.5}
MADE_MODULE = """
import itertools, os, time
from experiments.benchmark.shared import Contestant

def make(task, settings, options):
    print("noise on standard output")
    if task == "missing":
        import a_library_that_is_not_there

    def answer():
        if options.get("dies"):
            os.write(2, b"out of everything\\n")
            os._exit(1)
        return {"environment": dict(os.environ)}

    def call(batch):
        start = time.time()
        time.sleep(options.get("seconds", 0))
        if "diary" in options:
            with open(options["diary"], "a") as stream:
                print(options["name"], start, time.time(), file=stream)

    return Contestant({"platform": "cpu"}, 4, answer, itertools.repeat(0), call,
                      untimed=options.get("untimed", 1))
"""


class Made:
    """Instead of `Child`: images per second of turn after turn; the last of them from then on."""

    def __init__(
        self,
        name: str,
        speeds: list[float],
        diary: list[str] | None = None,
        answers: list[Any] | None = None,
        platform: str = "cpu",
    ):
        self.entry, self.speeds, self.answers = Entry(name, "", ""), speeds, answers or [ANSWER]
        self.about, self.closed = {"platform": platform, "device": "made"}, False
        self.diary = [] if diary is None else diary

    def __enter__(self) -> "Made":
        self.closed = False
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def ask(self, question: Callable[..., Any], *_: Any) -> Any:
        if question is timer.answer:
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if question is timer.peak_mib:
            return 1234.0
        self.diary.append(self.entry.name)
        return (self.speeds.pop(0) if len(self.speeds) > 1 else self.speeds[0]), 0.25


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings("mini", 32, 8, 1, str(tmp_path))


@pytest.fixture
def timing(settings: Settings) -> Callable[..., Timing]:
    """Of three turns; made contestants by name, or why they cannot be had, or what starts them."""

    def make(made: dict[str, Any] | Callable[[Entry], Any]) -> Timing:
        def start(entry: Entry, settings: Settings) -> Any:
            found = made(entry) if callable(made) else made[entry.name]
            if isinstance(found, str):
                raise NotRunError(found)
            return found

        return Timing(settings, 3, 1.0, lambda text: None, start)

    return make


@pytest.fixture
def made_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that real child processes can import."""
    (tmp_path / "made_module.py").write_text(MADE_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "made_module"
