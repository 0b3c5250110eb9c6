"""One round: all chosen comparisons with one batch size and precision, task by task."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

from experiments.benchmark import comparisons, processes
from experiments.benchmark.children import Child, Entry, NotRunError
from experiments.benchmark.choice import (
    FAILED,
    MEASURED,
    NOT_RUN,
    Length,
    Reference,
    Say,
    Setting,
    Start,
    choose,
)
from experiments.benchmark.comparisons import Result
from experiments.benchmark.processes import Training
from experiments.benchmark.settings import Settings

DTYPES, BATCHES = ("float32", "bfloat16"), (64, 256, 1024)  # on a GPU; the first alone on a CPU
VARIED = ("train", "infer")  # tasks that every round has; the others are of the first alone


@dataclasses.dataclass(frozen=True)
class Round:
    """What is run, and how."""

    settings: Settings
    gpu: bool
    length: Length
    names: tuple[str, ...]  # of comparisons
    say: Say
    start: Start = Child

    @property
    def _setting(self) -> Setting:
        return Setting(self.settings, self.length, self.say, self.start)

    def results(self) -> Iterator[tuple[str, Result]]:
        """Each comparison as it is done."""
        unexported = self._export() if any("onnx" in name for name in self.names) else ""
        for task in dict.fromkeys(_task(name) for name in self.names):
            names = [name for name in self.names if _task(name) == task]
            yield from self._of_task(task, names, unexported)

    def _of_task(
        self, task: str, names: list[str], unexported: str
    ) -> Iterator[tuple[str, Result]]:
        """fer_jax once, and one peer's grid after the other against it."""
        self.say(f"{task}: fer_jax, batch {self.settings.batch}, {self.settings.dtype}")
        try:
            with contextlib.ExitStack() as alive:
                ours, expected, listed = self._ours(task, alive)
                for name in names:
                    absent = unexported if "onnx" in name else ""
                    result = self._against(name, ours, expected, absent)
                    yield name, dataclasses.replace(result, fer_jax_grid=listed)
        except NotRunError as error:
            for name in names:
                yield name, Result(FAILED, f"fer_jax: {error}")

    def _ours(self, task: str, alive: contextlib.ExitStack) -> tuple[Child, dict, list[dict]]:
        """fer_jax at its best setting, what the first of them answers, and a line on each."""
        entries = comparisons.our_grid(task)
        first = alive.enter_context(self.start(entries[0], self.settings))
        expected = first.answer()
        if len(entries) == 1:
            return first, expected, []
        reference = Reference(first.about["platform"], expected)
        first.close()
        best, listed = choose(reference, entries, self._setting, alive)
        if best is None or best.child is None:
            raise NotRunError(listed[0]["reason"])
        return best.child, expected, listed

    def _against(self, name: str, ours: Child, expected: dict, absent: str) -> Result:
        """One comparison, whatever may come of it."""
        if absent:
            return Result(NOT_RUN, absent)
        self.say(name)
        entries = comparisons.grid(name, self.settings.threads, self.gpu)
        try:
            result = comparisons.compare(ours, expected, entries, self._setting)
        except NotRunError as error:
            return Result(NOT_RUN, str(error))
        return dataclasses.replace(result, unit="ms") if _task(name) == "latency" else result

    def _export(self) -> str:
        """Have PyTorch write the ONNX file; why it could not, or nothing."""
        self.say("the model as ONNX")
        options = {"threads": self.settings.threads, "layout": "contiguous"}
        room = "experiments.benchmark.torch_peer"
        try:
            self.start(Entry("export", room, "export", options), self.settings).close()
        except NotRunError as error:
            return f"no ONNX file: {error}"
        return ""


def rounds(first: Round, dtypes: Sequence[str], batches: Sequence[int]) -> Iterator[tuple]:
    """Suffix of the names and round: the first settings without one, then all other pairs."""
    yield "", first
    varied = tuple(name for name in first.names if _task(name) in VARIED)
    for dtype in dtypes:
        for batch in batches:
            settings = dataclasses.replace(first.settings, dtype=dtype, batch=batch)
            names = tuple(n for n in varied if dtype == "float32" or "onnx" not in n)
            if settings != first.settings:
                suffix = f"@{dtype},batch={batch}"
                yield suffix, dataclasses.replace(first, settings=settings, names=names)


def alone(
    names: Sequence[str], first: Round, training: Training
) -> tuple[dict[str, Result], dict[str, dict]]:
    """What fer_jax does without peers: the whole loop; the first step and a whole run, timed."""
    loop: dict[str, Result] = {}
    if "whole_loop" in names:
        first.say("whole_loop")
        try:
            loop["whole_loop"] = comparisons.whole_loop(first.settings, first.length, first.start)
        except NotRunError as error:
            loop["whole_loop"] = Result(FAILED, str(error))
    timed: dict[str, dict] = {}
    if "first_step" in names:
        first.say("first_step")
        timed["first_step"] = _timed(lambda: processes.first_steps(first.settings))
    if "whole_run" in names:
        first.say("whole_run")
        run = _timed(lambda: processes.whole_runs(training, first.settings.folder))
        timed["whole_run"] = run | training.about()
    return loop, timed


def _timed(measure: Callable[[], dict[str, float]]) -> dict:
    """Seconds by name, or why fer_jax could not be run."""
    try:
        return {"status": MEASURED, "seconds": measure()}
    except NotRunError as error:
        return {"status": FAILED, "reason": str(error)}


def _task(name: str) -> str:
    return name.split("_vs_")[0]
