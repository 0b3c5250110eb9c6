"""Which images of a data set show one photograph: other compression, size, light, crop, mirrored.

Candidates are the nearest neighbours by low frequencies (a perceptual hash that is kept as numbers:
63 DCT coefficients, without the mean, of unit length; mirroring changes only signs). Each candidate
is then laid over its partner by the best affine map (Evangelidis and Psarakis 2008, ECC) and
judged by the correlation of the pixels that overlap.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors
from tqdm.contrib.concurrent import thread_map

from fer_jax.data.hashes import BLANK, FREQUENCIES, small, spectra
from fer_jax.data.records import Dataset, copy_groups
from fer_jax.labels import LABELS

TRAIN = "train"
NAMED_AFTER = re.compile(r"(.+?[._](?:jpe?g|png|bmp|gif|webp|tiff?)).+", re.IGNORECASE)
"""`X.jpg7.jpg`, `X_png.rf.5c1.jpg`: called after the image that they were made of."""
NEIGHBOURS = 32  # that each image is compared with; copies beyond are joined through those between
MOST = 40_000  # candidates, the nearest ones: frames of films would make many more
CANDIDATE, MIRRORED_CANDIDATE = 0.08, 0.06
"""1 - correlation of the low frequencies up to which a pair is looked at.

Look-alikes abound beyond: on FER2013 one pair in 25 between 0.06 and 0.1 is one photograph, of the
mirrored ones one in 1,000.
"""
NEAR = 0.025
"""1 - correlation after alignment up to which two images are one photograph.

On FER2013 the distances of candidates have two humps, the valley at 0.03 to 0.045. Recompressed
(JPEG 75) and resized copies stay below 0.005; of 150 pairs between 0.015 and 0.025 a person found
all to be one photograph, and the first look-alikes come beyond 0.03.
"""
OVERLAP = 0.5  # share of the picture that must lie within its partner
BLUR = 0.8  # pixels, a standard deviation: JPEG's noise goes
CELL = 9  # pixels, side of the places in which a change is looked for: a mouth, an eye
UNCHANGED = 0.15
"""Largest mean squared difference in a place, pixels of unit variance, that is not a change.

