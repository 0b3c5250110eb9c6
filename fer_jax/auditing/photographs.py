"""Copies put together: which images show one photograph, by pixels, by likeness and by name."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fer_jax.auditing.near_duplicates import UNCHANGED, Pairs, find_pairs
from fer_jax.auditing.pool import Pool

TRAIN = "train"
NAMED_AFTER = re.compile(r"(.+?[._](?:jpe?g|png|bmp|gif|webp|tiff?)).+", re.IGNORECASE)
"""`X.jpg7.jpg`, `X_png.rf.5c1.jpg`: called after the image that they were made of."""


@dataclass(frozen=True)
class Copies:
    """Every copy in a pool, by kind; near and mirrored pairs name the first of exact copies."""

    exact: list[np.ndarray]
    """Groups of two or more with the very same pixels, each int [n], ascending."""
    near: Pairs
    mirrored: Pairs
    named: np.ndarray
    """int [P, 2]: an image, and one that is called after it."""
    photographs: list[np.ndarray]
    """Groups of two or more joined by exact and near copies and by names."""
    with_mirrored: list[np.ndarray]
    """The same, joined further where one is the other's mirror image."""
    unchanged: list[np.ndarray]
    """Groups joined by exact copies and by near ones whose face does not move."""


def find_copies(pool: Pool) -> Copies:
    """Exact, near and mirrored copies over all splits."""
    firsts, numbers = np.unique(pool.copies, return_index=True, return_inverse=True)[1:]
    exact = np.stack([firsts[numbers], np.arange(len(pool))], axis=1)
    distinct = np.sort(firsts)
    chosen = distinct[~pool.blank()[distinct]]
    near = find_pairs(pool.images, chosen, mirrored=False)
    mirrored = find_pairs(pool.images, chosen, mirrored=True)
    unchanged = near.members[near.changes <= UNCHANGED]
    named = pairs_by_name(pool)
    links = [exact, near.members, named]
    return Copies(
        exact=groups(pool.copies),
        near=near,
        mirrored=mirrored,
        named=named,
        photographs=groups(joined_by(len(pool), *links)),
        with_mirrored=groups(joined_by(len(pool), *links, mirrored.members)),
        unchanged=groups(joined_by(len(pool), exact, unchanged)),
    )


def pairs_by_name(pool: Pool) -> np.ndarray:
    """int [P, 2]: images of one class whose name says that the second was made of the first.

    Where the first is not there, one of those that are called after it stands for it.
    """
    names = [key.rsplit("/", 1)[-1] for key in pool.keys]
    places = list(zip(pool.splits, pool.labels.tolist(), names, strict=True))
    own = {place: i for i, place in enumerate(places)}
    anywhere = {place[1:]: i for place, i in own.items()}
    pairs = []
    for i, (split, label, name) in enumerate(places):
        if match := NAMED_AFTER.fullmatch(name):
            stand_in = anywhere.setdefault((label, match[1]), i)
            pairs.append((own.get((split, label, match[1]), stand_in), i))
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 2)


def groups(numbers: np.ndarray) -> list[np.ndarray]:
    """int [N] -> positions of equal numbers, of those that occur more than once, by the first."""
    order = np.argsort(numbers, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
    return sorted((part for part in parts if len(part) > 1), key=lambda part: int(part[0]))


def joined_by(count: int, *links: np.ndarray) -> np.ndarray:
    """int [count]: equal numbers for what `links`, each int [P, 2], join, directly or not."""
    i, j = np.concatenate([np.zeros((0, 2), np.int64), *links]).T
    graph = coo_array((np.ones(len(i), bool), (i, j)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def leaking(pool: Pool, found: Iterable[np.ndarray]) -> np.ndarray:
    """Bool [N]: members of groups that lie both in train and elsewhere."""
    train = pool.within(TRAIN)
    leaks = np.zeros(len(pool), bool)
    for members in found:
        inside = train[members]
        if inside.any() and not inside.all():
            leaks[members] = True
    return leaks
