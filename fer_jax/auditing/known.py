"""The data sets that people have under the name FER2013, told by their images per class."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fer_jax.labels import LABELS

TRAINING = (3995, 436, 4097, 7215, 4965, 4830, 3171)
PUBLIC_TEST = (467, 56, 496, 895, 607, 653, 415)
PRIVATE_TEST = (491, 55, 528, 879, 626, 594, 416)
BOTH_TESTS = tuple(a + b for a, b in zip(PUBLIC_TEST, PRIVATE_TEST, strict=True))
KNOWN: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "FER2013": {"train": TRAINING, "validation": PUBLIC_TEST, "test": PRIVATE_TEST},
    "FER2013 with PublicTest and PrivateTest as one": {"train": TRAINING, "test": BOTH_TESTS},
    "FER2013 in another split, 28,821 and 7,066": {
        "train": (3993, 436, 4103, 7164, 4982, 4938, 3205),
        "validation": (960, 111, 1018, 1825, 1216, 1139, 797),
    },
}
RESEMBLES = 0.1
"""Share of images by which a data set may differ from a known one and still be named after it."""
CLEARER = 0.1
"""Counts fit exchanged names if they then differ by at most this share of what they do now."""


@dataclass(frozen=True)
class Likeness:
    """The known data set that counts fit best; `name` is None where none is like it."""

    name: str | None
    differences: dict[str, tuple[int, ...]]
    """Split -> images per class beyond the known ones, of the splits that both have."""
    missing: tuple[str, ...]
    """Splits that the known data set has and this has not."""
    exchanged: dict[str, dict[str, str]]
    """Split -> {called: counts are those of} where other names fit the counts far better."""

    @property
    def same(self) -> bool:
        """Whether every count of every split that is there is the known one."""
        return self.name is not None and not any(map(any, self.differences.values()))


def recognise(counts: Mapping[str, np.ndarray]) -> Likeness:
    """Images per class int [7] of each split -> the known data set that they are, or are like."""
    nearest = min(KNOWN, key=lambda name: _distance(counts, KNOWN[name]))
    known = KNOWN[nearest]
    total = sum(int(part.sum()) for part in counts.values())
    if _distance(counts, known) > RESEMBLES * total:
        return Likeness(None, {}, (), {})
    shared = [split for split in counts if split in known]
    exchanges = {split: exchange(counts[split], np.array(known[split])) for split in shared}
    return Likeness(
        name=nearest,
        differences={s: tuple((counts[s] - np.array(known[s])).tolist()) for s in shared},
        missing=tuple(split for split in known if split not in counts),
        exchanged={split: names for split, names in exchanges.items() if names},
    )


def exchange(counts: np.ndarray, known: np.ndarray) -> dict[str, str]:
    """{called: counts are those of} if other names fit int [7] far better than those that stand."""
    now = int(np.abs(counts - known).sum())
    best = _best_naming(counts, known)
    if int(np.abs(counts - known[best]).sum()) > CLEARER * now:
        return {}
    return {LABELS[a]: LABELS[b] for a, b in enumerate(best.tolist()) if a != b}


def _best_naming(counts: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The naming that fits best; as it stands if none is better."""
    namings = np.array(list(itertools.permutations(range(len(LABELS)))))
    return namings[np.abs(counts - known[namings]).sum(axis=1).argmin()]


def _distance(counts: Mapping[str, np.ndarray], known: Mapping[str, tuple[int, ...]]) -> int:
    """Images too many or too few, whatever the classes are called; a split of its own counts."""
    distance = 0
    for split, part in counts.items():
        if split in known:
            other = np.array(known[split])
            distance += int(np.abs(part - other[_best_naming(part, other)]).sum())
        else:
            distance += int(part.sum())
    return distance
