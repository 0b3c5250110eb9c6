"""(images, draws) -> images: one affine warp, tone, erasing each, in the units of Keras' layers."""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from fer_jax.sections import Section, key

# Faces are small: OpenCV's own threads cost more than they give and compete with the train step.
cv2.setNumThreads(1)

ERASED_AREA = (0.02, 0.2)  # of the image
ERASED_ASPECT = (0.3, 1 / 0.3)  # height / width; both ranges as Zhong et al. 2017 have them
CROP_ASPECT = (3 / 4, 4 / 3)  # width / height in shares of the sides: Szegedy et al. 2015
DRAWS = 16  # uniform numbers per image, drawn whatever the settings: each keeps its own

Number = float | np.ndarray  # or one for each image, float64 [n]


@dataclass(frozen=True)
class Crop:
    """A part of an image, in shares of its width and height."""

    left: Number
    top: Number
    width: Number
    height: Number


WHOLE = Crop(0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class AugmentConfig(Section):
    """The section `augment`: how far an image may move.

    Every factor f draws uniformly from [-f, f]; 0 switches it off.
    """

    section = "augment"
    flip: bool = key()  # mirrored left to right with probability 1/2
    rotation: float = key(0, 1)  # fraction of a full turn: 0.1 is up to 36 degrees either way
    zoom: float = key(0, 0.9)  # shows 1 + u of the side, both alike: positive u zooms out
    translation: float = key(0, 1)  # fraction of the side, height and width apart
    brightness: float = key(0, 1)  # fraction of the full range: 0.1 adds up to 25.5 grey levels
    contrast: float = key(0, 1)  # distances from the image's mean are multiplied by 1 + u
    erasing: float = key(0, 1)  # probability of one rectangle filled with the image's mean
    crop_area: float = key(0.01, 1)  # smallest share of the area that a random crop shows; 1 is off


# What was drawn for a batch is worked out for all its images together: image by image, Python would
# take as long as OpenCV. Each number still depends on its own image and draws alone.
def augment(
    images: Iterable[np.ndarray], draws: np.ndarray, size: int, settings: AugmentConfig
) -> Iterator[np.ndarray]:
    """uint8 [H, W, C] -> uint8 [size, size, C] each, moved by its draws: [n, DRAWS] in [0, 1)."""
    draws = np.ascontiguousarray(draws.T)
    signed = 2 * draws - 1  # [-1, 1)
    zoom, crop = 1 + settings.zoom * signed[2], _crop(settings.crop_area, draws[12:16])
    # Averaged down to the sides that will be seen, for the warp would alias.
    seen = np.broadcast_arrays(size / zoom / crop.height, size / zoom / crop.width)
    sides = np.maximum(1, np.rint(np.stack(seen, axis=1))).astype(int).tolist()
    images = [_shrunk(image, *side) for image, side in zip(images, sides, strict=True)]
    height, width = np.array([image.shape[:2] for image in images], float).reshape(-1, 2).T
    source = height, width

    matrices = warp_matrix(
        size=size,
        source=source,
        flip=settings.flip & (draws[0] < 0.5),
        turn=settings.rotation * signed[1],
        zoom=zoom,
        shift=(settings.translation * signed[3], settings.translation * signed[4]),
        crop=crop,
    )
    matrices, margins = _mirrored(matrices, source, size)
    gains, offsets = 1 + settings.contrast * signed[5], 255 * settings.brightness * signed[6]
    erased = draws[7] < settings.erasing
    numbers = (values.tolist() for values in (margins, gains, offsets, erased))
    each = zip(images, matrices, *numbers, strict=True)
    for i, (image, matrix, margin, gain, offset, erasing) in enumerate(each):
        if settings.brightness or settings.contrast:  # around the mean over all channels
            image = cv2.addWeighted(image, gain, image, 0, offset + (1 - gain) * _mean(image))
        image = _warp(image, matrix, margin, size)
        if erasing:
            _erase(image, draws[8:12, i].tolist())
        yield _with_channels(image)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, C] -> uint8 [size, size, C]: the warp of `augment` with nothing moved.

    Bilinear when enlarging, area-averaged when shrinking; the whole image, squeezed to a square.
    """
    image = _shrunk(image, size, size)
    if image.shape[:2] != (size, size):
        image = _warp(image, *_enlarging(image.shape[:2], size), size)
    return _with_channels(image)


def warp_matrix(
    size: int,
    source: tuple[Number, Number],
    flip: bool | np.ndarray,
    turn: Number,
    zoom: Number,
    shift: tuple[Number, Number],
    crop: Crop,
) -> np.ndarray:
    """float64 [2, 3] or [n, 2, 3]: from an output pixel's (x, y) to the input pixel's, in indices.

    Written out, it is the product to_index(source) @ crop @ flip @ rotate(turn) @ scale(zoom) @
    translate(-shift * size) @ from_index(size) of 3x3 matrices around the image's centre, where
    an index i stands for the position i + 1/2. `source` is (height, width), `shift` (right, down).
    """
    cos, sin = np.cos(2 * math.pi * turn), np.sin(2 * math.pi * turn)
    height, width = source[0] / size * crop.height, source[1] / size * crop.width
    mirror = np.where(flip, -1.0, 1.0)
    xx, xy = zoom * width * mirror * cos, -zoom * width * mirror * sin
    yx, yy = zoom * height * sin, zoom * height * cos
    x = 0.5 - size * (0.5 + shift[0])
    y = 0.5 - size * (0.5 + shift[1])
    middle_x = source[1] * crop.left + size * width / 2
    middle_y = source[0] * crop.top + size * height / 2
    to_x = xx, xy, xx * x + xy * y + middle_x - 0.5
    to_y = yx, yy, yx * x + yy * y + middle_y - 0.5
    values = np.broadcast_arrays(*to_x, *to_y)
    return np.stack(values, axis=-1).reshape(*values[0].shape, 2, 3)


def _crop(smallest: float, draws: np.ndarray) -> Crop:
    """Random parts; where one would be wider or higher than its image it ends at the borders."""
    if smallest == 1:
        return WHOLE
    low, high = map(math.log, CROP_ASPECT)
    area, aspect = smallest + (1 - smallest) * draws[0], np.exp(low + (high - low) * draws[1])
    width = np.minimum(1.0, np.sqrt(area * aspect))
    height = np.minimum(1.0, np.sqrt(area / aspect))
    return Crop(draws[2] * (1 - width), draws[3] * (1 - height), width, height)


def _shrunk(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    rows, columns = min(rows, image.shape[0]), min(columns, image.shape[1])
    if (rows, columns) == image.shape[:2]:
        return image
    return cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)


def _mean(image: np.ndarray) -> float:
    """Mean over pixels and channels."""
    channels = 1 if image.ndim == 2 else image.shape[2]
    return sum(cv2.mean(image)[:channels]) / channels


def _warp(image: np.ndarray, matrix: np.ndarray, margin: int, size: int) -> np.ndarray:
    """Bilinear, reflecting at the borders: Keras' fill_mode `reflect`."""
    image = cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_REFLECT)
    return cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )


