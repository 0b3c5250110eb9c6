"""All images of a data set side by side: grey 48x48 pixels, split, key, label and exact copies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from fer_jax.data.records import Dataset, copy_groups
from fer_jax.labels import LABELS

SIDE = 48
BLANK = 5.0
"""Standard deviation in grey levels below which an image shows nothing.

In FER2013's Training and PublicTest 14 images lie below 5, the next four between 8 and 15, all
others above; 14 of 14 are "no face" to every one of FER+'s ten people.
"""


@dataclass(frozen=True)
class Pool:
    """N images over all splits, ordered by split, then key."""

    images: np.ndarray
    """uint8 [N, 48, 48]: grey, resized where the original is of another size."""
    splits: tuple[str, ...]
    keys: tuple[str, ...]
    labels: np.ndarray
    """int32 [N]."""
    rows: np.ndarray
    """int32 [N]: the row of fer2013.csv, -1 where unknown."""
    copies: np.ndarray
    """int32 [N]: equal numbers for exact copies (original pixels, before any resizing)."""

    def __len__(self) -> int:
        return len(self.keys)

    def within(self, split: str) -> np.ndarray:
        """Bool [N]: the images of one split."""
        return np.array([name == split for name in self.splits], bool)

    def blank(self) -> np.ndarray:
        """Bool [N]: images that are nearly of one grey."""
        return np.array([image.std() < BLANK for image in self.images], bool)

    def name(self, index: int) -> dict[str, Any]:
        """{"split", "key", "label"} of one image, as audit.json has it."""
        label = LABELS[self.labels[index]]
        return {"split": self.splits[index], "key": self.keys[index], "label": label}

    def names(self, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """`name` of each."""
        return [self.name(int(i)) for i in indices]


def gather(dataset: Dataset) -> Pool:
    """Every readable image of every split."""
    roles = dataset.roles
    images = [small_grey(roles[role].image(i)) for role in roles for i in range(len(roles[role]))]
    return Pool(
        images=np.stack(images),
        splits=tuple(role for role in roles for _ in range(len(roles[role]))),
        keys=tuple(key for role in roles for key in roles[role].keys),
        labels=np.concatenate([roles[role].labels for role in roles]),
        rows=np.concatenate([roles[role].rows for role in roles]),
        copies=copy_groups(np.concatenate([roles[role].digests for role in roles])),
    )


def small_grey(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 1 or 3] -> uint8 [48, 48]."""
    grey = image[..., 0] if image.shape[-1] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if grey.shape == (SIDE, SIDE):
        return grey
    return cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
