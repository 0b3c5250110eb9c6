"""Weights, statistics and images drawn by name: the same here and beside the peers."""

import zlib

import numpy as np

# Of the random kernels: less, and a signal dies on its way; more, and rounding errors explode.
GAINS = {"b0": 1.42, "b1": 1.38, "b2": 1.37, "b3": 1.3} | {
    "b4": 1.3, "b5": 1.27, "b6": 1.25, "b7": 1.2,
    "lite0": 1.22, "lite1": 1.22, "lite2": 1.22, "lite3": 1.22, "lite4": 1.17,
}  # fmt: skip
# No gain suits every library's draw: with the above Keras's B1 and B3 explode at their own size,
# and lukemelas's B2 and B3 answer the two images alike.
DRAWN_GAINS = {
    ("keras", "b1"): 1.35,
    ("keras", "b3"): 1.29,
    ("keras", "b7"): 1.205,
    ("timm", "b7"): 1.18,
    ("lukemelas", "b2"): 1.41,
    ("lukemelas", "b3"): 1.36,
    ("lukemelas", "b5"): 1.23,
    ("lukemelas", "b6"): 1.22,
    ("torchvision", "b7"): 1.215,
}


def gain(source: str, variant: str) -> float:
    """Of the kernels of a library's variant, whose names decide the draw."""
    return DRAWN_GAINS.get((source, variant), GAINS[variant])


def random_array(
    name: str, shape: tuple[int, ...], kind: str, gain: float, seed: int
) -> np.ndarray:
    """What a variable of this kind holds: decided by its name, so that any order gives the same."""
    draw = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if kind == "kernel":
        fan_in = np.prod(shape) / max(shape[0] if _torch(name) else shape[-1], 1)
        fan_in = np.prod(shape[:2]) if "dw" in name and not _torch(name) else fan_in
        values = draw.normal(0, gain / np.sqrt(fan_in), shape)
    elif kind == "positive":
        values = draw.uniform(0.5, 1.5, shape)
    else:
        values = draw.normal(0, 0.2, shape)
    return values.astype(np.float32)


def _torch(name: str) -> bool:
    return name.endswith(".weight")


def images(size: int, count: int = 2) -> np.ndarray:
    """uint8 [count, size, size, 3]: noise over a slope, another one in each."""
    draw = np.random.default_rng(size)
    slope = np.linspace(0, 1, size)[:, None, None] * draw.uniform(-120, 120, (count, 1, 1, 3))
    noise = draw.uniform(0, 160, (count, size, size, 3))
    return np.clip(noise + slope + 50, 0, 255).astype(np.uint8)


def relative(ours: np.ndarray, theirs: np.ndarray, floor: float = 0.0) -> float:
    """Largest difference over the largest magnitude of `theirs`, at least `floor`."""
    if ours.shape != theirs.shape:
        raise ValueError(f"{ours.shape} and {theirs.shape}")
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), floor))
