"""The benchmark's JSON, and the one table in Markdown that is made of it."""

import dataclasses
import os
import pathlib
import platform
from collections.abc import Iterator
from typing import Any

from experiments.benchmark.shared import CONFIG, ROOT, Settings
from experiments.benchmark.timer import MEASURED, NOT_RUN, Row

TITLES = {
    "train": "training step",
    "infer": "inference",
    "latency": "one image",
    "pipeline": "input pipeline",
    "whole_loop": "the whole loop against its step alone",
    "first_step": "from process start to the first step",
}
SIDES = ("fer_jax", "peer")


def about(settings: Settings, turns: int, seconds: float) -> dict[str, Any]:
    """The head of the JSON: machine and settings."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    machine = {
        "processor": next(names, platform.processor()),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average_at_start": [round(x, 2) for x in os.getloadavg()],  # busy: worth little
    }
    kept = dataclasses.asdict(settings) | {"turns": turns, "seconds": seconds}
    kept |= {"config": str(CONFIG.relative_to(ROOT)), "dtype": "float32"}
    del kept["folder"]
    return {"format": 2, "machine": machine, "settings": kept}


def table(found: dict[str, Any]) -> Iterator[str]:
    """One line per comparison; what was not run, with its reason."""
    yield from ("| | fer_jax | peer | ratio |", "|---|--:|--:|--:|")
    for name, row in found["comparisons"].items():
        yield f"| {_comparison(name, row)} |"
    for name, row in found["comparisons"].items():
        if name.startswith("train_vs") and row["status"] == MEASURED:
            ours, peer = (f"{row[side]['peak_mib']:,.0f} MiB" for side in SIDES)
            yield f"| peak memory in training, {row['peer']['name']} | {ours} | {peer} | |"


def failures(found: dict[str, Any]) -> list[str]:
    """What makes the exit status 1: disagreements, and whatever of fer_jax itself failed."""
    rows = found["comparisons"].items()
    wrong = ((name, row) for name, row in rows if row["status"] not in (MEASURED, NOT_RUN))
    return [f"{name}: {_reason(row)}" for name, row in wrong]


def _comparison(name: str, row: Row) -> str:
    """What is compared, both sides' speeds, the ratio with its spread."""
    task, _, peer = name.partition("_vs_")
    if row["status"] != MEASURED:
        return f"{TITLES[task]}, {peer} | | | {_reason(row)}"
    title, speeds = TITLES[task], []
    if "seconds" in row:
        return f"{title} | {', '.join(f'{v:.1f} s {k}' for k, v in row['seconds'].items())} | |"
    if peer:
        names = [row[side]["name"].removeprefix("fer_jax") for side in SIDES]
        title += f"{names[0] and f' ({names[0][2:]})'}, {names[1]}"
    for rate in (row[side]["images_per_second"] for side in SIDES):
        speeds.append(f"{1000 / rate:.1f} ms" if task == "latency" else f"{rate:,.0f} images/s")
    waiting = 100 * row["fer_jax"]["waiting_share"]
    waits = "" if peer else f", waits for data {waiting:.1f} % of the time"
    ratio = f"{row['median']:.2f} ({row['min']:.2f} to {row['max']:.2f}){waits}"
    return f"{title} | {' | '.join(speeds)} | {ratio}"


def _reason(row: Row) -> str:
    return f"{row['status']}: {row['reason']}"
