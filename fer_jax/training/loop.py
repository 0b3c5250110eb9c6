"""Parts of the training loop: epochs and stages in steps, polite stops, metrics fetched late."""

import collections
import dataclasses
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils

from fer_jax.errors import NonFiniteLoss
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.logs import RunLog

AGREE_EVERY = 10  # steps between two questions to the other processes
SCHEDULER = getattr(signal, "SIGUSR2", None)  # how SLURM tells of a time limit; none on Windows
LAG = 2  # steps in flight before a step's metrics are fetched, so that dispatch stays ahead


def epoch_ends(examples: int, batch_size: int, epochs: int) -> tuple[int, ...]:
    """The first step at or past each epoch of `examples` examples."""
    return tuple(math.ceil(epoch * examples / batch_size) for epoch in range(1, epochs + 1))


def size_stages(
    sizes: Sequence[int], steps: int, start_step: int
) -> Iterator[tuple[int, int, int | None]]:
    """(size, first step, number of steps) of what is left after `start_step` of equal stages.

    Each of `sizes` has its part of `steps`; the last one has no end.
    """
    ends = [math.ceil(number * steps / len(sizes)) for number in range(1, len(sizes))]
    for size, begin, end in zip(sizes, [0, *ends], [*ends, None], strict=True):
        first = max(begin, start_step)
        if end is None or first < end:
            yield size, first, None if end is None else end - first


class Stop:
    """A signal to stop as a request that the loop polls, agreed between processes."""

    signal: int | None = None  # agreed
    _own: int | None = None  # what this process was sent

    def __enter__(self) -> "Stop":
        stops = [signal.SIGTERM, signal.SIGINT, *([SCHEDULER] if SCHEDULER else [])]
        self._before = {number: signal.signal(number, self._note) for number in stops}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self, step: int) -> bool:
        """Whether to stop after `step`: the same answer in every process."""
        if jax.process_count() == 1 or step % AGREE_EVERY == 0:
            self.agree()
        return self.signal is not None

    def agree(self) -> None:
        """What any process was sent becomes every one's `signal`; all must call."""
        self.signal = self._own
        if jax.process_count() > 1:
            self.signal = int(multihost_utils.process_allgather(self._own or 0).max()) or None

    def _note(self, number: int, _: object) -> None:
        if self._own is not None and number != SCHEDULER:  # which repeats itself
            raise KeyboardInterrupt  # asked twice: at once
        self._own = self._own or number


@dataclasses.dataclass
class LateMetrics:
    """Device metrics fetched a few steps late, averaged between log lines, watched for NaN."""

    log: RunLog
    every: int  # steps between two lines
    schedule: Callable[[int], Any]  # step to learning rate
    checkpoints: Checkpoints  # tell where a diverged run may go on from
    _flying: collections.deque = dataclasses.field(default_factory=collections.deque)
    _fetched: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def push(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Take step's metrics, still being computed; NonFiniteLoss for an earlier step's."""
        self._flying.append((step, metrics))
        self.fetch(LAG)

    def fetch(self, left: int = 0) -> None:
        """Fetch all that is in flight, but for `left` steps."""
        while len(self._flying) > left:
            step, metrics = self._flying.popleft()
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            for name, value in values.items():  # a finite loss may have a gradient that is not
                if not math.isfinite(value):
                    self.checkpoints.wait()
                    good = self.checkpoints.last_good
                    raise NonFiniteLoss(f"{name} is {value} at step {step}; {good}")

            self._fetched.append(values)
            if step % self.every == 0:
                means = {n: sum(v[n] for v in self._fetched) / len(self._fetched) for n in values}
                self.log.train(step, {**means, "learning_rate": float(self.schedule(step - 1))})
                self._fetched.clear()
