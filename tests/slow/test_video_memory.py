"""A long video is answered in the memory of a short one."""

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import fer_jax

FRAMES = 1800  # docs/recognise.md has 4,000
SHAPE = (240, 320, 3)  # a quarter of the frames are 104 MB
ALLOWED = 2**25  # bytes more: a block of 28 MiB that glibc may come to keep


def write_film(path: Path, frames: int) -> Path:
    """A face that wanders from frame to frame."""
    from skimage import data

    photograph = data.astronaut()[..., ::-1]
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, SHAPE[1::-1])
    for number in range(frames):
        left, top = 60 + number % 60, number % 20
        film.write(np.ascontiguousarray(photograph[top : top + SHAPE[0], left : left + SHAPE[1]]))
    film.release()
    return path


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def watch(film: Path) -> list[int]:
    """The bytes in memory at each frame, at none of them without a face."""
    sizes = []
    for found in fer_jax.load().predict_video(film):
        assert len(found) == 1
        sizes.append(resident())
    return sizes


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_the_video(tmp_path):
    sizes = watch(write_film(tmp_path / "film.mp4", FRAMES))
    assert len(sizes) == FRAMES
    quarter = FRAMES // 4
    assert min(sizes[-quarter:]) - min(sizes[quarter : 2 * quarter]) < ALLOWED
