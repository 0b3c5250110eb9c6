"""Small made data sets in every layout that the project reads."""

import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_jax.data import synthetic
from fer_jax.data.images import encode_png
from fer_jax.data.sources import Dataset, ReadOptions, open_dataset
from fer_jax.errors import UserError
from fer_jax.labels import FER2013_CSV_ORDER, LABELS

OPTIONS = ReadOptions(
    label_order="",
    on_corrupt="stop",
    validation_fraction=0.1,
    split_seed=0,
    max_pixels=10_000,
    cache_mib=64,
    exclude="",
    map="",
)
SKIP = replace(OPTIONS, on_corrupt="skip")
USAGES = {"train": "Training", "validation": "PublicTest", "test": "PrivateTest"}

Row = tuple[str, str, np.ndarray]
"""(role, class, uint8 [48, 48]); its position is its row."""


def make_rows(count: int = 42, roles: tuple[str, ...] = ("train", "validation", "test")):
    """`count` rows, classes and roles mixed, every class in every role from 21 rows on."""
    draw = np.random.default_rng(7)
    names = [LABELS[(3 * i + 2) % 7] for i in range(count)]
    return [
        (roles[(i // 7) % len(roles)], names[i], draw.integers(0, 256, (48, 48), np.uint8))
        for i in range(count)
    ]


def seed_files(rows: list[Row], root: str = "images/") -> dict[str, bytes]:
    """images/ROLE/CLASS/ROW.png"""
    return {
        f"{root}{role}/{name}/{i}.png": encode_png(pixels[..., None])
        for i, (role, name, pixels) in enumerate(rows)
    }


def kaggle_files(rows: list[Row], prefixed: bool = True) -> dict[str, bytes]:
    """train/CLASS/Training_*.png, test/CLASS/PublicTest_*.png and PrivateTest_*.png"""
    return {
        f"{'train' if role == 'train' else 'test'}/{name}/"
        f"{USAGES[role] if prefixed else 'im'}_{i * 37:08d}.png": encode_png(pixels[..., None])
        for i, (role, name, pixels) in enumerate(rows)
    }


def csv_text(rows: list[Row], variant: str = "fer2013") -> str:
    """The text of fer2013.csv, or of icml_face_data.csv."""
    header = {"fer2013": "emotion,pixels,Usage", "icml": "emotion, Usage, pixels"}[variant]
    lines = [header]
    for role, name, pixels in rows:
        cells = [" ".join(map(str, pixels.ravel())), USAGES[role]]
        if variant == "icml":
            cells.reverse()
        lines.append(",".join([str(FER2013_CSV_ORDER.index(name)), *cells]))
    return "\n".join(lines) + "\n"


def some_faces(role: str, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Every `step`-th of the drawn faces, uint8 [N, 48, 48], and labels; no other is drawn."""
    labels = np.repeat(np.arange(len(LABELS), dtype=np.int32), synthetic.COUNTS[role])
    people, chosen = synthetic.IDENTITIES[role], range(0, len(labels), step)
    drawn = [synthetic.draw_face(LABELS[labels[i]], people[i % len(people)], i) for i in chosen]
    return np.stack(drawn), labels[::step]


def recompressed(image: np.ndarray, quality: int) -> np.ndarray:
    """uint8 [S, S] -> the same after JPEG."""
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE))


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    """Files under `root`."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    """Files in an archive, in reverse order: nothing may rest on the order of its listing."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in reversed(files):
            archive.writestr(name, files[name])
    return path


def opened(path: Path | str, options: ReadOptions = OPTIONS) -> Dataset:
    """The data set at `path`."""
    return open_dataset(str(path), options)


def refused(path: Path | str, options: ReadOptions = OPTIONS) -> str:
    """The one line with which `path` is refused."""
    with pytest.raises(UserError) as caught:
        opened(path, options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def summary(dataset: Dataset) -> dict:
    """All that training sees of a data set."""
    return {
        role: (
            r.fingerprint,
            r.keys,
            r.rows.tolist(),
            r.labels.tolist(),
            [x["image"].tobytes() for x in r],
        )
        for role, r in dataset.roles.items()
    }


class Memory:
    """Records of given images [N, H, W, C], of all classes in turn."""

    def __init__(self, images: np.ndarray) -> None:
        self.images, self.labels = images, (np.arange(len(images)) % 7).astype(np.int32)
        self.keys = tuple(map(str, range(len(images))))
        self.channels, self.targets = images.shape[3], None

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> np.ndarray:
        return self.images[index]
