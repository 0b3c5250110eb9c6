"""The data sets that people have under the name FER2013, told by their images per class."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from fer_jax.labels import LABELS

TRAINING = np.array((3995, 436, 4097, 7215, 4965, 4830, 3171))
PUBLIC_TEST = np.array((467, 56, 496, 895, 607, 653, 415))
PRIVATE_TEST = np.array((491, 55, 528, 879, 626, 594, 416))
KNOWN: Mapping[str, Mapping[str, np.ndarray]] = {
    "FER2013": {"train": TRAINING, "validation": PUBLIC_TEST, "test": PRIVATE_TEST},
    "FER2013 with PublicTest and PrivateTest as one": {
        "train": TRAINING,
        "test": PUBLIC_TEST + PRIVATE_TEST,
    },
    "FER2013 in another split, 28,821 and 7,066": {
        "train": np.array((3993, 436, 4103, 7164, 4982, 4938, 3205)),
        "validation": np.array((960, 111, 1018, 1825, 1216, 1139, 797)),
    },
}
RESEMBLES = 0.1
"""Share of images by which a data set may differ from a known one and still be named after it."""
CLEARER = 0.1
"""Counts fit exchanged names if they then differ by at most this share of what they do now."""


def recognise(counts: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Images per class int [7] of each split -> the known data set that they are, or are like.

    `name`, None where none is like it; `differences`, split -> images per class beyond the known
    ones; `missing` splits; `exchanged`, split -> {called: counts are those of} where other names
    fit the counts far better.
    """
    nearest = min(KNOWN, key=lambda name: _distance(counts, KNOWN[name]))
    known = KNOWN[nearest]
    if _distance(counts, known) > RESEMBLES * sum(part.sum() for part in counts.values()):
        return {"name": None, "differences": {}, "missing": [], "exchanged": {}}
    shared = [split for split in counts if split in known]
    exchanges = {split: _exchange(counts[split], known[split]) for split in shared}
    return {
        "name": nearest,
        "differences": {split: (counts[split] - known[split]).tolist() for split in shared},
        "missing": [split for split in known if split not in counts],
        "exchanged": {split: names for split, names in exchanges.items() if names},
    }


def _distance(counts: Mapping[str, np.ndarray], known: Mapping[str, np.ndarray]) -> int:
    """Images too many or too few, whatever the classes are called; a split of its own counts."""
    pairs = [(part, known.get(split, np.zeros_like(part))) for split, part in counts.items()]
    return sum(int(np.abs(part - other[_best_naming(part, other)]).sum()) for part, other in pairs)


def _exchange(counts: np.ndarray, known: np.ndarray) -> dict[str, str]:
    """{called: counts are those of} if other names fit int [7] far better than those that stand."""
    best = _best_naming(counts, known)
    if np.abs(counts - known[best]).sum() > CLEARER * np.abs(counts - known).sum():
        return {}
    return {LABELS[a]: LABELS[b] for a, b in enumerate(best) if a != b}


def _best_naming(counts: np.ndarray, known: np.ndarray) -> np.ndarray:
    """int [7]: the names with the fewest images too many or too few; as they stand in a tie."""
    apart = np.abs(counts[:, None] - known[None])
    return linear_sum_assignment(apart - 1e-3 * np.eye(len(LABELS)))[1]
