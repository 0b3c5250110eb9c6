"""Copies put together: which images show one photograph, where its labels disagree or it leaks."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fer_jax.auditing.near_duplicates import Pairs, find_pairs
from fer_jax.auditing.pool import Pool

TRAIN = "train"


@dataclass(frozen=True)
class Copies:
    """Every copy in a pool, by kind; pairs stand for exact copies by their first image."""

    exact: list[np.ndarray]
    """Groups of two or more with the very same pixels, each int [n], ascending."""
    compared: Pairs
    """All that were compared as they are: copies and the look-alikes beside them."""
    compared_mirrored: Pairs
    near: Pairs
    mirrored: Pairs
    photographs: list[np.ndarray]
    """Groups of two or more joined by exact and near copies, each int [n], ascending."""


def find_copies(pool: Pool) -> Copies:
    """Exact, near and mirrored copies over all splits."""
    firsts = _firsts(pool.copies)
    chosen = firsts[~pool.blank()[firsts]]
    compared = find_pairs(pool.images, chosen, mirrored=False)
    compared_mirrored = find_pairs(pool.images, chosen, mirrored=True)
    near = compared.near()
    joined = joined_by(len(pool), [*_links(pool.copies), *near.members])
    return Copies(
        exact=groups(pool.copies),
        compared=compared,
        compared_mirrored=compared_mirrored,
        near=near,
        mirrored=compared_mirrored.near().without(near),
        photographs=groups(joined),
    )


def groups(numbers: np.ndarray) -> list[np.ndarray]:
    """int [N] -> positions of equal numbers, of those that occur more than once, by the first."""
    found: dict[int, list[int]] = defaultdict(list)
    for position, number in enumerate(numbers.tolist()):
        found[number].append(position)
    return [np.array(members) for members in found.values() if len(members) > 1]


def joined_by(count: int, links: Iterable[np.ndarray]) -> np.ndarray:
    """int [count]: the smallest position that each is joined to by `links`, directly or not."""
    parents = list(range(count))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    for i, j in links:
        low, high = sorted((root(int(i)), root(int(j))))
        parents[high] = low
    return np.array([root(i) for i in range(count)], np.int64)


def conflicting(labels: np.ndarray, found: Iterable[np.ndarray]) -> list[np.ndarray]:
    """The groups whose members bear more than one label."""
    return [members for members in found if len(set(labels[members].tolist())) > 1]


def leaking(pool: Pool, found: Iterable[np.ndarray]) -> np.ndarray:
    """Bool [N]: members of groups that lie both in train and elsewhere."""
    train = pool.within(TRAIN)
    leaks = np.zeros(len(pool), bool)
    for members in found:
        inside = train[members]
        if inside.any() and not inside.all():
            leaks[members] = True
    return leaks


def with_mirrored(pool: Pool, copies: Copies) -> list[np.ndarray]:
    """`copies.photographs`, joined further where one is the other's mirror image."""
    links = [*_links(pool.copies), *copies.near.members, *copies.mirrored.members]
    return groups(joined_by(len(pool), links))


def _firsts(numbers: np.ndarray) -> np.ndarray:
    """Positions at which a number occurs for the first time, ascending."""
    return np.sort(np.unique(numbers, return_index=True)[1])


def _links(numbers: np.ndarray) -> list[np.ndarray]:
    return [np.array([members[0], i]) for members in groups(numbers) for i in members[1:]]
