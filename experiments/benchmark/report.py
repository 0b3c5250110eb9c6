"""The benchmark's JSON, and the table that is printed of it."""

import dataclasses
import json
import os
import pathlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.benchmark.choice import DISAGREEMENT, FAILED, MEASURED
from experiments.benchmark.comparisons import Result
from experiments.benchmark.settings import ROOT, Settings

FORMAT = 1
TIMED = {"first_step": "the first step", "whole_run": "the end"}
KEPT = ("variant", "size", "batch", "dtype", "threads")


def document(
    settings: Settings,
    length: Mapping[str, float],
    about: Mapping[str, Any],
    comparisons: Mapping[str, Result],
    timed: Mapping[str, Mapping[str, Any]],
    gpu: Mapping[str, str],
    load: Sequence[float],
) -> dict[str, Any]:
    """All that was found: `comparisons` by name, each with `status` and, if measured, figures.

    `timed` are the first step and the whole run, as far as they were asked for.
    """
    return {
        "format": FORMAT,
        "machine": machine() | {"load_average_at_start": list(load)},
        "device": about.get("device"),
        "settings": kept(settings) | dict(length),
        "comparisons": {name: compact(result) for name, result in comparisons.items()},
        **{name: dict(found) for name, found in timed.items()},
        "gpu": dict(gpu),
    }


def kept(settings: Settings) -> dict[str, Any]:
    """What decides the figures; paths without what is this machine's alone."""
    paths = {"config": _short(settings.config), "data": _short(settings.data)}
    return {name: getattr(settings, name) for name in KEPT} | paths


def _short(path: str) -> str:
    """From the repository's root, or the last part."""
    found = pathlib.Path(path)
    return str(found.relative_to(ROOT)) if found.is_relative_to(ROOT) else found.name


def compact(result: Result) -> dict[str, Any]:
    """A result without the figures that it does not have."""
    fields = dataclasses.asdict(result)
    return {k: v for k, v in fields.items() if v not in (None, [], {}, (), "")}


def machine() -> dict[str, Any]:
    """Processor, cores, system, Python."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def load_average() -> list[float]:
    """Of 1, 5 and 15 minutes: figures from a busy machine are worth little."""
    return [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else []


def write(path: pathlib.Path, found: Mapping[str, Any]) -> None:
    """JSON that any reader takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """One line per comparison; what was not run, with its reason."""
    yield f"{'comparison':<26}{'fer_jax':>16}{'peer':>16}  ratio (smallest to largest)"
    for name, row in found["comparisons"].items():
        yield f"{name:<26}{_figures(row)}"
    for title, text in _training(found["comparisons"]):
        yield f"{title:<25} {text}"
    for name, reached in TIMED.items():
        if name in found:
            yield f"{name:<26}{_seconds(found[name], reached)}"
    if found["gpu"]:
        yield f"{'GPU section':<26}{found['gpu']['status']}: {found['gpu']['reason']}"


def failures(found: Mapping[str, Any]) -> list[str]:
    """What makes the benchmark's exit status 1: disagreements, and whatever of fer_jax failed."""
    rows = {**found["comparisons"], **{name: found[name] for name in TIMED if name in found}}
    wrong = {name: row for name, row in rows.items() if row["status"] in (DISAGREEMENT, FAILED)}
    return [f"{name}: {row['status']}: {row['reason']}" for name, row in wrong.items()]


def _training(rows: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Of each round's training: everyone's peak memory, and what a step of fer_jax moves."""
    rounds: dict[str, list[Mapping[str, Any]]] = {}
    for name, row in rows.items():
        task = name.partition("@")[0]
        if task.startswith("train_vs_") and row["status"] == MEASURED:
            rounds.setdefault(name.removeprefix(task), []).append(row)
    for suffix, measured in rounds.items():
        sides = [row[side] for row in measured for side in ("fer_jax", "peer")]
        peaks = {side["name"]: _peaks(side) for side in sides}
        yield f"peak memory{suffix}", "; ".join(f"{name} {text}" for name, text in peaks.items())
        if "traffic" in sides[0]:
            yield f"memory traffic{suffix}", _traffic(sides[0])


def _peaks(side: Mapping[str, Any]) -> str:
    on_device = side.get("device_peak_mib")
    more = "" if on_device is None else f", on the device {on_device:,.0f} MiB"
    return f"{side['peak_mib']:,.0f} MiB{more}"


def _traffic(side: Mapping[str, Any]) -> str:
    moved = side["traffic"]
    text = (
        f"fer_jax {moved['gigabytes']:.2f} GB per step, {moved['gigabytes_per_second']:,.1f} GB/s"
    )
    if "share_of_nominal" not in moved:
        return text
    nominal = moved["nominal_gigabytes_per_second"]
    return f"{text}, {moved['share_of_nominal']:.0%} of {side['device']}'s {nominal:,.0f} GB/s"


def _seconds(row: Mapping[str, Any], reached: str) -> str:
    if row["status"] != MEASURED:
        return f"{row['status']}: {row['reason']}"
    seconds = ", ".join(f"{k} {v:.1f} s" for k, v in row["seconds"].items())
    return f"{seconds} from process start to {reached}"


def _figures(row: Mapping[str, Any]) -> str:
    if row["status"] != MEASURED:
        return f"{row['status']}: {row['reason']}"
    waiting = row["fer_jax"].get("waiting_share")
    waits = "" if waiting is None else f"; waits for data {waiting:.1%} of the time"
    names = [row[side]["name"] for side in ("fer_jax", "peer")]
    who = names[1] if names[0] == "fer_jax" else " against ".join(names)
    memory = " and ".join(f"{row[side]['peak_mib']:,.0f}" for side in ("fer_jax", "peer"))
    return (
        f"{_absolute(row, 'fer_jax'):>16}{_absolute(row, 'peer'):>16}  "
        f"{row['median']:.2f} ({row['min']:.2f} to {row['max']:.2f})  "
        f"{who}; {memory} MiB{waits}"
    )


def _absolute(row: Mapping[str, Any], side: str) -> str:
    """Images per second, or milliseconds where one image is what counts."""
    if row["unit"] == "ms":
        return f"{row[side]['milliseconds_per_call']:.2f} ms"
    return f"{row[side]['images_per_second']:,.1f} img/s"


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
