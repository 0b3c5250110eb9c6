"""One image file's bytes -> the uint8 pixels that a viewer shows, or the reason why not."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, ImageOps

from fer_jax.errors import one_line

# What Pillow may try: pixels only, no formats that start other programs (EPS).
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
"""Names that promise an image; inside class folders the content decides, not the name."""

WHITE = (255, 255, 255, 255)


class UnreadableImage(ValueError):
    """Bytes that are no whole, allowed image; its text is the reason, in one line."""


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pillow's size warning becomes an error, its remarks about metadata are dropped.

    Filters belong to the whole process, so callers wrap their loop, not each image.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode(data: bytes, max_pixels: int) -> np.ndarray:
    """Encoded bytes -> uint8 [H, W, C], C = 1 if all channels are equal, else 3.

    EXIF rotation is applied, transparency lies on white, 16 bits are scaled to 8 (not clipped),
    of an animation the first frame counts, colour profiles are not applied. Raises
    UnreadableImage, for more than `max_pixels` from the header alone, before decoding.
    """
    if not data:
        raise UnreadableImage("an empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.verify()  # PNG's checksums, at which decoding does not look; it leaves no pixels
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return from_pillow(image, max_pixels)
    except (UnreadableImage, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage("not an image of a known format") from error
    except Exception as error:  # Pillow's decoders raise almost any type on broken files
        raise UnreadableImage(one_line(error)) from error


def from_pillow(image: Image.Image, max_pixels: int) -> np.ndarray:
    """An open Pillow image -> as `decode` gives it; raises also what Pillow's decoders raise."""
    if image.width * image.height > max_pixels:
        size = f"{image.width}x{image.height} pixels"
        raise UnreadableImage(f"{size}, more than max_pixels={max_pixels}")
    image.load()  # only then is EXIF behind the pixels known
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = ImageOps.exif_transpose(image) if turned else image
    mode = upright.mode
    if mode == "F" or (mode == "I" and image.format not in ("PNG", "PPM")):
        raise UnreadableImage("32-bit pixels have no agreed range")
    if mode == "I" or mode.startswith("I;16"):  # 0..65535; the value called transparent is white
        values = np.asarray(upright).astype(np.uint32)
        scaled = ((values + 128) // 257).astype(np.uint8)
        transparent = upright.info.get("transparency")
        return _drop_equal_channels(np.where(values == transparent, np.uint8(255), scaled))
    if upright.has_transparency_data:
        paper = Image.new("RGBA", upright.size, WHITE)
        upright = Image.alpha_composite(paper, upright.convert("RGBA"))
    return _drop_equal_channels(np.asarray(upright.convert("L" if mode in ("1", "L") else "RGB")))


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 1 or 3] -> PNG bytes, lossless."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _drop_equal_channels(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] -> read-only, contiguous [H, W, C]."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    elif (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    pixels = np.array(pixels, dtype=np.uint8, order="C")
    pixels.flags.writeable = False
    return pixels