Of drawn faces all recompressed copies stay below 0.03, 98 % of those resized by a pixel below 0.15;
of one sitter making two faces, all that are near lie above 0.17.
"""
MOVED = 0.2
"""The same, beyond which it is one. On FER2013 both leave 230 of 243 copies with two labels."""
ROUNDS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
MIRROR_SIGNS = np.tile([1, -1], FREQUENCIES**2 // 2)[1:].astype(np.float32)
"""[63]: what mirroring does to `spectra`: odd horizontal waves change their sign."""


@dataclass(frozen=True)
class Pool:
    """N images over all splits, ordered by split, then key."""

    images: np.ndarray  # uint8 [N, 48, 48]: grey, resized where the original is of another size
    splits: np.ndarray  # str [N]
    keys: tuple[str, ...]
    labels: np.ndarray  # int32 [N]
    copies: np.ndarray  # int32 [N]: equal numbers for exact copies, by the original pixels

    def __len__(self) -> int:
        return len(self.keys)

    def names(self, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """{"split", "key", "label"} of each image, as audit.json has it."""
        return [
            {"split": str(self.splits[i]), "key": self.keys[i], "label": LABELS[self.labels[i]]}
            for i in indices
        ]

    def keys_in(self, split: str, groups: Iterable[np.ndarray]) -> list[str]:
        """Keys, sorted, of the members of `groups` that lie in the split."""
        places = {i for members in groups for i in members.tolist() if self.splits[i] == split}
        return sorted(self.keys[i] for i in places)


def gather(dataset: Dataset) -> Pool:
    """Every readable image of every split."""
    roles = dataset.roles
    images = [small(part.image(i)) for part in roles.values() for i in range(len(part))]
    return Pool(
        images=np.stack(images),
        splits=np.repeat(list(roles), list(map(len, roles.values()))),
        keys=tuple(key for part in roles.values() for key in part.keys),
        labels=np.concatenate([part.labels for part in roles.values()]),
        copies=copy_groups(np.concatenate([part.digests for part in roles.values()])),
    )


def find_copies(pool: Pool) -> dict[str, list[np.ndarray]]:
    """Kind -> groups of images over all splits, places in the pool int [n] each.

    Near and mirrored pairs, nearest first, name the first of exact copies.
    """
    blank = np.array([image.std() < BLANK for image in pool.images], bool)
    firsts, numbers = np.unique(pool.copies, return_index=True, return_inverse=True)[1:]
    exact = np.stack([firsts[numbers], np.arange(len(pool))], axis=1)
    distinct = np.sort(firsts)
    chosen = distinct[~blank[distinct]]
    near, changes = find_pairs(pool.images, chosen, mirrored=False)
    mirrored, _ = find_pairs(pool.images, chosen, mirrored=True)
    unchanged, named = near[changes <= UNCHANGED], pairs_by_name(pool)

    def joined(*links: np.ndarray) -> np.ndarray:
        """int [N]: equal numbers for what the links, each int [P, 2], join, directly or not."""
        i, j = np.concatenate(links).T
        graph = coo_array((np.ones(len(i), bool), (i, j)), shape=(len(pool), len(pool)))
        return connected_components(graph, directed=False)[1]

    # Frames that hardly differ from the next ones may lead from one face to another.
    part = joined(exact, unchanged)
    first, last = part[near[changes > MOVED]].T
    still = unchanged[~np.isin(part[unchanged[:, 0]], first[first == last])]
    same_face = groups(joined(exact, still))
    return {
        "exact_copies": groups(pool.copies),
        "near_copies": [*near],
        "mirrored_copies": [*mirrored],
        "copies_by_name": [*named],
        "photographs": groups(joined(exact, near, named)),
        "with_mirrored": groups(joined(exact, near, named, mirrored)),
        "conflicts": [found for found in same_face if len(set(pool.labels[found])) > 1],
        "blank": [*np.flatnonzero(blank)[:, None]],
    }


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
    train, leaks = pool.splits == TRAIN, np.zeros(len(pool), bool)
    for members in found:
        leaks[members] = train[members].any() and not train[members].all()
    return leaks


def find_pairs(
    images: np.ndarray, chosen: np.ndarray, mirrored: bool
) -> tuple[np.ndarray, np.ndarray]:
    """All near copies among `images` uint8 [N, 48, 48] at `chosen` int [M], not exact copies.

    -> int [P, 2], nearest first, the smaller index first; float [P], what changed, see UNCHANGED.
    With `mirrored` the second of each pair is compared left for right. Blank images correlate with
    nothing: leave them out.
    """
    members = chosen[candidates(spectra(images[chosen]), mirrored)]
    partners = images[:, :, ::-1] if mirrored else images
    pairs = (images[i] for i in members[:, 0]), (partners[j] for j in members[:, 1])
    shown = {"desc": "comparing images", "total": len(members), "disable": None, "leave": False}
    results = thread_map(aligned_distance, *pairs, max_workers=os.cpu_count(), **shown)
    measured = np.array(results, float).reshape(-1, 2)
    order = np.lexsort((members[:, 1], members[:, 0], measured[:, 0]))
    order = order[measured[order, 0] <= NEAR]
    return members[order], measured[order, 1]


def candidates(features: np.ndarray, mirrored: bool) -> np.ndarray:
    """Unit vectors float32 [N, 63] -> int [P <= MOST, 2]: pairs i < j nearer than CANDIDATE."""
    if len(features) < 2:
        return np.zeros((0, 2), np.int64)
    limit = MIRRORED_CANDIDATE if mirrored else CANDIDATE
    queries = features * MIRROR_SIGNS if mirrored else features
    search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(features)), algorithm="brute")
    distances, neighbours = search.fit(features).kneighbors(queries)

    # of unit vectors the correlation is 1 - distance^2 / 2
    i, rank = np.nonzero(distances**2 / 2 < limit)
    pairs = np.sort(np.stack([i, neighbours[i, rank]], axis=1), axis=1)
    nearest_first = np.argsort(distances[i, rank], kind="stable")
    pairs = pairs[nearest_first][np.diff(pairs[nearest_first])[:, 0] > 0]
    firsts = np.sort(np.unique(pairs, axis=0, return_index=True)[1])
    return pairs[firsts[:MOST]]


def aligned_distance(image: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """uint8 [S, S] twice -> distance 0 (one photograph) .. 2 and largest change, see UNCHANGED.

    After the best affine map of one to the other; where no map is found, or one that leaves too
    little overlap, as they lie.
    """
    whole = np.full_like(image, 255)
    as_they_lie = _difference(image, other, whole)
    other, start = np.ascontiguousarray(other), np.eye(2, 3, dtype=np.float32)
    try:
        _, warp = cv2.findTransformECC(image, other, start, cv2.MOTION_AFFINE, ROUNDS, whole, 5)
    except cv2.error:  # it does not converge
        return as_they_lie
    size, flags = image.shape[::-1], cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(other, warp, size, flags=flags | cv2.INTER_LINEAR)
    inside = cv2.warpAffine(whole, warp, size, flags=flags | cv2.INTER_NEAREST)
    if (inside > 0).mean() < OVERLAP:
        return as_they_lie
    return min(as_they_lie, _difference(image, moved, inside))


def _difference(image: np.ndarray, other: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """1 - correlation where `inside` is not 0, and the largest change; 1 and inf if constant."""
    known = inside > 0
    a, b = (cv2.GaussianBlur(x, (0, 0), BLUR).astype(np.float32) for x in (image, other))
    a, b = a - a[known].mean(), b - b[known].mean()
    deviations = float(a[known].std()), float(b[known].std())
    if min(deviations) < 1e-3:
        return 1.0, np.inf
    squares = (a / deviations[0] - b / deviations[1]) ** 2
    # what lies outside has no partner, and shines through the blur into the pixels beside it
    within = cv2.erode(inside, np.ones((5, 5)), borderValue=255) > 0
    change = cv2.blur(np.where(within, squares, 0), (CELL, CELL)).max()
    return float(squares[known].mean()) / 2, float(change)
