"""A long video is answered in the memory of a short one."""

import itertools
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import fer_jax

FRAMES = 300  # docs/recognise.md has 5,000
SHAPE = (240, 320, 3)  # all frames are 69 MB
ALLOWED = 2**24  # bytes that the last quarter may need more than the first


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


def watch(film: Path, step: int) -> list[int]:
    """The bytes in memory at every `step`-th frame, and at none of them without a face."""
    answers = fer_jax.load().predict_video(film)
    sizes = []
    for found in itertools.islice(answers, step - 1, None, step):
        assert len(found) == 1
        sizes.append(resident())
    return sizes


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_the_video(tmp_path):
    sizes = watch(write_film(tmp_path / "film.mp4", FRAMES), FRAMES // 20)
    assert len(sizes) == 20
    # Least, since what one call needs beside (34 MiB) is seen in every third or fourth sample.
    assert min(sizes[-5:]) - min(sizes[:5]) < ALLOWED
