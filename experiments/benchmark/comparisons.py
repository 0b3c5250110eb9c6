"""Who is compared with whom: the tasks, each peer's named grid, and how one comparison goes."""

import contextlib
import dataclasses
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from experiments.benchmark import bandwidth, turns
from experiments.benchmark.children import ALLOCATORS, HUGE_PAGES, TCMALLOC, Child, Entry
from experiments.benchmark.choice import (
    DISAGREEMENT,
    MEASURED,
    NOT_RUN,
    Length,
    Reference,
    Setting,
    Start,
    choose,
)
from experiments.benchmark.settings import Settings

NAMES = (
    "train_vs_torch",
    "train_vs_tensorflow",
    "infer_vs_torch",
    "infer_vs_onnxruntime",
    "latency_vs_torch",
    "latency_vs_onnxruntime",
    "pipeline_vs_torch",
    "pipeline_vs_tfdata",
)
WORKERS = (0, 2)  # Grain processes: the grid of fer_jax's own pipeline


@dataclasses.dataclass
class Result:
    """One comparison, ready for JSON; no figures but where `status` is measured."""

    status: str
    reason: str = ""
    median: float | None = None  # of the pairs' ratios: above 1 where fer_jax is faster
    min: float | None = None
    max: float | None = None
    ratios: tuple[float, ...] = ()
    unit: str = "images/s"  # or ms: how tables show it
    fer_jax: dict[str, Any] = dataclasses.field(default_factory=dict)
    peer: dict[str, Any] = dataclasses.field(default_factory=dict)
    agreement: dict[str, float] = dataclasses.field(default_factory=dict)
    grid: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    fer_jax_grid: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def our_entry(task: str) -> Entry:
    """fer_jax, with the allocator that its front doors ask for."""
    return Entry("fer_jax", "experiments.benchmark.ours", task, {}, {**TCMALLOC, **HUGE_PAGES})


def our_grid(task: str) -> list[Entry]:
    """Its settings, of which the best is compared; the pipeline leaves the accelerator alone."""
    entry = our_entry(task)
    if task != "pipeline":
        return [entry]
    environment = {**entry.environment, "JAX_PLATFORMS": "cpu"}
    return [
        dataclasses.replace(
            entry,
            name=f"fer_jax, {workers} workers",
            options={"workers": workers},
            environment=environment,
        )
        for workers in WORKERS
    ]


def grid(name: str, threads: int, gpu: bool) -> list[Entry]:
    """The named grid of the peer of comparison `name`."""
    task, peer = name.split("_vs_")
    makers: dict[str, Callable[..., Iterator[Entry]]] = {
        "torch": _torch_pipelines if task == "pipeline" else _torch_models,
        "tensorflow": _keras,
        "onnxruntime": _onnx,
        "tfdata": _tf_pipelines,
    }
    return list(makers[peer](task, threads, gpu))


