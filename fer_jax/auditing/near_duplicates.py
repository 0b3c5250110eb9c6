"""The same photograph twice: other compression, size, light, crop, watermark, or mirrored.

Candidates are all pairs whose low frequencies agree (a perceptual hash that is kept as numbers: 63
DCT coefficients, without the mean, of unit length; mirroring changes only signs). Each candidate
is then laid over its partner by the best affine map (Evangelidis and Psarakis 2008, ECC) and
judged by the correlation of the pixels that overlap.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from tqdm import tqdm

FREQUENCIES = 8
"""Lowest DCT frequencies per axis that describe an image."""
CANDIDATE, MIRRORED_CANDIDATE = 0.08, 0.06
"""1 - correlation of the low frequencies up to which a pair is looked at.

Look-alikes abound beyond: on FER2013 one pair in 25 between 0.06 and 0.1 is one photograph, of the
mirrored ones one in 1,000.
"""
MOST = 40_000
"""Candidates that are looked at, the nearest ones: frames of one film would make millions."""
NEAR = 0.025
"""1 - correlation after alignment up to which two images are one photograph.

On FER2013 the distances of candidates have two humps, the valley at 0.03 to 0.045. Recompressed
(JPEG 75) and resized copies stay below 0.005; of 150 pairs between 0.015 and 0.025 a person found
all to be one photograph, and the first look-alikes come beyond 0.03.
"""
OVERLAP = 0.5
"""Share of the picture that must lie within its partner."""
BLUR = 0.8
"""Standard deviation, in pixels, of the blur before pixels are compared: JPEG's noise goes."""
ROUNDS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
BLOCK, PART = 512, 128
SAMPLE = 300
"""Images whose recompressed and resized copies show what the distance makes of them."""


@dataclass(frozen=True)
class Pairs:
    """Candidate pairs and how far apart they are, nearest first."""

    members: np.ndarray
    """int [P, 2], the smaller index first."""
    distances: np.ndarray
    """float [P]: 1 - correlation after alignment, 0 for the same pixels."""

    def near(self) -> "Pairs":
        """Those that are one photograph."""
        close = self.distances <= NEAR
        return Pairs(self.members[close], self.distances[close])

    def without(self, others: "Pairs") -> "Pairs":
        """Those that are not among `others`."""
        known = {tuple(pair) for pair in others.members.tolist()}
        new = np.array([tuple(pair) not in known for pair in self.members.tolist()], bool)
        return Pairs(self.members[new], self.distances[new])


def find_pairs(images: np.ndarray, chosen: np.ndarray, mirrored: bool) -> Pairs:
    """All candidates among `images` uint8 [N, 48, 48] at `chosen` int [M], not exact copies.

    With `mirrored` the second of each pair is compared left for right. Blank images have no
    correlation: leave them out of `chosen`.
    """
    members = chosen[candidates(spectra(images[chosen]), mirrored)]
    partners = images[:, :, ::-1] if mirrored else images
    name = "mirrored copies" if mirrored else "near copies"
    distances = _all_distances(images, partners, members, name)
    order = np.lexsort((members[:, 1], members[:, 0], distances))
    return Pairs(members[order], distances[order])


