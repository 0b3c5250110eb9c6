"""The best setting of a contestant: the grid is visited twice, and the mean rate counts.

One lucky visit chooses nobody. The second visit goes back from the last to the first: what a slow
hour of the machine takes from a setting on one way, it does not take on the other.
"""

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiments.benchmark import memory, turns
from experiments.benchmark.agreement import agree
from experiments.benchmark.children import Child, Entry, NotRunError
from experiments.benchmark.settings import Settings

MEASURED, DISAGREEMENT, NOT_RUN = "measured", "disagreement", "not run"
FAILED = "failed"  # fer_jax itself could not be run
Say = Callable[[str], None]
Start = Callable[[Entry, Settings], Child]


@dataclasses.dataclass(frozen=True)
class Length:
    """How many pairs of turns, and seconds of each."""

    turns: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all comparisons of a round share."""

    settings: Settings
    length: Length
    say: Say
    start: Start = Child
    can_wait: Callable[[Mapping[str, float], bool], bool] = memory.can_wait


@dataclasses.dataclass(frozen=True)
class Reference:
    """On what kind of device fer_jax computes, and what it answers."""

    platform: str
    answer: Mapping[str, Any]


@dataclasses.dataclass
class Candidate:
    """A setting of the grid; `child` is there while its process waits for the next turn."""

    entry: Entry
    row: dict[str, Any]  # its line in the JSON: `rates` of the visits in order, `rate` their mean
    calls: int = 0
    child: Child | None = None

    def close(self) -> None:
        """End its process, if there is one."""
        if self.child:
            self.child.close()
            self.child = None


def choose(
    reference: Reference,
    entries: Sequence[Entry],
    setting: Setting,
    alive: contextlib.ExitStack,
) -> tuple[Candidate | None, list[dict[str, Any]]]:
    """The fastest of those that agree, alive until `alive` ends, and a line on every entry."""
    grid = [Candidate(entry, {"name": entry.name, "agreement": {}}) for entry in entries]
    for candidate in grid:
        with _noted(candidate, setting.say):
            _first_visit(candidate, reference, setting, alive)
    best: Candidate | None = None
    for candidate in reversed([one for one in grid if one.row["status"] == MEASURED]):
        with _noted(candidate, setting.say):
            _second_visit(candidate, setting, alive)
            if best and best.row["rate"] >= candidate.row["rate"]:
                candidate.close()
                continue
            if best:
                best.close()
            best = candidate
    return best, [candidate.row for candidate in grid]


def verdict(reference: Reference, peer: Child) -> dict[str, Any]:
    """Whether a peer may be timed: on the same kind of device, and with the same answers."""
    here, there = reference.platform, peer.about["platform"]
    if here != there:
        return {"status": NOT_RUN, "reason": f"it computes on {there}, fer_jax on {here}"}
    found = agree(reference.answer, peer.answer())
    status = DISAGREEMENT if found.objection else MEASURED
    return {"status": status, "reason": found.objection, "agreement": found.differences}


def _start(candidate: Candidate, setting: Setting, alive: contextlib.ExitStack) -> Child:
    candidate.child = alive.enter_context(setting.start(candidate.entry, setting.settings))
    return candidate.child


def _first_visit(
    candidate: Candidate, reference: Reference, setting: Setting, alive: contextlib.ExitStack
) -> None:
    """Timed where it agrees; its process then waits if there is the memory for it."""
    child = _start(candidate, setting, alive)
    candidate.row |= verdict(reference, child)
    if candidate.row["status"] != MEASURED:
        candidate.close()
        return
    candidate.calls = turns.calls_for(child, setting.length.seconds)
    candidate.row["rates"] = [turns.rate(child, candidate.calls)]
    if not setting.can_wait(child.memory(), child.about["platform"] != "cpu"):
        candidate.close()


def _second_visit(candidate: Candidate, setting: Setting, alive: contextlib.ExitStack) -> None:
    """In the process that has waited, or in a new one, which must compile again."""
    child = candidate.child
    if child is None:
        child = _start(candidate, setting, alive)
        candidate.calls = turns.calls_for(child, setting.length.seconds)
    candidate.row["rates"].append(turns.rate(child, candidate.calls))
    candidate.row["rate"] = statistics.mean(candidate.row["rates"])


@contextlib.contextmanager
def _noted(candidate: Candidate, say: Say) -> Iterator[None]:
    """Who cannot go on is out, with the reason; what came of the visit is said."""
    row = candidate.row
    try:
        yield
    except NotRunError as error:
        candidate.close()
        row |= {"status": NOT_RUN, "reason": str(error)}
    measured = row["status"] == MEASURED
    said = f"{row['rates'][-1]:.1f} images/s" if measured else f"{row['status']}: {row['reason']}"
    say(f"  {row['name']}: {said}")
