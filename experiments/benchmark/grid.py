"""Who is compared with whom, and every setting in which a contestant is tried."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fer_jax import cli

ROOM = "experiments.benchmark"
COMPARED = {
    "train": ("torch", "tensorflow"),
    "infer": ("torch", "onnxruntime"),
    "latency": ("torch", "onnxruntime"),
    "pipeline": ("torch", "tfdata"),
}
NAMES = tuple(f"{task}_vs_{peer}" for task, peers in COMPARED.items() for peer in peers)
MODULES = {"torch": "torch_peer", "onnxruntime": "onnx_peer"}  # the others' is tf_peer
HUGE_PAGES, TCMALLOC = {cli.TUNABLES: cli.HUGE_PAGES}, cli.tcmalloc()
ALLOCATORS = {"": {}, ", huge pages": HUGE_PAGES} | ({", tcmalloc": TCMALLOC} if TCMALLOC else {})
Choice = tuple[str, dict[str, Any]]  # words and options of a setting


@dataclasses.dataclass(frozen=True)
class Entry:
    """A contestant as it is started: what of which module, in which environment."""

    name: str  # in tables
    module: str
    task: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def ours(task: str) -> Entry:
    """fer_jax in the memory that its commands ask for; its pipeline with two processes."""
    name, options = "fer_jax", {}
    if task == "pipeline":
        name, options = "fer_jax, 2 workers", {"workers": 2}
    return Entry(name, f"{ROOM}.ours", task, options, {**TCMALLOC, **HUGE_PAGES})


def grid(peer: str, task: str, threads: int, gpu: bool) -> list[Entry]:
    """All settings of a peer: those with all threads in every allocator, others in the usual."""
    if peer == "torch":
        leading, others = _torch(task, threads, gpu)
    else:
        jit = [(" jit_compile", {"jit": True})] if gpu and peer == "tensorflow" else []
        leading = _with_threads([("", {"jit": False}), *jit], threads)
        others = _with_threads([("", {})], threads // 2) if peer == "onnxruntime" else []
    module = f"{ROOM}.{MODULES.get(peer, 'tf_peer')}"
    return [
        Entry(f"{peer}{words}{allocator}", module, task, options, environment)
        for allocator, environment in ALLOCATORS.items()
        for words, options in (leading if allocator else [*leading, *others])
    ]


def _torch(task: str, threads: int, gpu: bool) -> tuple[list[Choice], list[Choice]]:
    """Eager, compiled, in inference with frozen weights; then another layout and fewer threads.

    On a CPU only channels_last is compiled, which takes minutes, and which its convolutions want.
    """
    if task == "pipeline":
        workers = [(f", {n} workers", {"workers": n}) for n in sorted({threads, 1, 0})]
        return workers[-1:], workers[:-1]
    kinds: dict[str, dict[str, Any]] = {"eager": {}, "compiled": {"compiled": True}}
    if task != "train":
        kinds["compiled, frozen"] = {"compiled": True, "freezing": True}
    if gpu:
        kinds["compiled, reduce-overhead"] = {"compiled": True, "mode": "reduce-overhead"}
    last = [(f" {k}, channels_last", {**o, "channels_last": True}) for k, o in kinds.items()]
    plain = [(f" {k}, contiguous", o) for k, o in kinds.items() if gpu or k == "eager"]
    fewer = _with_threads(last[:1], threads // 2)
    return _with_threads(last, threads), [*_with_threads(plain, threads), *fewer]


def _with_threads(choices: list[Choice], count: int) -> list[Choice]:
    """Each with so many threads; none where there would be no thread."""
    return [(f"{w}, {count} threads", {**o, "threads": count}) for w, o in choices if count]
