"""What is to be recognised, a picture at a time: files, folders, bytes, arrays, video, cameras."""

import contextlib
import os
import pathlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from fer_jax.data import images
from fer_jax.errors import UserError, one_line

MAX_PIXELS = 80_000_000  # below what Pillow warns of; a telephone's picture has 12 to 50 million
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")


@dataclass(frozen=True)
class Picture:
    """uint8 RGB or grey [H, W, 3 or 1], or None and the reason; what it is, where from and when."""

    pixels: np.ndarray | None
    file: str | None = None
    frame: int | None = None  # of a video, from 0
    time: float | None = None  # seconds from a video's start
    error: str | None = None
    between: bool = False  # a frame that is passed on and not looked at


def is_one(given: Any) -> bool:
    """Whether it is one image (or folder), not several."""
    one = isinstance(given, str | bytes | os.PathLike | Image.Image)
    return one or (isinstance(given, np.ndarray) and given.ndim < 4)


def files(path: str | os.PathLike[str], besides: str = "") -> Iterator[str]:
    """The file itself; of a folder its images and videos, sorted, without the folder `besides`."""
    if not os.path.isdir(path):
        yield os.fspath(path)
        return
    for folder, folders, names in os.walk(path, followlinks=False):
        folders[:] = sorted(f for f in folders if os.path.join(folder, f) != besides)
        for name in sorted(names):
            if name.lower().endswith((*images.SUFFIXES, *VIDEOS)):
                yield os.path.join(folder, name)


def expanded(several: Iterable[Any]) -> Iterator[Any]:
    """`several` with the files of each folder in its place."""
    for one in several:
        yield from files(one) if isinstance(one, str | os.PathLike) else [one]


def read(image: Any) -> Picture:
    """An image as a picture, with the reason where it is unreadable; UserError for other types."""
    if isinstance(image, Picture):
        return image
    file = os.fspath(image) if isinstance(image, str | os.PathLike) else None
    try:
        return Picture(_pixels(image), file)
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise almost any type on broken files
        reason = error.strerror if isinstance(error, OSError) else None
        return Picture(None, file, error=reason or one_line(error))


def _pixels(image: Any) -> np.ndarray:
    if isinstance(image, str | os.PathLike):
        image = pathlib.Path(image).read_bytes()
        if not image:
            raise images.UnreadableImage("empty file")
    if isinstance(image, bytes):
        return images.decode(image, MAX_PIXELS)
    if isinstance(image, Image.Image):
        return images.from_pillow(image, MAX_PIXELS)
    return _from_array(image)


def _from_array(array: Any) -> np.ndarray:
    """uint8 [H, W] or [H, W, 1, 3 or 4] -> [H, W, 1 or 3]; UserError for anything else."""
    shape, kind = getattr(array, "shape", None), getattr(array, "dtype", type(array).__name__)
    channels = 1 if shape is not None and len(shape) == 2 else (shape or (0,))[-1]
    fits = shape is not None and len(shape) in (2, 3) and channels in (1, 3, 4) and 0 not in shape
    if not fits or kind != np.uint8:
        raise UserError(
            f"cannot recognise {kind} of shape {shape}: give paths, encoded bytes, Pillow images "
            "or uint8 RGB arrays [height, width, 3], or a list of them"
        )
    array = np.asarray(array)
    if channels == 4:
        return images.from_pillow(Image.fromarray(array, "RGBA"), array.size)
    return array.reshape(*array.shape[:2], channels)


def video(source: Any, every: int = 1, most: int | None = None, all: bool = False) -> Iterator[Any]:
    """Every `every`-th frame of a file or of camera number `source`, `most` frames at most.

    With `all` those between them too, marked so. UserError where it cannot be opened or has no
    frame. One frame at a time is in memory.
    """
    name = f"camera {source}" if isinstance(source, int) else os.fspath(source)
    with _opened(source) as capture:
        seen, start = 0, time.monotonic()
        while (most is None or seen < most * every) and capture.grab():
            asked = seen % every == 0
            whole, pixels = capture.retrieve() if asked or all else (False, np.empty(0))
            if whole:
                live = time.monotonic() - start
                at = live if isinstance(source, int) else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
                yield Picture(pixels, name, seen, at, between=not asked)
            seen += 1
    if not seen:
        reason = "no frames, or no video" if os.path.exists(name) else "not there"
        raise UserError(f"{name}: {reason}")


def frame_rate(source: Any) -> float:
    """Frames per second of a video file, 25 where it does not say."""
    with _opened(source) as capture:
        return capture.get(cv2.CAP_PROP_FPS) or 25.0


@contextlib.contextmanager
def _opened(source: Any) -> Iterator[Any]:
    capture = cv2.VideoCapture(source if isinstance(source, int) else os.fspath(source))
    try:
        yield capture
    finally:
        capture.release()
