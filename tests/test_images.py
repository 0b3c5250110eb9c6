"""Every kind of file gives the pixels that a viewer shows, or a reason."""

import contextlib
import dataclasses
import io
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from PIL import Image

from fer_jax.data.images import UnreadableImage, decode, encode_png
from fer_jax.data.records import ReadOptions

LIMIT = 10_000
SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)


def packed(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG from its parts, with right checksums."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [b"IHDR" + header, *more, b"IDAT" + zlib.compress(rows), b"IEND"]
    whole = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return SIGNATURE + b"".join(whole)


def test_grey_has_one_channel():
    np.testing.assert_array_equal(decode(packed(Image.fromarray(GREY)), LIMIT), GREY[..., None])


def test_colour_has_three_in_rgb_order():
    np.testing.assert_array_equal(decode(packed(Image.fromarray(COLOUR)), LIMIT), COLOUR)


def test_equal_channels_become_one():
    grey = Image.fromarray(np.repeat(GREY[..., None], 3, axis=-1))
    for kind in ("PNG", "BMP", "TIFF"):
        np.testing.assert_array_equal(decode(packed(grey, kind), LIMIT), GREY[..., None])


@given(
    nps.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])))
)
@settings(max_examples=50, deadline=None)
def test_png_round_trip(pixels):
    decoded = decode(encode_png(pixels), LIMIT)
    equal = (pixels == pixels[..., :1]).all()
    np.testing.assert_array_equal(decoded, pixels[..., :1] if equal else pixels)
    assert decoded.flags.c_contiguous
    assert not decoded.flags.writeable


def test_transparency_lies_on_white():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0] = (200, 0, 0, 255)
    pixels[1, 1] = (0, 0, 0, 128)
    decoded = decode(packed(Image.fromarray(pixels)), LIMIT)
    np.testing.assert_array_equal(decoded[0, 0], (200, 0, 0))
    np.testing.assert_array_equal(decoded[1, 0], (255, 255, 255))
    np.testing.assert_allclose(decoded[1, 1], 127, atol=1)


def test_grey_with_alpha():
    decoded = decode(packed(Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8))), LIMIT)
    np.testing.assert_array_equal(decoded, [[[10], [255]]])


def test_palette():
    image = Image.fromarray(COLOUR).quantize(4)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode(packed(image), LIMIT), expected)


def test_palette_with_a_transparent_entry():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    decoded = decode(packed(image, transparency=1), LIMIT)
    np.testing.assert_array_equal(decoded, [[[10, 20, 30], [255, 255, 255]]])


def test_16_bits_are_scaled_not_clipped():
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    expected = np.round(values / 257).astype(np.uint8)[..., None]
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(
            decode(packed(Image.fromarray(values), kind), LIMIT), expected
        )


def test_16_bits_with_a_transparent_value():
    rows = b"\0" + struct.pack(">HH", 300, 65535 // 2)
    data = png(2, 1, 16, 0, rows, b"tRNS" + struct.pack(">H", 300))
    np.testing.assert_array_equal(decode(data, LIMIT)[0, :, 0], [255, 127])


def test_16_bit_colour():
    rows = b"\0" + struct.pack(">HHH", 65535, 32768, 0)
    np.testing.assert_allclose(decode(png(1, 1, 16, 2, rows), LIMIT), [[[255, 128, 0]]], atol=1)


def test_one_bit():
    pixels = np.array([[True, False, True]])
    decoded = decode(packed(Image.fromarray(pixels)), LIMIT)
    np.testing.assert_array_equal(decoded, [[[255], [0], [255]]])


@pytest.mark.parametrize(("depth", "factor"), [(2, 85), (4, 17)])
def test_few_bits_reach_white(depth, factor):
    rows = bytes([0, (2**depth - 1) << (8 - depth)])
    assert decode(png(1, 1, depth, 0, rows), LIMIT).item() == (2**depth - 1) * factor == 255


def test_cmyk():
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    decoded = decode(packed(image, "JPEG", quality=100), LIMIT)
    np.testing.assert_allclose(decoded[4, 4], (255, 0, 0), atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_exif_rotation(orientation, kind):
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:8, :16] = 250
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).T,
        8: np.rot90,
    }[orientation]
    decoded = decode(packed(Image.fromarray(pixels), kind, exif=exif), LIMIT)
    np.testing.assert_allclose(decoded[..., 0], turn(pixels), atol=3)


def test_the_first_frame_of_an_animation():
    frames = [Image.fromarray(np.full((3, 3), value, np.uint8)) for value in (20, 200)]
    data = packed(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(data, LIMIT) == 20).all()


@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_every_beginning_of_a_png_is_truncated(pixels):
    data = packed(Image.fromarray(pixels))
    for end in range(len(SIGNATURE), len(data) - 4):  # the last chunk holds nothing but its name
        with pytest.raises(UnreadableImage):
            decode(data[:end], LIMIT)


def test_a_png_of_many_small_chunks_takes_no_longer():
    noise = np.random.default_rng(0).integers(0, 256, (2000, 1000, 3), np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in noise)
    small = io.BytesIO(zlib.compress(rows, 0))
    parts = [b"IDAT" + part for part in iter(lambda: small.read(512), b"")]
    data = png(1000, 2000, 8, 2, b"", *parts)
    start = time.thread_time()
    np.testing.assert_array_equal(decode(data, 2 * 10**6), noise)
    assert time.thread_time() - start < 2


def test_a_damaged_byte():
    data = bytearray(packed(Image.fromarray(GREY)))
    data[-20] ^= 255
    with pytest.raises(UnreadableImage, match="checksum"):
        decode(bytes(data), LIMIT)


def test_a_truncated_jpeg():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    data = packed(Image.fromarray(noise), "JPEG")
    with pytest.raises(UnreadableImage, match="truncated"):
        decode(data[: len(data) // 2], LIMIT)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_bytes_raise_anything_else(data):
    for beginning in (b"", SIGNATURE, b"\xff\xd8\xff\xe0", b"GIF89a", b"II*\0", b"P5 "):
        with contextlib.suppress(UnreadableImage):
            decode(beginning + data, LIMIT)


def test_oversized_by_its_header_alone():
    with pytest.raises(UnreadableImage, match="5000x5000 pixels, more than max_pixels=10000"):
        decode(png(5000, 5000, 8, 0, b""), LIMIT)


def test_beyond_what_pillow_considers_safe():
    data = png(2**16, 2**16, 8, 3, b"", b"PLTE\0\0\0")
    with pytest.raises(UnreadableImage, match="pixels"):
        decode(data, 2**40)


def test_no_limit_is_beyond_what_pillow_opens():
    limits = {field.name: field.metadata for field in dataclasses.fields(ReadOptions)}
    assert limits["max_pixels"]["high"] <= Image.MAX_IMAGE_PIXELS


def test_nothing_at_all():
    with pytest.raises(UnreadableImage, match="an empty file"):
        decode(b"", LIMIT)


@pytest.mark.parametrize("data", [b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_not_an_image(data):
    with pytest.raises(UnreadableImage, match="not an image"):
        decode(data, LIMIT)


def test_floating_point_pixels_are_refused():
    data = packed(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF")
    with pytest.raises(UnreadableImage, match="no agreed range"):
        decode(data, LIMIT)
