"""A B A B: two contestants take turns of equal length, and the ratio of each pair counts."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Protocol

ENOUGH = 0.25  # of a turn: how long a trial must last to tell how many calls fill a turn


class Player(Protocol):
    """Who can be asked to do something so many times."""

    examples: int  # images per call

    def seconds(self, calls: int) -> float:
        """How long so many calls took."""
        ...


@dataclasses.dataclass(frozen=True)
class Duel:
    """Images per second of each turn, in pairs."""

    ours: tuple[float, ...]
    peer: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Above 1 where ours is faster."""
        return tuple(a / b for a, b in zip(self.ours, self.peer, strict=True))

    def summary(self) -> tuple[float, float, float]:
        """Median, smallest and largest ratio: not the ratio of the medians."""
        return statistics.median(self.ratios), min(self.ratios), max(self.ratios)


def calls_for(player: Player, seconds: float) -> int:
    """Calls that fill a turn; one untimed call goes before, which may compile."""
    player.seconds(1)
    calls = 1
    while (took := player.seconds(calls)) < ENOUGH * seconds:
        calls *= 2
    return max(1, round(calls * seconds / took))


def rate(player: Player, calls: int) -> float:
    """Images per second of one turn."""
    return calls * player.examples / player.seconds(calls)


def alternate(ours: Player, peer: Player, turns: int, calls: Sequence[int]) -> Duel:
    """`turns` pairs of turns, of `calls` (ours, peer's): first ours, then the peer's."""
    pairs = [(rate(ours, calls[0]), rate(peer, calls[1])) for _ in range(turns)]
    return Duel(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))