def _torch_models(task: str, threads: int, gpu: bool) -> Iterator[Entry]:
    """Layouts, eager and compiled, fewer threads, allocators, in inference frozen weights.

    On a CPU one layout is compiled, which takes minutes: its convolutions want channels last.
    """
    room, layouts = "experiments.benchmark.torch_peer", ("channels_last", "contiguous")
    graphs = [("compiled", "reduce-overhead")] if gpu else []
    for kind, mode in [("eager", None), ("compiled", None), *graphs]:
        for layout in layouts if gpu or kind == "eager" else layouts[:1]:
            options = {"layout": layout, "compiled": kind == "compiled", "mode": mode}
            words = [kind, *([mode] if mode else []), layout, f"{threads} threads"]
            yield Entry(f"torch {', '.join(words)}", room, task, {**options, "threads": threads})
    eager = {"layout": "channels_last", "compiled": False}
    for fewer in sorted({1, max(1, threads // 2)} - {threads}):
        name = f"torch eager, channels_last, {fewer} threads"
        yield Entry(name, room, task, {**eager, "threads": fewer})
    compiled = {"layout": "channels_last", "compiled": True}
    best = {"eager": eager, "compiled": compiled}
    if task != "train":
        best["compiled, frozen"] = {**compiled, "freezing": True}
    for (words, options), (memory, environment) in itertools.product(
        best.items(), ALLOCATORS.items()
    ):
        name = f"torch {words}, channels_last, {threads} threads, {memory}"
        yield Entry(name, room, task, {**options, "threads": threads}, environment)


def _keras(task: str, threads: int, gpu: bool) -> Iterator[Entry]:
    del gpu
    room = "experiments.benchmark.keras_peer"
    options = {"threads": threads, "jit": False}
    for words, environment in {"its own memory": {}, **ALLOCATORS}.items():
        name = f"tensorflow tf.function, {threads} threads, {words}"
        yield Entry(name, room, task, options, environment)
    name = f"tensorflow tf.function, jit_compile, {threads} threads"
    yield Entry(name, room, task, {**options, "jit": True})


def _onnx(task: str, threads: int, gpu: bool) -> Iterator[Entry]:
    del gpu
    room = "experiments.benchmark.onnx_peer"
    for count in sorted({threads, max(1, threads // 2)}, reverse=True):
        yield Entry(f"onnxruntime {count} threads", room, task, {"threads": count})
    for words, environment in ALLOCATORS.items():
        name = f"onnxruntime {threads} threads, {words}"
        yield Entry(name, room, task, {"threads": threads}, environment)


def _torch_pipelines(task: str, threads: int, gpu: bool) -> Iterator[Entry]:
    del gpu
    room = "experiments.benchmark.torch_pipeline"
    for images in ("pillow", "tensor"):
        for workers in sorted({0, 1, 2, threads}):
            name = f"DataLoader {workers} workers, {images} images"
            yield Entry(name, room, task, {"images": images, "workers": workers})
        for words, environment in ALLOCATORS.items():
            name = f"DataLoader {threads} workers, {images} images, {words}"
            options = {"images": images, "workers": threads}
            yield Entry(name, room, task, options, environment)


def _tf_pipelines(task: str, threads: int, gpu: bool) -> Iterator[Entry]:
    del threads, gpu
    room = "experiments.benchmark.tf_pipeline"
    for augmentation in ("one warp", "Keras layers"):
        for words, environment in {"its own memory": {}, **ALLOCATORS}.items():
            name, options = f"tf.data {augmentation}, {words}", {"augmentation": augmentation}
            yield Entry(name, room, task, options, environment)


def whole_loop(settings: Settings, length: Length, start: Start = Child) -> Result:
    """Pipeline and step together against the step alone; the share of time without a batch."""
    with start(our_entry("loop"), settings) as loop, start(our_entry("train"), settings) as step:
        calls = [turns.calls_for(player, length.seconds) for player in (loop, step)]
        duel = turns.alternate(loop, step, length.turns, calls)
        last = loop.turns[-length.turns :]
        share = sum(turn["waited"] for turn in last) / sum(turn["seconds"] for turn in last)
        return Result(
            MEASURED,
            "",
            *duel.summary(),
            duel.ratios,
            fer_jax=contestant(loop, duel.ours) | {"waiting_share": share},
            peer=contestant(step, duel.peer) | {"name": "fer_jax, the step alone"},
        )


def compare(
    ours: Child, expected: dict[str, Any], entries: Sequence[Entry], setting: Setting
) -> Result:
    """The best of the peers that give our `expected` answers, then A B A B with it."""
    reference = Reference(ours.about["platform"], expected)
    with contextlib.ExitStack() as alive:
        best, listed = choose(reference, entries, setting, alive)
        if best is None or best.child is None:
            return unmeasured(listed)
        calls = turns.calls_for(ours, setting.length.seconds), best.calls
        duel = turns.alternate(ours, best.child, setting.length.turns, calls)
        return Result(
            MEASURED,
            "",
            *duel.summary(),
            duel.ratios,
            fer_jax=contestant(ours, duel.ours),
            peer=contestant(best.child, duel.peer),
            agreement=best.row["agreement"],
            grid=listed,
        )


def unmeasured(listed: list[dict[str, Any]]) -> Result:
    """Why nobody of a grid was timed: the first who disagrees, else the first at all."""
    disagreeing = [row for row in listed if row["status"] == DISAGREEMENT]
    row = [*disagreeing, *listed][0]
    status = DISAGREEMENT if disagreeing else NOT_RUN
    return Result(status, row["reason"], agreement=row["agreement"], grid=listed)


def contestant(child: Child, rates: Sequence[float]) -> dict[str, Any]:
    """What is known of one who took turns: absolute figures, device, versions, memory."""
    median = statistics.median(rates)
    moved = child.bytes_per_call()
    seconds, device = child.examples / median, child.about["device"]
    return {
        "name": child.entry.name,
        "images_per_second": median,
        "images_per_second_min": min(rates),
        "images_per_second_max": max(rates),
        "milliseconds_per_call": 1e3 * seconds,
        **child.about,
        **child.memory(),
        **({"traffic": bandwidth.traffic(moved, seconds, device)} if moved else {}),
    }
