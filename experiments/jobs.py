"""A job: one command that fills one folder, done once; its report tells that it came to its end."""

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from fer_jax.config import load_config
from fer_jax.data.files import sha256
from fer_jax.errors import FerError, UserError
from fer_jax.evaluation.predictions import PREDICTIONS_FILE, REPORT_FILE
from fer_jax.outputs import write_text
from fer_jax.training.logs import read_metrics

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
COMMAND_FILE, REPORT = "command.txt", "report"


@dataclass(frozen=True)
class Job:
    """One run of fer_jax.main or fer_jax.evaluate."""

    name: str
    seed: str  # "" where none is drawn
    folder: Path
    report: Path
    """The folder of its report."""
    command: tuple[str, ...]
    config: str = ""  # the whole of it, as JSON
    reads: tuple[Path, ...] = ()  # files that decide its result

    @property
    def made_of(self) -> str:
        """The command, and a digest of what the config and the files say that it names."""
        told = [sha256(path) if path.is_file() else "" for path in self.reads]
        digest = hashlib.sha256(json.dumps([self.config, *told]).encode()).hexdigest()
        return f"{shlex.join(self.command)}\n{digest}\n"

    @property
    def finished(self) -> bool:
        """Whether its report is there, made of the very same."""
        asked = self.folder / COMMAND_FILE
        same = asked.is_file() and asked.read_text() == self.made_of
        return same and (self.report / REPORT_FILE).is_file()


class JobStopped(FerError):
    """A job did not come to its end."""

    def __init__(self, job: Job, status: int) -> None:
        self.status = abs(status)
        advice = "what it refused is said above" if status == 2 else "the same command goes on"
        super().__init__(f"{job.folder} ended with {status}; {advice}")


def _command(door: str, given: Iterable[tuple[str, Any]]) -> tuple[str, ...]:
    return (sys.executable, "-m", f"fer_jax.{door}", *(f"--{flag}={to}" for flag, to in given))


def training(name: str, seed: str, folder: Path, config: str, settings: Mapping[str, Any]) -> Job:
    """A run of the file `config` in configs/, its keys set to `settings`."""
    given = {"config": CONFIGS / config, "workdir": folder, "config.seed": seed}
    given |= {f"config.{key}": value for key, value in settings.items()}
    command = _command("main", given.items())
    raw = load_config(CONFIGS / config, config)
    files = {"init.weights": raw.init.weights, "data.targets": raw.data.targets, **settings}
    reads = tuple(Path(files[key]).expanduser() for key in ("init.weights", "data.targets"))
    return Job(name, seed, folder, folder / REPORT, command, raw.to_json(), reads)


def evaluation(
    name: str, seed: str, folder: Path, checkpoints: Sequence[Path], flags: Mapping[str, str]
) -> Job:
    """A report on `checkpoints`, several of which are an ensemble."""
    given = [*(("checkpoint", path) for path in checkpoints), *flags.items(), ("output", folder)]
    command = _command("evaluate", given)
    answers = tuple(path / REPORT / PREDICTIONS_FILE for path in checkpoints)
    return Job(name, seed, folder, folder, command, reads=answers)


def last_accuracy(folder: Path) -> float:
    """Of validation after a training run's last epoch, whichever epoch was chosen."""
    return [r["accuracy"] for r in read_metrics(folder) if r["kind"] == "validation"][-1]


def overrides(settings: Sequence[str], flag: str = "set") -> dict[str, str]:
    """KEY=VALUE texts of `flag` -> a dict; UserError where one is none."""
    wrong = [text for text in settings if not text.partition("=")[1]]
    if wrong:
        raise UserError(f"--{flag}={wrong[0]}: write --{flag}=KEY=VALUE")
    return dict(text.split("=", 1) for text in settings)


def seeds(texts: Sequence[str], flag: str, least: int = 1) -> list[str]:
    """As they are named; UserError unless `flag` has `least` whole numbers or more, all other."""
    found = {str(int(text)) for text in texts if text.isdecimal()}
    if len(found) < max(least, len(texts)):
        raise UserError(f"--{flag}={','.join(texts)}: give {least} or more numbers, each once")
    return [str(int(text)) for text in texts]


def perform(job: Job) -> None:
    """Run it to its end, unless it is there; JobStopped, with its status, where it ends otherwise.

    A stop asked of this process by Ctrl-C reaches the job too, which saves.
    """
    made_of = job.made_of
    if job.finished:
        print(f"  finished: {job.report}", flush=True)
        return
    try:
        status = subprocess.run(job.command, check=False).returncode
    except KeyboardInterrupt:
        status = 130
    if status:
        raise JobStopped(job, status)
    write_text(job.folder / COMMAND_FILE, made_of)


def earlier_rows(output: Path, results: str, *others: str) -> list[dict[str, Any]]:
    """Of the file `results` in `output`, whose torn last line, as a kill leaves it, is cut off.

    It and the `others` are removed if another checkout, version or library left them.
    """
    makers = ("configs/*.py", "experiments/fuzz.py", "experiments/faults.py", "tests/[!t]*.py")
    sources = sorted(path for some in ("fer_jax/**/*.py", *makers) for path in ROOT.glob(some))
    libraries = sorted(f"{found.name} {found.version}" for found in distributions())
    about = [str(ROOT), sys.version, *libraries, *map(sha256, sources)]
    code, mark = hashlib.sha256(json.dumps(about).encode()).hexdigest(), output / "code.txt"
    if not mark.exists() or mark.read_text() != code:
        for place in (output / name for name in (results, *others)):
            place.unlink(missing_ok=True) if place.is_file() else shutil.rmtree(place, True)
        write_text(mark, code)
    path = output / results
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_text(path, whole)
    return [json.loads(line) for line in whole.splitlines()]
