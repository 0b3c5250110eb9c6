"""The benchmark's JSON, and the table that is printed of it."""

import dataclasses
import json
import os
import pathlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.benchmark.comparisons import MEASURED, Result
from experiments.benchmark.settings import ROOT, Settings

FORMAT = 1
KEPT = ("variant", "size", "batch", "dtype", "threads")


def document(
    settings: Settings,
    length: Mapping[str, float],
    about: Mapping[str, Any],
    comparisons: Mapping[str, Result],
    first_step: Mapping[str, Any],
    gpu: Mapping[str, str],
    load: Sequence[float],
) -> dict[str, Any]:
    """All that was found: `comparisons` by name, each with `status` and, if measured, figures."""
    return {
        "format": FORMAT,
        "machine": machine() | {"load_average_at_start": list(load)},
        "device": about.get("device"),
        "settings": kept(settings) | dict(length),
        "comparisons": {name: compact(result) for name, result in comparisons.items()},
        "first_step": dict(first_step),
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
    start = found["first_step"]
    if start.get("status") == MEASURED:
        seconds = ", ".join(f"{k} {v:.1f} s" for k, v in start["seconds"].items())
        yield f"{'first_step':<26}{seconds} from process start"
    elif start:
        yield f"{'first_step':<26}{start['status']}: {start['reason']}"
    if found["gpu"]:
        yield f"{'GPU section':<26}{found['gpu']['status']}: {found['gpu']['reason']}"


def _figures(row: Mapping[str, Any]) -> str:
    if row["status"] != MEASURED:
        return f"{row['status']}: {row['reason']}"
    waiting = row["fer_jax"].get("waiting_share")
    waits = "" if waiting is None else f"; waits for data {waiting:.1%} of the time"
    memory = " and ".join(f"{row[side]['peak_mib']:,.0f}" for side in ("fer_jax", "peer"))
    return (
        f"{_absolute(row, 'fer_jax'):>16}{_absolute(row, 'peer'):>16}  "
        f"{row['median']:.2f} ({row['min']:.2f} to {row['max']:.2f})  "
        f"{row['peer']['name']}; {memory} MiB{waits}"
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
