"""All images of a data set side by side, and which of them show one photograph."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fer_jax.auditing.near_duplicates import UNCHANGED, Pairs, find_pairs
from fer_jax.data.records import Dataset, copy_groups
from fer_jax.labels import LABELS

TRAIN, SIDE = "train", 48
NAMED_AFTER = re.compile(r"(.+?[._](?:jpe?g|png|bmp|gif|webp|tiff?)).+", re.IGNORECASE)
"""`X.jpg7.jpg`, `X_png.rf.5c1.jpg`: called after the image that they were made of."""
BLANK = 5.0
"""Standard deviation in grey levels below which an image shows nothing.

In FER2013's Training and PublicTest 14 images lie below 5, the next four between 8 and 15, all
others above; 14 of 14 are "no face" to every one of FER+'s ten people.
"""


@dataclass(frozen=True)
class Pool:
    """N images over all splits, ordered by split, then key."""

    images: np.ndarray  # uint8 [N, 48, 48]: grey, resized where the original is of another size
    splits: tuple[str, ...]
    keys: tuple[str, ...]
    labels: np.ndarray  # int32 [N]
    rows: np.ndarray  # int32 [N]: of fer2013.csv, -1 where unknown
    copies: np.ndarray  # int32 [N]: equal numbers for exact copies, by the original pixels

    def __len__(self) -> int:
        return len(self.keys)

    def within(self, split: str) -> np.ndarray:
        """Bool [N]: the images of one split."""
        return np.array([name == split for name in self.splits], bool)

    def blank(self) -> np.ndarray:
        """Bool [N]: images that are nearly of one grey."""
        return np.array([image.std() < BLANK for image in self.images], bool)

    def names(self, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """{"split", "key", "label"} of each image, as audit.json has it."""
        return [
            {"split": self.splits[i], "key": self.keys[i], "label": LABELS[self.labels[i]]}
            for i in indices
        ]

    def keys_in(self, split: str, places: np.ndarray) -> list[str]:
        """Keys of those of `places` int [n] that lie in the split."""
        return [self.keys[i] for i in places if self.splits[i] == split]


@dataclass(frozen=True)
class Copies:
    """Every copy in a pool, by kind; near and mirrored pairs name the first of exact copies.

    Groups are of two or more, each int [n], ascending.
    """

    exact: list[np.ndarray]  # groups with the very same pixels
    near: Pairs
    mirrored: Pairs
    named: np.ndarray  # int [P, 2]: an image, and one that is called after it
    photographs: list[np.ndarray]  # groups joined by exact and near copies and by names
    with_mirrored: list[np.ndarray]  # the same, joined further by mirrored copies
    unchanged: list[np.ndarray]  # joined by exact copies and by near ones whose face does not move


def gather(dataset: Dataset) -> Pool:
    """Every readable image of every split."""
    roles = dataset.roles
    return Pool(
        images=np.stack(
            [_small(part.image(i)) for part in roles.values() for i in range(len(part))]
        ),
        splits=tuple(role for role, part in roles.items() for _ in range(len(part))),
        keys=tuple(key for part in roles.values() for key in part.keys),
        labels=np.concatenate([part.labels for part in roles.values()]),
        rows=np.concatenate([part.rows for part in roles.values()]),
        copies=copy_groups(np.concatenate([part.digests for part in roles.values()])),
    )


def find_copies(pool: Pool) -> Copies:
    """Exact, near and mirrored copies over all splits."""
    firsts, numbers = np.unique(pool.copies, return_index=True, return_inverse=True)[1:]
    exact = np.stack([firsts[numbers], np.arange(len(pool))], axis=1)
    distinct = np.sort(firsts)
    chosen = distinct[~pool.blank()[distinct]]
    near, mirrored = (find_pairs(pool.images, chosen, turned) for turned in (False, True))
    unchanged, named = near.members[near.changes <= UNCHANGED], pairs_by_name(pool)

    def joined(*links: np.ndarray) -> list[np.ndarray]:
        """Groups of what the links, each int [P, 2], join, directly or not."""
        i, j = np.concatenate(links).T
        graph = coo_array((np.ones(len(i), bool), (i, j)), shape=(len(pool), len(pool)))
        return groups(connected_components(graph, directed=False)[1])

    return Copies(
        exact=groups(pool.copies),
        near=near,
        mirrored=mirrored,
        named=named,
        photographs=joined(exact, near.members, named),
        with_mirrored=joined(exact, near.members, named, mirrored.members),
        unchanged=joined(exact, unchanged),
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


def leaking(pool: Pool, found: Iterable[np.ndarray]) -> np.ndarray:
    """Bool [N]: members of groups that lie both in train and elsewhere."""
    train, leaks = pool.within(TRAIN), np.zeros(len(pool), bool)
    for members in found:
        leaks[members] = train[members].any() and not train[members].all()
    return leaks


def _small(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 1 or 3] -> grey uint8 [48, 48]."""
    grey = image[..., 0] if image.shape[-1] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if grey.shape == (SIDE, SIDE):
        return grey
    return cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
