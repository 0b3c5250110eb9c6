"""What a model answered for each image of a split, in memory and as predictions.npz."""

import os
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from fer_jax.errors import UserError, one_line

PREDICTIONS_FILE, REPORT_FILE = "predictions.npz", "report.json"
VIEWS = {"none": 1, "flip": 2, "flip_crops": 12}  # kinds of test-time augmentation, and how many
TEMPERATURES = (0.01, 100.0)  # that may be fitted or given
ARRAYS = ("key", "label", "probabilities", "loss")


@dataclass(frozen=True)
class Predictions:
    """One row per image: N keys, labels int32 [N], probabilities float32 [N, K], losses [N].

    `losses` is the unweighted cross-entropy of each image, in nats. Both are float64 where a
    temperature scaled them. ValueError if shapes disagree.
    """

    keys: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray

    def __post_init__(self) -> None:
        shapes = [array.shape for array in (self.labels, self.losses, self.probabilities)]
        n, classes = len(self.keys), shapes[2][1:]
        if len(classes) != 1 or shapes != [(n,), (n,), (n, *classes)]:
            raise ValueError(f"{n} keys, arrays of shapes {shapes} do not belong together")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image, int64 [N]; the first one of equals."""
        return np.argmax(self.probabilities, axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted class, [N], 0..1."""
        return np.max(self.probabilities, axis=1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the arrays key, label, probabilities and loss as a compressed .npz."""
        arrays = (np.array(self.keys, np.str_), self.labels, self.probabilities, self.losses)
        named: Any = dict(zip(ARRAYS, arrays, strict=True))
        with open(path, "wb") as file:
            np.savez_compressed(file, **named)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """What `save` wrote; UserError names a file that is missing or is none of ours."""
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                keys, labels, probabilities, losses = (file[name] for name in ARRAYS)
            if keys.ndim != 1 or keys.dtype.kind != "U":
                raise ValueError("key is no list of texts")
            return cls(tuple(keys.tolist()), labels, probabilities, losses)
        except Exception as error:  # whatever NumPy and zip make of a broken file
            raise UserError(f"cannot read predictions from {path}: {one_line(error)}") from error