def spectra(images: np.ndarray) -> np.ndarray:
    """uint8 [N, S, S] -> float32 [N, 63]: low frequencies of unit length, blind to light."""
    waves = _waves(images.shape[-1])
    parts = np.array_split(images, max(1, len(images) // BLOCK))
    planes = [waves @ part.astype(np.float32) @ waves.T for part in parts]
    features = np.concatenate(planes).reshape(len(images), FREQUENCIES**2)[:, 1:]
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, 1e-6)


def candidates(features: np.ndarray, mirrored: bool) -> np.ndarray:
    """Unit vectors float32 [N, 63] -> int [P <= MOST, 2]: pairs i < j nearer than CANDIDATE."""
    limit = MIRRORED_CANDIDATE if mirrored else CANDIDATE
    queries = features * _mirror_signs() if mirrored else features
    pairs, distances = np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    kind = "mirrored candidates" if mirrored else "candidates"
    for start in _bar(range(0, len(features), BLOCK), kind, "block"):
        likeness = queries[start : start + BLOCK] @ features[start:].T
        i, j = np.nonzero(likeness > 1 - limit)
        i, j = i[j > i], j[j > i]
        pairs = np.concatenate([pairs, np.stack([i, j], axis=1) + start])
        distances = np.concatenate([distances, 1 - likeness[i, j]])
        nearest = np.argsort(distances, kind="stable")[:MOST]
        pairs, distances = pairs[nearest], distances[nearest]
    return pairs


def aligned_distance(image: np.ndarray, other: np.ndarray) -> float:
    """uint8 [S, S] twice -> 0 (one photograph) .. 2, after the best affine map of one to the other.

    Where no map is found, or one that leaves too little overlap, the distance as they lie.
    """
    smooth, plain = _blurred(image), _blurred(other)
    as_they_lie = _distance(smooth, plain)
    other, start = np.ascontiguousarray(other), np.eye(2, 3, dtype=np.float32)
    whole = np.full_like(other, 255)
    try:
        _, warp = cv2.findTransformECC(image, other, start, cv2.MOTION_AFFINE, ROUNDS, whole, 5)
    except cv2.error:  # it does not converge
        return as_they_lie
    size, flags = image.shape[::-1], cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(other, warp, size, flags=flags | cv2.INTER_LINEAR)
    inside = cv2.warpAffine(whole, warp, size, flags=flags | cv2.INTER_NEAREST) > 0
    if inside.mean() < OVERLAP:
        return as_they_lie
    return min(as_they_lie, _distance(smooth[inside], _blurred(moved)[inside]))


def altered_distances(images: np.ndarray) -> dict[str, np.ndarray]:
    """What `aligned_distance` makes of copies of a sample: name of the change -> float [<= SAMPLE].

    The measure of what NEAR would miss; of each kind the same images, evenly spaced.
    """
    step = max(1, len(images) // SAMPLE)
    sample = images[::step][:SAMPLE]
    return {
        name: np.array([aligned_distance(image, change(image)) for image in sample])
        for name, change in ALTERATIONS.items()
    }


def recompressed(image: np.ndarray, quality: int) -> np.ndarray:
    """uint8 [S, S] -> the same after JPEG."""
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE))


def resized(image: np.ndarray, by: int) -> np.ndarray:
    """uint8 [S, S] -> the same after it was `by` pixels wider and higher for a while."""
    side = image.shape[0]
    there = cv2.resize(image, (side + by, side + by), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(there, (side, side), interpolation=cv2.INTER_LINEAR)


ALTERATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "JPEG 90": lambda image: recompressed(image, 90),
    "JPEG 75": lambda image: recompressed(image, 75),
    "resized by -1": lambda image: resized(image, -1),
    "resized by +1": lambda image: resized(image, 1),
}


def _waves(side: int) -> np.ndarray:
    """The lowest rows of the DCT-II matrix, float32 [FREQUENCIES, side]."""
    k, x = np.arange(FREQUENCIES)[:, None], np.arange(side)[None]
    return np.cos(np.pi * (x + 0.5) * k / side).astype(np.float32) * np.where(
        k == 0, np.sqrt(0.5), 1
    ).astype(np.float32)


def _mirror_signs() -> np.ndarray:
    """float32 [63]: what mirroring does to `spectra`: odd horizontal waves change their sign."""
    signs = np.where(np.arange(FREQUENCIES) % 2, -1, 1).astype(np.float32)
    return np.tile(signs, FREQUENCIES)[1:]


def _all_distances(
    images: np.ndarray, partners: np.ndarray, members: np.ndarray, name: str
) -> np.ndarray:
    def measure(part: np.ndarray) -> list[float]:
        return [aligned_distance(images[i], partners[j]) for i, j in part]

    parts = [members[start : start + PART] for start in range(0, len(members), PART)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = _bar(pool.map(measure, parts), f"comparing {name}", "part", len(parts))
        return np.array([distance for part in results for distance in part], float)


def _bar(items: Iterator | range, name: str, unit: str, total: int | None = None) -> Iterator:
    """A progress bar, on a terminal only."""
    return iter(tqdm(items, desc=name, unit=unit, total=total, disable=None, leave=False))


def _blurred(image: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), BLUR).astype(np.float32)


def _distance(image: np.ndarray, other: np.ndarray) -> float:
    """1 - correlation of two float arrays of one shape; 1 where one of them is constant."""
    a, b = image - image.mean(), other - other.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return 1.0 if norm < 1e-3 else 1.0 - float((a * b).sum()) / norm
