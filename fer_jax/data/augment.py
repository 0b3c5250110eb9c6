"""(image, rng) -> image: one affine warp, tone and erasing, in the units of Keras' layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from fer_jax.errors import UserError

# Faces are small: OpenCV's own threads cost more than they give and compete with the train step.
cv2.setNumThreads(1)

SMALLEST_CROP = 0.01  # of the area
ERASED_AREA = (0.02, 0.2)  # of the image
ERASED_ASPECT = (0.3, 1 / 0.3)  # height / width; both ranges as Zhong et al. 2017 have them
CROP_ASPECT = (3 / 4, 4 / 3)  # width / height in shares of the sides: Szegedy et al. 2015
DRAWS = 16  # uniform numbers per image, drawn whatever the settings: each keeps its own
_LIMITS = {  # largest legal value of each factor
    "rotation": 1.0,
    "zoom": 0.9,
    "translation": 1.0,
    "brightness": 1.0,
    "contrast": 1.0,
    "erasing": 1.0,
}


@dataclass(frozen=True)
class Crop:
    """A part of an image, in shares of its width and height."""

    left: float
    top: float
    width: float
    height: float


WHOLE = Crop(0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Augmentation:
    """How far an image may move; every factor f draws uniformly from [-f, f], 0 switches it off."""

    flip: bool  # mirrored left to right with probability 1/2
    rotation: float  # fraction of a full turn: 0.1 is up to 36 degrees either way
    zoom: float  # shows 1 + u of the side, height and width alike: positive u zooms out
    translation: float  # fraction of the side, height and width apart
    brightness: float  # fraction of the full range: 0.1 adds up to 25.5 grey levels
    contrast: float  # distances from the image's mean are multiplied by 1 + u
    erasing: float  # probability of one rectangle filled with the image's mean
    crop_area: float  # smallest share of the image's area that a random crop shows; 1 is off

    def __post_init__(self) -> None:
        """UserError where a factor lies outside its range."""
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise UserError(f"augmentation.{name} is {value}: use 0 (off) to {limit:g}")
        if not SMALLEST_CROP <= self.crop_area <= 1:
            raise UserError(
                f"augmentation.crop_area is {self.crop_area}: use {SMALLEST_CROP:g} to 1 (off)"
            )


def augment(
    image: np.ndarray, rng: np.random.Generator, size: int, settings: Augmentation
) -> np.ndarray:
    """uint8 [H, W, C] -> uint8 [size, size, C], moved at random; the same for equal rngs."""
    draws = rng.random(DRAWS).tolist()
    zoom, crop = 1 + settings.zoom * _signed(draws[2]), _crop(settings.crop_area, draws[12:16])
    image = _shrink(image, size / zoom / crop.height, size / zoom / crop.width)
    image = _tone(image, settings, draws)
    matrix = warp_matrix(
        size=size,
        source=image.shape[:2],
        flip=settings.flip and draws[0] < 0.5,
        turn=settings.rotation * _signed(draws[1]),
        zoom=zoom,
        shift=(settings.translation * _signed(draws[3]), settings.translation * _signed(draws[4])),
        crop=crop,
    )
    image = _warp(image, matrix, size)
    if draws[7] < settings.erasing:
        _erase(image, draws[8:12])
    return _with_channels(image)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, C] -> uint8 [size, size, C]: the warp of `augment` with nothing moved.

    Bilinear when enlarging, area-averaged when shrinking; the whole image, squeezed to a square.
    """
    image = _shrink(image, size, size)
    if image.shape[:2] != (size, size):
        source = image.shape[:2]
        matrix = warp_matrix(size, source, flip=False, turn=0, zoom=1, shift=(0, 0), crop=WHOLE)
        image = _warp(image, matrix, size)
    return _with_channels(image)


def warp_matrix(
    size: int,
    source: Sequence[int],
    flip: bool,
    turn: float,
    zoom: float,
    shift: tuple[float, float],
    crop: Crop,
) -> np.ndarray:
    """float64 [2, 3]: from an output pixel's (x, y) to the input pixel's, in indices.

    Written out, it is the product to_index(source) @ crop @ flip @ rotate(turn) @ scale(zoom) @
    translate(-shift * size) @ from_index(size) of 3x3 matrices around the image's centre, where
    an index i stands for the position i + 1/2. `source` is (height, width), `shift` (right, down).
    """
    cos, sin = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    height, width = source[0] / size * crop.height, source[1] / size * crop.width
    mirror = -1 if flip else 1
    xx, xy = zoom * width * mirror * cos, -zoom * width * mirror * sin
    yx, yy = zoom * height * sin, zoom * height * cos
    x = 0.5 - size * (0.5 + shift[0])
    y = 0.5 - size * (0.5 + shift[1])
    middle_x = source[1] * crop.left + size * width / 2
    middle_y = source[0] * crop.top + size * height / 2
    return np.array(
        [
            [xx, xy, xx * x + xy * y + middle_x - 0.5],
            [yx, yy, yx * x + yy * y + middle_y - 0.5],
        ]
    )


def _signed(uniform: float) -> float:
    """[0, 1) -> [-1, 1)."""
    return 2 * uniform - 1


def _crop(smallest: float, draws: Sequence[float]) -> Crop:
    """A random part; where it would be wider or higher than the image it ends at the borders."""
    if smallest == 1:
        return WHOLE
    low, high = map(math.log, CROP_ASPECT)
    area, aspect = smallest + (1 - smallest) * draws[0], math.exp(low + (high - low) * draws[1])
    width, height = min(1.0, math.sqrt(area * aspect)), min(1.0, math.sqrt(area / aspect))
    return Crop(draws[2] * (1 - width), draws[3] * (1 - height), width, height)


def _shrink(image: np.ndarray, height: float, width: float) -> np.ndarray:
    """Averages areas down to the sides where the image is larger: the warp cannot alias then."""
    rows = min(max(1, round(height)), image.shape[0])
    columns = min(max(1, round(width)), image.shape[1])
    if (rows, columns) == image.shape[:2]:
        return image
    return cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)


def _tone(image: np.ndarray, settings: Augmentation, draws: Sequence[float]) -> np.ndarray:
    """Brightness and contrast around the image's mean over all channels; clips to 0..255."""
    if not (settings.brightness or settings.contrast):
        return image
    gain = 1 + settings.contrast * _signed(draws[5])
    offset = 255 * settings.brightness * _signed(draws[6]) + (1 - gain) * _mean(image)
    return cv2.addWeighted(image, gain, image, 0, offset)


def _mean(image: np.ndarray) -> float:
    """Mean over pixels and channels."""
    channels = 1 if image.ndim == 2 else image.shape[2]
    return sum(cv2.mean(image)[:channels]) / channels


def _warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Bilinear, reflecting at the borders: Keras' fill_mode `reflect`."""
    # Mirrored once, around: OpenCV is slower at each pixel that it looks up beyond the borders.
    margin = _reach(matrix, image.shape, size)
    image = cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_REFLECT)
    inside = matrix.copy()
    inside[:, 2] += margin
    return cv2.warpAffine(
        image, inside, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )


def _reach(matrix: np.ndarray, shape: Sequence[int], size: int) -> int:
    """Pixels beyond the image, on the side where it is most, that the warp looks up."""
    half, beyond = (size - 1) / 2, 0.0
    for (along, across, start), side in zip(matrix.tolist(), (shape[1], shape[0]), strict=True):
        off_centre = abs(start + (along + across) * half - (side - 1) / 2)
        beyond = max(beyond, off_centre + (abs(along) + abs(across)) * half - (side - 1) / 2)
    return math.ceil(beyond) + 1


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
