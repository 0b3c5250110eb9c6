"""What all contestants are given: batches for the models, small grey faces for the pipelines."""

import numpy as np

from experiments.benchmark.settings import Settings
from experiments.parity.random_weights import images

CLASSES = 7
BATCHES, SHIFT = 4, 7  # different ones, so that none is learnt by heart; pixels between two
FACES, SIDE, COARSE = 28_709, 48, 8  # as many as FER2013 has to train, and as large
MODEL, TIMM, KERAS, ONNX = "model.safetensors", "timm.safetensors", "keras.weights.h5", "model.onnx"
IMAGES, LABELS = "images.npy", "labels.npy"
PLAIN, SAMPLED = 8, 16  # images shown unmoved, batches whose grey levels are summed up
Batch = dict[str, np.ndarray]


def step_batches(settings: Settings, count: int = BATCHES) -> list[Batch]:
    """image uint8 [B, S, S, 3], label int32 [B]: the same for every contestant."""
    drawn, rng = images(settings.size, settings.batch), np.random.default_rng(1)
    return [
        {
            "image": np.roll(drawn, number * SHIFT, axis=2),
            "label": rng.integers(0, CLASSES, settings.batch, dtype=np.int32),
        }
        for number in range(count)
    ]


def made_faces(count: int = FACES) -> Batch:
    """image uint8 [N, 48, 48], label int32 [N]: smooth blots; every class is there."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, COARSE, COARSE)).astype(np.float32)
    place = np.linspace(0, COARSE - 1, SIDE)
    low = np.minimum(place.astype(int), COARSE - 2)
    part = (place - low).astype(np.float32)
    rows = coarse[:, low] * (1 - part)[:, None] + coarse[:, low + 1] * part[:, None]
    smooth = rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part
    # By default astype keeps the order of axes in memory, and indexing has put the images last.
    image = smooth.astype(np.uint8, order="C")
    return {"image": image, "label": np.arange(count, dtype=np.int32) % CLASSES}


def shared_faces(settings: Settings) -> Batch:
    """What `weights.write` has laid down."""
    image, label = np.load(settings.file(IMAGES)), np.load(settings.file(LABELS))
    return {"image": image, "label": label}


def grey_levels(batches: list[np.ndarray]) -> dict[str, float]:
    """Mean and deviation of many augmented images: alike where augmentation is alike."""
    pixels = np.concatenate([batch.reshape(-1) for batch in batches]).astype(np.float32)
    return {"mean": float(pixels.mean()), "deviation": float(pixels.std())}
