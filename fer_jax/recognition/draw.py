"""Answers drawn into pictures and video: a box, its label and a bar for each class."""

import functools
import math
import os
from collections.abc import Sequence

import cv2
import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fer_jax.errors import UserError, writing
from fer_jax.recognition import explain, faces
from fer_jax.recognition.recognizer import Face, Faces, Recognizer

LEAST, MOST = 256, 8  # pixels of a drawn shorter side: smaller ones are enlarged, so many times
SURE, UNSURE, PAPER, INK = (60, 200, 90), (230, 170, 40), (20, 20, 20), (240, 240, 240)
HEAT = np.array([255, 40, 0], np.float32)
WRITTEN = (".png", ".jpg", ".jpeg", ".webp")  # others are drawn as PNG


class Gallery:
    """Pictures and videos with answers drawn in, named in `folder` as below `paths`."""

    def __init__(
        self, folder: str, paths: Sequence[str], model: Recognizer, explained: bool
    ) -> None:
        """An empty `folder` draws nothing. UserError where it holds the originals."""
        tops = [p if os.path.isdir(p) else os.path.dirname(p) for p in map(os.path.abspath, paths)]
        self._folder, self._root = folder, os.path.commonpath(tops or [os.getcwd()])
        if folder and os.path.abspath(folder) == self._root:
            raise UserError(f"--draw={folder} holds the originals: give another folder")
        cam = functools.partial(explain.grad_cam, model.model.evaluator.model)
        self._explain, self._model = jax.jit(cam) if explained else None, model
        self._film, self._filmed = cv2.VideoWriter(), ""
        self._last: Sequence[Face] = ()

    def add(self, found: Faces) -> None:
        """Draw one picture, or one frame of the video that is being written."""
        pixels, file = found.picture.pixels, str(found.file)
        if not self._folder or pixels is None:
            return
        self._last = self._last if found.picture.between else found
        drawn = annotated(pixels, self._last, self._heats(pixels, self._last))
        with writing(f"cannot write to --draw={self._folder}", "give another folder"):
            if found.frame is None:
                Image.fromarray(drawn).save(self._target(file, *WRITTEN), quality=95)
            else:
                self._open_film(file, drawn.shape)
                self._film.write(drawn[..., ::-1])

    def close(self) -> None:
        """Finish the video."""
        self._film.release()

    def _heats(self, pixels: np.ndarray, found: Sequence[Face]) -> list[np.ndarray]:
        """Of each face's most probable class."""
        if self._explain is None:
            return []
        variables, heats = self._model.model.variables, []
        for face in found:
            seen = self._model.seen(pixels, face.box, face.landmarks)
            (heat,) = self._explain(variables, seen[None], np.argmax([face.logits], axis=1))
            heats.append(np.asarray(heat))
        return heats

    def _open_film(self, file: str, shape: tuple[int, ...]) -> None:
        """As long and as fast as the original; a new one where `file` is another."""
        if file == self._filmed:
            return
        rate = cv2.VideoCapture(file).get(cv2.CAP_PROP_FPS) or 25.0
        code = cv2.VideoWriter.fourcc(*"mp4v")
        if not self._film.open(self._target(file, ".mp4"), code, rate, shape[1::-1]):
            raise OSError("OpenCV can write no video there")
        self._filmed = file

    def _target(self, file: str, *suffixes: str) -> str:
        """Where `file` is drawn; it gets the first of `suffixes` if it has none of them."""
        name = os.path.relpath(os.path.abspath(file), self._root)
        path = os.path.join(self._folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path if name.lower().endswith(suffixes) else path + suffixes[0]


def annotated(
    pixels: np.ndarray, found: Sequence[Face], heats: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """uint8 [H, W, 1 or 3] -> [H', W', 3] with all faces; H' = H unless the picture is small.

    `heats`, one [S, S] in 0..1 for each face, redden what its answer hangs on.
    """
    picture = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    for face, heat in zip(found, heats, strict=False):
        picture = _heated(picture, face, heat)
    scale = min(max(1, math.ceil(LEAST / min(picture.shape[:2]))), MOST)
    image = Image.fromarray(picture.repeat(scale, axis=0).repeat(scale, axis=1))
    for face in found:
        _draw_face(ImageDraw.Draw(image, "RGBA"), face, scale, image.size)
    return np.asarray(image)


def _heated(picture: np.ndarray, face: Face, heat: np.ndarray) -> np.ndarray:
    """`heat` laid over the part of the picture that the model saw."""
    area, turn = faces.upright(face.box, face.landmarks)
    matrix = faces.cut_matrix(picture.shape[:2], area, turn, len(heat))
    share = 0.6 * cv2.warpAffine(heat, matrix, picture.shape[1::-1])[..., None]
    return np.rint(picture * (1 - share) + HEAT * share).astype(np.uint8)


def _draw_face(draw: ImageDraw.ImageDraw, face: Face, scale: int, size: tuple[int, int]) -> None:
    left, top, width, height = (scale * value for value in face.box)
    colour = UNSURE if face.abstained else SURE
    row = int(min(max(height / 9, 10), 22))
    font = ImageFont.load_default(0.8 * row)
    draw.rectangle((left, top, left + width, top + height), outline=colour, width=max(2, row // 6))

    # The chart stands right of the box, left of it where there is no room, else inside.
    wide = 9 * row
    x = left + width + 2
    if x + wide > size[0]:
        x = left - wide - 2 if left > wide else max(0, size[0] - wide)
    y = max(0, min(top, size[1] - 8 * row))
    draw.rectangle((x, y, x + wide, y + 8 * row), fill=(*PAPER, 170))
    title = f"{face.label or 'not sure'} {face.confidence:.0%}"
    draw.text((x + 3, y), title, fill=colour, font=font)
    for number, (name, share) in enumerate(face.probabilities.items(), start=1):
        line = y + number * row
        draw.text((x + 3, line), name, fill=INK, font=font)
        start = x + 5 * row
        draw.rectangle((start, line + 2, start + 3.8 * row * share, line + row - 2), fill=colour)
