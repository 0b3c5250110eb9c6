"""From the start of `python -m fer_jax.main` to its first training step, cold and warm."""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

from experiments.benchmark import inputs
from experiments.benchmark.children import NotRunError
from experiments.benchmark.settings import ROOT, Settings, config_of
from fer_jax import memory

PATIENCE, POLL = 900.0, 0.02  # seconds
METRICS = "metrics.jsonl"
STARTS = ("cold", "warm")


def first_steps(settings: Settings) -> dict[str, float]:
    """Seconds from process start to the first step's metrics on disk.

    `cold` compiles into an empty persistent cache, `warm` finds it filled. The
    data are one batch, since reading all of FER2013 is another thing.
    """
    with tempfile.TemporaryDirectory(dir=settings.folder) as name:
        folder = pathlib.Path(name)
        table = folder / "fer2013.csv"
        write_csv(table, settings.batch)
        return {start: first_step(settings, folder, start) for start in STARTS}


def write_csv(path: pathlib.Path, count: int) -> None:
    """FER2013's layout: `count` images to train (each class at least once), seven to validate."""
    rows = max(count, inputs.CLASSES)
    faces = inputs.made_faces(rows + inputs.CLASSES)
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
                    said = log.read_text(errors="replace").strip().splitlines()[-1:]
                    raise NotRunError(f"fer_jax.main made no step: {' '.join(said)}")
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
    overrides = [f"--config.{key}={value}" for key, value in changed.items()]
    door = [sys.executable, "-m", "fer_jax.main", f"--config={settings.config}"]
    return [*door, f"--workdir={workdir}", *overrides]


def _environment(cache: pathlib.Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k != memory.VARIABLE}
    return {**kept, "JAX_COMPILATION_CACHE_DIR": str(cache)}


def _has_record(workdir: pathlib.Path) -> bool:
    """Whether the first line of the metrics is whole."""
    try:
        return "\n" in (workdir / METRICS).read_text()
    except FileNotFoundError:
        return False
