"""Contestants in this process, of known speed, and comparisons of them."""

from collections.abc import Callable
from typing import Any

from experiments.benchmark import comparisons, report
from experiments.benchmark.children import Entry, NotRunError
from experiments.benchmark.choice import (
    MEASURED,
    NOT_RUN,
    Length,
    Setting,
)
from experiments.benchmark.comparisons import Result
from experiments.benchmark.settings import Settings

LENGTH = Length(turns=3, seconds=1.0)


ANSWER = {"logits": [[1.0, -1.0], [-2.0, 2.0]], "loss": 0.5}


class Made:
    """A contestant in this process, of a known speed; what it is asked goes into a diary."""

    def __init__(
        self,
        name: str,
        speeds: Any,
        diary: list[str],
        answer: dict[str, Any] | None = None,
        platform: str = "cpu",
    ):
        self.entry, self.examples = Entry(name, "made", "train"), 10
        self.about = {"platform": platform, "device": "made", "versions": {"made": "1"}}
        self.turns: list[dict[str, float]] = []
        self._speeds, self._diary, self._answer = speeds, diary, answer or ANSWER
        self.closed = False

    def __enter__(self) -> "Made":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answer(self) -> dict[str, Any]:
        return self._answer

    def seconds(self, calls: int) -> float:
        """Images per second of turn after turn; the last of them from then on."""
        speed = self._speeds.pop(0) if len(self._speeds) > 1 else self._speeds[0]
        self._diary.append(self.entry.name)
        seconds = calls * self.examples / speed
        self.turns.append({"seconds": seconds, "waited": 0.25 * seconds})
        return seconds

    def memory(self) -> dict[str, float]:
        return {"peak_mib": 100.0}

    def bytes_per_call(self) -> float:
        return 1e9

    def close(self) -> None:
        self.closed = True


def starting(made: dict[str, Any]) -> Callable[[Entry, Settings], Any]:
    """Instead of `Child`: contestants by name, or the reason why they cannot be had."""

    def start(entry: Entry, settings: Settings) -> Any:
        found = made[entry.name]
        if isinstance(found, str):
            raise NotRunError(found)
        found.entry = entry
        return found

    return start


def compared(settings: Settings, ours: Made, peers: dict[str, Any], wait: bool = True) -> Result:
    entries = [Entry(name, "made", "train") for name in peers]
    start = starting(peers)
    setting = Setting(settings, LENGTH, lambda text: None, start, lambda peaks, gpu: wait)
    return comparisons.compare(ours, ours.answer(), entries, setting)  # type: ignore[arg-type]


def documented(
    settings: Settings, found: dict[str, Result], timed: dict[str, Any] | None = None
) -> dict[str, Any]:
    about = {"device": "made"}
    absent = {"status": NOT_RUN, "reason": "JAX sees no GPU"}
    return report.document(settings, {"turns": 3}, about, found, timed or {}, absent, [0.5])


def measured(unit: str = "images/s") -> Result:
    side = {"images_per_second": 50.0, "milliseconds_per_call": 20.0, "peak_mib": 1234.0}
    return Result(
        MEASURED,
        "",
        0.5,
        0.25,
        0.75,
        (0.5, 0.25, 0.75),
        unit,
        fer_jax={**side, "name": "fer_jax", "versions": {"jax": "1"}},
        peer={**side, "name": "torch eager", "versions": {"torch": "2"}},
        agreement={"loss": 1e-6},
    )
