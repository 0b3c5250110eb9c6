"""A real contestant that does what its options say, and the settings of a small model."""

import os
from pathlib import Path

import pytest

from experiments.benchmark.settings import ROOT, Settings

MADE_ROOM = '''
"""A contestant that does what its options say."""
import os, sys, time

def make(task, settings, options):
    print("noise on standard output")
    if task == "missing":
        import a_library_that_is_not_there
    return Made(options)

class Made:
    examples = 4

    def __init__(self, options):
        self.options, self.calls = options, 0
        self.untimed = options.get("untimed", 1)

    def about(self):
        return {"platform": "cpu", "device": "made", "versions": {}, "threads": 1}

    def answer(self):
        if self.options.get("dies"):
            sys.exit("out of everything")
        time.sleep(self.options.get("thinks", 0))
        return {"loss": 1.0}

    def run(self, calls):
        start = time.time()
        time.sleep(self.options.get("seconds", 0) * calls)
        self.calls += calls
        if "diary" in self.options:
            with open(self.options["diary"], "a") as stream:
                print(self.options["name"], start, time.time(), file=stream)

    def extras(self):
        return {"waited": 0.0, "calls": self.calls}
'''


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = str(ROOT / "configs/b2_scratch.py")
    return Settings(config, "mini", 32, 8, "float32", 1, str(tmp_path))


@pytest.fixture
def made_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that real child processes can import."""
    (tmp_path / "made_room.py").write_text(MADE_ROOM)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    return "made_room"
