"""`python -m fer_jax.main` from its start to its first step or to its end, cold and warm."""

import dataclasses
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from experiments.benchmark import inputs
from experiments.benchmark.children import NotRunError, without_allocator
from experiments.benchmark.settings import ROOT, Settings, config_of

PATIENCE, POLL = 900.0, 0.02  # seconds
METRICS = "metrics.jsonl"
STARTS = ("cold", "warm")  # into an empty cache of compilations, and with a filled one
VALIDATION = 3_589  # images of FER2013's PublicTest


@dataclasses.dataclass(frozen=True)
class Training:
    """A whole run of a recipe."""

    recipe: str  # a Python file with get_config()
    epochs: int
    data: str  # a data set's path, or faces as many as FER2013's are made

    def about(self) -> dict[str, Any]:
        """What decides its time, for JSON."""
        named = {"recipe": self.recipe, "data": self.data}
        return {k: pathlib.Path(v).name for k, v in named.items()} | {"epochs": self.epochs}


def first_steps(settings: Settings) -> dict[str, float]:
    """Seconds from process start to the first step's metrics on disk.

    The data are one batch, since reading all of FER2013 is another thing.
    """
    with tempfile.TemporaryDirectory(dir=settings.folder) as name:
        folder = pathlib.Path(name)
        table = folder / "fer2013.csv"
        write_csv(table, settings.batch)
        return {start: first_step(settings, folder, start) for start in STARTS}


def whole_runs(training: Training, folder: str) -> dict[str, float]:
    """Seconds from process start to end: reading, compiling, training, validating, the report."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place, data = pathlib.Path(name), training.data
        if not data:
            data = str(place / "fer2013.csv")
            write_csv(pathlib.Path(data), inputs.FACES, VALIDATION)
        changed = {"data.path": data, "train.epochs": training.epochs}
        return {start: whole_run(training.recipe, changed, place, start) for start in STARTS}


def whole_run(recipe: str, changed: Mapping[str, Any], folder: pathlib.Path, start: str) -> float:
    """Wait for the front door, which may take hours on a CPU; NotRunError with its last words."""
    log = folder / f"{start}.log"
    with log.open("w") as stream:
        began = time.perf_counter()
        status = subprocess.run(
            door(recipe, folder / start, changed),
            stdout=stream,
            stderr=stream,
            env=_environment(folder / "compiled"),
            cwd=ROOT,
            check=False,
        ).returncode
        took = time.perf_counter() - began
    if status:
        raise NotRunError(f"fer_jax.main ended with {status}: {_last_line(log)}")
    return took


def write_csv(path: pathlib.Path, count: int, held_out: int = inputs.CLASSES) -> None:
    """FER2013's layout: `count` images to train (each class at least once), some to validate."""
    rows = max(count, inputs.CLASSES)
    faces = inputs.made_faces(rows + held_out)
    lines = ["emotion,pixels,Usage"]
    for i, (image, label) in enumerate(zip(faces["image"], faces["label"], strict=True)):
        usage = "Training" if i < rows else "PublicTest"
        lines.append(f"{label},{' '.join(map(str, image.ravel()))},{usage}")
    path.write_text("\n".join(lines) + "\n")


def first_step(settings: Settings, folder: pathlib.Path, start: str) -> float:
    """Start the front door on the data in `folder`, wait for its first record, and end it."""
    workdir, log = folder / start, folder / f"{start}.log"
    with log.open("w") as stream:
        began = time.perf_counter()
        process = subprocess.Popen(
            command(settings, folder, workdir),
            stdout=stream,
            stderr=stream,
            env=_environment(folder / "compiled"),
            cwd=ROOT,
        )
        try:
            while not _has_record(workdir):
                if process.poll() is not None or time.perf_counter() - began > PATIENCE:
                    raise NotRunError(f"fer_jax.main made no step: {_last_line(log)}")
                time.sleep(POLL)
            return time.perf_counter() - began
        finally:
            process.kill()
            process.wait()


def command(settings: Settings, folder: pathlib.Path, workdir: pathlib.Path) -> list[str]:
    """The product's own, with what the benchmark's flags change."""
    config = config_of(settings)
    changed = {
        "data.path": folder / "fer2013.csv",
        "data.image_size": config.data.image_size,
        "model.variant": config.model.variant,
        "model.dtype": config.model.dtype,
        "train.batch_size": config.train.batch_size,
        "log.every_steps": 1,
    }
    return door(settings.config, workdir, changed)


def door(recipe: str, workdir: pathlib.Path, changed: Mapping[str, Any]) -> list[str]:
    """The front door's command line, with `changed` values of the config."""
    overrides = [f"--config.{key}={value}" for key, value in changed.items()]
    command = [sys.executable, "-m", "fer_jax.main", f"--config={recipe}"]
    return [*command, f"--workdir={workdir}", *overrides]


def _environment(cache: pathlib.Path) -> dict[str, str]:
    return {**without_allocator(), "JAX_COMPILATION_CACHE_DIR": str(cache)}


def _last_line(log: pathlib.Path) -> str:
    return " ".join(log.read_text(errors="replace").strip().splitlines()[-1:])


def _has_record(workdir: pathlib.Path) -> bool:
    """Whether the first line of the metrics is whole."""
    try:
        return "\n" in (workdir / METRICS).read_text()
    except FileNotFoundError:
        return False