@functools.lru_cache(maxsize=64)
def _enlarging(source: tuple[int, int], size: int) -> tuple[np.ndarray, int]:
    """Matrix and margin of the warp that moves nothing."""
    matrix = warp_matrix(size, source, flip=False, turn=0, zoom=1, shift=(0, 0), crop=WHOLE)
    matrix, margin = _mirrored(matrix, source, size)
    return matrix, int(margin)


def _mirrored(
    matrices: np.ndarray, source: tuple[Number, Number], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The matrices for images mirrored around, by so many pixels as each warp looks up: int [...].

    OpenCV is slower at each pixel that it looks up beyond the borders.
    """
    half, last = (size - 1) / 2, np.stack(source[::-1], axis=-1) - 1
    along, across, start = np.moveaxis(matrices, -1, 0)
    off_centre = abs(start + (along + across) * half - last / 2)
    beyond = off_centre + (abs(along) + abs(across)) * half - last / 2
    margins = np.ceil(np.maximum(beyond.max(axis=-1), 0)).astype(int) + 1
    matrices = matrices.copy()
    matrices[..., 2] += margins[..., None]
    return matrices, margins


def _erase(image: np.ndarray, draws: Sequence[float]) -> None:
    """Fills one rectangle with the mean, in place."""
    size = image.shape[0]
    low, high = ERASED_AREA
    side = size * math.sqrt(low + (high - low) * draws[0])
    low, high = math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1])
    stretch = math.exp((low + (high - low) * draws[1]) / 2)
    height = min(size, max(1, round(side * stretch)))
    width = min(size, max(1, round(side / stretch)))
    top, left = int(draws[2] * (size - height + 1)), int(draws[3] * (size - width + 1))
    image[top : top + height, left : left + width] = round(_mean(image))


def _with_channels(image: np.ndarray) -> np.ndarray:
    """[S, S], as OpenCV returns grey images, or [S, S, C] -> [S, S, C]."""
    return image[..., None] if image.ndim == 2 else image
