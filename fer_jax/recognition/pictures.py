"""What is to be recognised, a picture at a time: files, folders, bytes, arrays, video, cameras."""

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


def files(paths: Iterable[Any], besides: str = "") -> Iterator[Any]:
    """`paths` with the images and videos of each folder, sorted, in its place.

    Without those of the folder `besides`. What is no path stays as it is.
    """
    for path in paths:
        if not (isinstance(path, str | os.PathLike) and os.path.isdir(path)):
            yield path
            continue
        for folder, folders, names in os.walk(os.fspath(path)):
            full = os.path.abspath(folder)
            folders[:] = sorted(name for name in folders if os.path.join(full, name) != besides)
            for name in sorted(names):
                place = pathlib.Path(folder, name)
                known = name.lower().endswith((*images.SUFFIXES, *VIDEOS))
                if known and not place.is_fifo():  # it would wait
                    yield str(place)


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
    """Paths, bytes, Pillow images and uint8 [H, W] or [H, W, 1, 3 or 4] -> [H, W, 1 or 3]."""
    if isinstance(image, str | os.PathLike):
        image = pathlib.Path(image).read_bytes()
    if isinstance(image, bytes):
        return images.decode(image, MAX_PIXELS)
    if isinstance(image, Image.Image):
        return images.from_pillow(image, MAX_PIXELS)
    shape: Any = getattr(image, "shape", ())
    kind = getattr(image, "dtype", type(image).__name__)
    channels = 1 if len(shape) == 2 else shape[-1] if len(shape) == 3 else 0
    if kind != np.uint8 or channels not in (1, 3, 4) or 0 in shape:
        raise UserError(
            f"cannot recognise {kind} of shape {shape}: give paths, encoded bytes, Pillow images "
            "or uint8 RGB arrays [height, width, 3], or a list of them"
        )
    pixels = np.ascontiguousarray(image).reshape(*shape[:2], channels)  # else OpenCV copies anew
    return images.from_pillow(Image.fromarray(pixels), pixels.size) if channels == 4 else pixels


def video(source: Any, every: int = 1, most: int | None = None, all: bool = False) -> Iterator[Any]:
    """Every `every`-th frame of a file or of camera number `source`, `most` frames at most.

    With `all` those between them too, marked so. UserError where it cannot be opened or has no
    frame. One frame at a time is in memory.
    """
    live = isinstance(source, int)
    name = f"camera {source}" if live else os.fspath(source)
    capture = cv2.VideoCapture(source if live else name)
    seen, start = 0, time.monotonic()
    while (most is None or seen < most * every) and capture.grab():
        asked = seen % every == 0
        whole, pixels = capture.retrieve() if asked or all else (False, np.empty(0))
        if whole:
            position = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            at = time.monotonic() - start if live else position
            pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
            yield Picture(pixels, name, seen, at, between=not asked)
        seen += 1
    if not seen:
        there = "it has no frames, or is no video" if os.path.exists(name) else "it is not there"
        raise UserError(f"cannot watch {name}: {there}")
