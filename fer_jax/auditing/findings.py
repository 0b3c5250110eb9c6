"""All that an audit finds out about a data set: as facts, as lists of keys, as groups of images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_jax.auditing import conventions, known, votes
from fer_jax.auditing.conventions import Fit
from fer_jax.auditing.near_duplicates import Pairs
from fer_jax.auditing.photographs import TRAIN, Copies, find_copies, leaking
from fer_jax.auditing.pool import Pool, gather
from fer_jax.data.records import Dataset
from fer_jax.data.sources import fingerprint
from fer_jax.labels import LABELS

Facts = dict[str, Any]


@dataclass(frozen=True)
class Findings:
    """What was found, in the three forms in which it is written."""

    facts: Facts
    """What audit.json holds."""
    lists: dict[str, list[str]]
    """File name -> keys of training images that one may want to train without."""
    shown: dict[str, np.ndarray]
    """Picture -> positions in `pool`, int [groups, images side by side]."""
    pool: Pool


def examine(
    dataset: Dataset, data: str, ferplus: np.ndarray | None, say: Callable[[str], None]
) -> Findings:
    """Look at every image of `dataset`, read from the path `data`.

    `ferplus` are the votes int [rows, 10], if at hand.
    """
    pool = gather(dataset)
    nothing = np.zeros(len(pool), bool)
    no_face, agreement = (nothing, None) if ferplus is None else votes.judge(ferplus, pool)
    say(f"comparing {len(pool):,} images with each other")
    copies, blank = find_copies(pool), pool.blank()
    leaks = {
        "exact": leaking(pool, copies.exact),
        "near": leaking(pool, copies.photographs),
        "mirrored": leaking(pool, copies.with_mirrored),
    }
    conflicts = [found for found in copies.unchanged if len(set(pool.labels[found])) > 1]

    listed = {
        "exclude_exact_copies_of_validation.txt": leaks["exact"].nonzero()[0],
        "exclude_copies_of_validation.txt": leaks["mirrored"].nonzero()[0],
        "exclude_copies_by_name.txt": copies.named[:, 1],
        "exclude_conflicts.txt": np.concatenate([np.zeros(0, int), *conflicts]),
        "exclude_blank.txt": blank.nonzero()[0],
    } | ({} if agreement is None else {"exclude_no_face.txt": no_face.nonzero()[0]})
    shown: dict[str, Sequence[Any] | np.ndarray] = {
        "exact_copies.png": [(found[0], found[-1]) for found in copies.exact],
        "near_copies.png": copies.near.members,
        "mirrored_copies.png": copies.mirrored.members,
        "conflicts.png": [_two_labels(pool, found) for found in conflicts],
        "blank.png": blank.nonzero()[0][:, None],
        "no_face.png": no_face.nonzero()[0][:, None],
    }
    lists = {name: _keys_of_train(pool, indices) for name, indices in listed.items()}
    facts = _of_dataset(dataset, data) | _of_copies(pool, copies, conflicts, leaks)
    facts |= {
        "blank": pool.names(blank.nonzero()[0]),
        "names": _compare_names(pool, blank),
        "ferplus": agreement and agreement | {"no_face": pool.names(no_face.nonzero()[0])},
        "lists": {name: len(keys) for name, keys in lists.items()},
    }
    groups = {name: np.array(found) for name, found in shown.items() if len(found)}
    return Findings(facts, lists, groups, pool)


def _of_dataset(dataset: Dataset, data: str) -> Facts:
    counts = {role: part.counts() for role, part in dataset.roles.items()}
    return {
        "made_by": "fer_jax.audit",
        "data": data,
        "layout": dataset.layout,
        "fingerprints": fingerprint(dataset),
        "label_names": list(LABELS),
        "counts": {role: part.tolist() for role, part in counts.items()},
        "known": known.recognise(counts),
        "ignored": dataset.ignored,
        "notes": list(dataset.notes),
        "unreadable": [{"file": name, "reason": why} for name, why in dataset.unreadable],
    }


def _of_copies(
    pool: Pool, copies: Copies, conflicts: list[np.ndarray], leaks: dict[str, np.ndarray]
) -> Facts:
    def described(pairs: Pairs) -> list[Facts]:
        return [
            {"first": pool.name(i), "second": pool.name(j), "distance": round(distance, 5)}
            for (i, j), distance in zip(pairs.members, pairs.distances.tolist(), strict=True)
        ]

    return {
        "exact_copies": [pool.names(members) for members in copies.exact],
        "near_copies": described(copies.near),
        "mirrored_copies": described(copies.mirrored),
        "copies_by_name": [pool.names(pair) for pair in copies.named],
        "photographs": [pool.names(members) for members in copies.photographs],
        "conflicts": [
            {"exact": len(set(pool.copies[found])) == 1, "images": pool.names(found)}
            for found in conflicts
        ],
        "leaks": {
            kind: {
                role: int((mask & pool.within(role)).sum()) for role in dict.fromkeys(pool.splits)
            }
            for kind, mask in leaks.items()
        },
    }


def _compare_names(pool: Pool, blank: np.ndarray) -> dict[str, Fit | None]:
    """Split other than train -> how its class names fit those of train; empty without train."""
    parts = {split: pool.within(split) & ~blank for split in dict.fromkeys(pool.splits)}
    train = parts.pop(TRAIN, None)
    if train is None:
        return {}
    learned = pool.images[train], pool.labels[train]
    return {
        split: conventions.compare(*learned, pool.images[part], pool.labels[part])
        for split, part in parts.items()
    }


def _two_labels(pool: Pool, members: np.ndarray) -> tuple[int, int]:
    """The first image of a group and the first that is called otherwise."""
    labels = pool.labels[members]
    return members[0], members[(labels != labels[0]).argmax()]


def _keys_of_train(pool: Pool, indices: np.ndarray) -> list[str]:
    return sorted(pool.keys[i] for i in set(indices.tolist()) if pool.splits[i] == TRAIN)
