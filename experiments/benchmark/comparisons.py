"""The comparisons, task by task; and how long fer_jax takes from its start to its first step."""

import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from experiments.benchmark import shared, timer
from experiments.benchmark.grid import COMPARED, grid, ours
from experiments.benchmark.shared import CONFIG, ROOT, Settings
from experiments.benchmark.timer import NotRunError, Row, Timing


def comparisons(chosen: Sequence[str], timing: Timing, gpu: bool) -> Iterator[tuple[str, Row]]:
    """A row for each of the chosen, whatever may come of it."""
    for task, peers in COMPARED.items():
        names = {f"{task}_vs_{peer}": peer for peer in peers if f"{task}_vs_{peer}" in chosen}
        try:
            yield from _of_task(task, names, timing, gpu) if names else ()
        except NotRunError as error:
            yield from ((name, failed(error)) for name in names)
    for name, measure in {"whole_loop": whole_loop, "first_step": first_step}.items():
        if name in chosen:
            timing.say(name)
            try:
                yield name, measure(timing)
            except NotRunError as error:
                yield name, failed(error)


def _of_task(
    task: str, names: dict[str, str], timing: Timing, gpu: bool
) -> Iterator[tuple[str, Row]]:
    """fer_jax, and one peer's grid after the other against it."""
    timing.say(f"{task}: fer_jax")
    with timing.start(ours(task), timing.settings) as child:
        reference = child.about["platform"], child.ask(timer.answer)
        for name, peer in names.items():
            timing.say(name)
            entries = grid(peer, task, timing.settings.threads, gpu)
            yield name, timer.compare(child, reference, entries, timing)


def whole_loop(timing: Timing) -> Row:
    """Pipeline and step together against the step alone; the share of time without a batch."""
    start, settings = timing.start, timing.settings
    with start(ours("loop"), settings) as loop, start(ours("train"), settings) as step:
        return timer.duel(loop, step, timing)


def first_step(timing: Timing) -> Row:
    """Seconds from process start to the first step's metrics on disk; the data are two batches.

    Cold is with an empty cache of compilations, warm with the one that this has filled.
    """
    folder, count = timing.settings.file("first_step"), max(timing.settings.batch, shared.CLASSES)
    folder.mkdir()
    lines, faces = ["emotion,pixels,Usage"], shared.faces(2 * count)
    for n, (image, label) in enumerate(zip(*faces.values(), strict=True)):
        usage = "Training" if n < count else "PublicTest"
        lines.append(f"{label},{' '.join(map(str, image.ravel()))},{usage}")
    (folder / "fer2013.csv").write_text("\n".join(lines) + "\n")
    seconds = {start: _seconds(timing.settings, folder, start) for start in ("cold", "warm")}
    return {"status": timer.MEASURED, "seconds": seconds}


def failed(error: NotRunError) -> Row:
    """It was fer_jax that could not be run."""
    return {"status": timer.FAILED, "reason": f"fer_jax: {error}"}


def _seconds(settings: Settings, folder: pathlib.Path, start: str) -> float:
    """Of fer_jax.main in `folder`, to its first record; then it is killed."""
    changed = {
        "data.path": folder / "fer2013.csv",
        "data.image_size": settings.size,
        "model.variant": settings.variant,
        "train.batch_size": settings.batch,
        "log.every_steps": 1,
    }
    command = [sys.executable, "-m", "fer_jax.main", f"--config={CONFIG}"]
    command += [f"--workdir={folder / start}", *(f"--config.{k}={v}" for k, v in changed.items())]
    environment = {**timer.USERS, "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
    metrics, log = folder / start / "metrics.jsonl", folder / f"{start}.log"
    with log.open("w") as stream:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, cwd=ROOT)
        try:
            while not (metrics.exists() and "\n" in metrics.read_text()):
                if process.poll() is not None:
                    raise NotRunError(f"fer_jax.main made no step: {timer.last_line(log)}")
                time.sleep(0.02)
            return time.perf_counter() - began
        finally:
            process.kill()
            process.wait()
