"""One image file's bytes -> the uint8 pixels that a viewer shows, or the reason why not."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from fer_jax.errors import one_line

# What Pillow may try: pixels only, no formats that start other programs (EPS).
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
"""Names that promise an image; inside class folders the content decides, not the name."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PLAIN_CHUNKS = frozenset({b"IHDR", b"IDAT", b"IEND", b"pHYs", b"tIME", b"gAMA", b"cHRM", b"sRGB"})
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
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
    if data.startswith(PNG_SIGNATURE):
        plain = _plain_png(data, _png_chunks(data), max_pixels)
        if plain is not None:
            return _drop_equal_channels(plain)
    try:
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
    _check_size(*image.size, max_pixels)
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


def _png_chunks(data: bytes) -> dict[bytes, bytes]:
    """Chunk type -> content (of all IDATs together); each whole, its checksum right, the end there.

    By hand: Pillow's `verify` takes twice the time and lets missing rows pass, which `load` and
    OpenCV leave black.
    """
    position, chunks = len(PNG_SIGNATURE), dict[bytes, bytes]()
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        start, end = position + 8, position + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(data[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise UnreadableImage("damaged PNG (wrong checksum)")
        chunks[kind] = chunks.get(kind, b"") + data[start:end]
        if kind == b"IEND":
            return chunks
        position = end + 4
    raise UnreadableImage("truncated PNG")


def _plain_png(data: bytes, chunks: dict[bytes, bytes], max_pixels: int) -> np.ndarray | None:
    """8-bit grey or RGB with nothing else to heed, by OpenCV: the same pixels, sooner.

    None where Pillow has to look at it. UnreadableImage where packed rows are missing.
    """
    if len(chunks.get(b"IHDR", b"")) != 13:
        return None
    width, height, depth, colour, interlaced = struct.unpack(">IIBBxxB", chunks[b"IHDR"])
    _check_size(width, height, max_pixels)
    if interlaced or colour not in PNG_CHANNELS:
        return None
    size = height * (1 + (width * depth * PNG_CHANNELS[colour] + 7) // 8)
    try:
        rows = zlib.decompressobj().decompress(chunks.get(b"IDAT", b""), size + 1)
    except zlib.error:
        raise UnreadableImage("damaged PNG (cannot be unpacked)") from None
    if len(rows) < size:
        raise UnreadableImage("truncated PNG (fewer pixels than its header says)")
    if depth != 8 or colour not in (0, 2) or not PLAIN_CHUNKS.issuperset(chunks):
        return None
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels if pixels is None or pixels.ndim == 2 else pixels[..., ::-1]


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise UnreadableImage(f"{width}x{height} pixels, more than max_pixels={max_pixels}")


def _drop_equal_channels(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] -> read-only, contiguous [H, W, C]."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    elif (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    pixels = np.array(pixels, dtype=np.uint8, order="C")
    pixels.flags.writeable = False
    return pixels
