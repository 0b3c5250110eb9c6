"""What augmentation promises: Keras' factors, one correct warp, no aliasing, equal draws."""

import dataclasses
import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support import EVERY_AUGMENTATION

from fer_jax.data.augment import DRAWS, WHOLE, AugmentConfig, Crop, augment, resize, warp_matrix
from fer_jax.errors import UserError

OFF = {
    "flip": False,
    "rotation": 0.0,
    "zoom": 0.0,
    "translation": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "erasing": 0.0,
    "crop_area": 1.0,
}
IMAGES = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))
)


def only(**settings) -> AugmentConfig:
    return AugmentConfig(**(OFF | settings))


def many(
    image: np.ndarray, settings: AugmentConfig, size: int, count: int = 300
) -> list[np.ndarray]:
    return list(augment([image] * count, draws(*range(count)), size, settings))


def one(image: np.ndarray, seed: int, size: int, settings: AugmentConfig) -> np.ndarray:
    (out,) = augment([image], draws(seed), size, settings)
    return out


def draws(*seeds: int) -> np.ndarray:
    return np.array([np.random.default_rng(seed).random(DRAWS) for seed in seeds])


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


def checkerboard(side: int) -> np.ndarray:
    return (np.indices((side, side)).sum(axis=0)[..., None] % 2 * 255).astype(np.uint8)


def bilinear(image: np.ndarray, size: int) -> np.ndarray:
    """Half-pixel centres, clamped at the borders; float64 [size, size, C]."""
    for axis in (0, 1):
        side = image.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
        low = np.floor(place).astype(int)
        weight = np.expand_dims(place - low, axis=(1, 2) if axis == 0 else (0, 2))
        high = np.minimum(low + 1, side - 1)
        image = (1 - weight) * image.take(low, axis) + weight * image.take(high, axis)
    return image


def dot_place(image: np.ndarray) -> np.ndarray:
    """(x, y) of the bright dot's centre of mass, relative to the image's centre, in sides."""
    mass = image[..., 0].astype(float)
    y, x = np.mgrid[: len(mass), : len(mass)] + 0.5
    return np.array([(mass * x).sum(), (mass * y).sum()]) / mass.sum() / len(mass) - 0.5


def dot(x: float, y: float, side: int = 64) -> np.ndarray:
    image = np.zeros((side, side, 1), np.uint8)
    column, row = round((x + 0.5) * side), round((y + 0.5) * side)
    image[row - 2 : row + 2, column - 2 : column + 2] = 255
    return image


@pytest.mark.parametrize("size", [48, 60, 96, 260])
def test_enlarging_is_the_reference_bilinear_resize(size):
    image = noise(48, 48, 3)
    assert np.abs(resize(image, size) - bilinear(image, size)).max() <= 1


def test_shrinking_by_a_whole_factor_averages_blocks():
    image = noise(192, 96, 3)
    blocks = image.reshape(32, 6, 32, 3, 3).mean(axis=(1, 3))
    assert np.abs(resize(image, 32) - blocks).max() <= 1


def test_a_checkerboard_larger_than_the_target_becomes_grey():
    board = checkerboard(480)
    assert np.abs(resize(board, 96) - 127.5).max() < 6  # blocks of 5x5 have 12 or 13 white pixels
    for image in many(board, only(rotation=0.1, zoom=0.2, translation=0.1), 96, count=30):
        assert np.abs(image - 127.5).mean() < 3  # without a filter 32


def test_zooming_out_of_an_image_of_the_target_size_does_not_alias():
    smallest = min(
        many(checkerboard(96), only(zoom=0.9), 96), key=lambda image: image.astype(float).std()
    )
    assert smallest.std() < 2  # zoomed out to about half: without a filter 25 and more


@given(image=IMAGES, size=st.integers(1, 40), seed=st.integers(0, 99))
def test_with_everything_off_augmenting_is_resizing(image, size, seed):
    same = one(image, seed, size, only())
    np.testing.assert_array_equal(same, resize(image, size))


@given(image=IMAGES, size=st.integers(1, 40), seed=st.integers(0, 99))
def test_any_shape_gives_a_square_of_its_channels_and_keeps_its_source(image, size, seed):
    before = image.copy()
    out = one(image, seed, size, EVERY_AUGMENTATION)
    assert out.shape == (size, size, image.shape[2])
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


@given(
    value=st.integers(0, 255),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    seed=st.integers(0),
)
def test_a_flat_image_stays_flat_whatever_moves(value, height, width, seed):
    image = np.full((height, width, 3), value, np.uint8)
    settings = only(flip=True, rotation=1.0, zoom=0.9, translation=1.0, contrast=1.0)
    assert (one(image, seed, 30, settings) == value).all()


@given(image=IMAGES, seed=st.integers(0, 999))
def test_beyond_the_borders_lies_the_mirror_image_however_far(image, seed):
    """OpenCV's own reflection, which is exact at any distance, and slower."""
    settings = only(rotation=1.0, zoom=0.9, translation=1.0)
    turn, zoom, right, down = 2 * np.random.default_rng(seed).random(5)[1:] - 1
    matrix = warp_matrix(80, image.shape[:2], False, turn, 1 + 0.9 * zoom, (right, down), WHOLE)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    mirrored = cv2.warpAffine(image, matrix, (80, 80), flags=flags, borderMode=cv2.BORDER_REFLECT)
    out = one(image, seed, 80, settings)
    assert np.abs(out.astype(int) - mirrored.reshape(80, 80, -1)).max() <= 1


@given(
    size=st.integers(1, 300),
    source=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    flip=st.booleans(),
    turn=st.floats(-1, 1),
    zoom=st.floats(0.1, 1.9),
    shift=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    crop=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0.1, 0.5), st.floats(0.1, 0.5)),
)
def test_the_matrix_is_the_product_of_keras_matrices(size, source, flip, turn, zoom, shift, crop):
    centre = (size - 1) / 2

    def about_centre(a: list[list[float]]) -> np.ndarray:
        there, back = np.eye(3), np.eye(3)
        there[:2, 2], back[:2, 2] = -centre, centre
        linear = np.eye(3)
        linear[:2, :2] = a
        return back @ linear @ there

    angle = 2 * math.pi * turn
    cos, sin = math.cos(angle), math.sin(angle)
    height, width = source[0] / size, source[1] / size
    to_source = np.array(
        [[width, 0, width / 2 - 0.5], [0, height, height / 2 - 0.5], [0, 0, 1]]
    )  # half-pixel centres: x -> (x + 1/2) * width / size - 1/2
    left, top, shown_width, shown_height = crop
    to_part = np.array(
        [
            [shown_width, 0, left * size + (shown_width - 1) / 2],
            [0, shown_height, top * size + (shown_height - 1) / 2],
            [0, 0, 1],
        ]
    )  # of the image at the output's size, half-pixel centres again
    keras = (
        to_source
        @ to_part
        @ about_centre([[-1.0 if flip else 1.0, 0], [0, 1]])
        @ about_centre([[cos, -sin], [sin, cos]])
        @ about_centre([[zoom, 0], [0, zoom]])
        @ np.array([[1, 0, -shift[0] * size], [0, 1, -shift[1] * size], [0, 0, 1]])
    )
    ours = warp_matrix(size, source, flip, turn, zoom, shift, Crop(*crop))
    np.testing.assert_allclose(ours, keras[:2], atol=1e-9)


def test_a_positive_quarter_turn_is_anticlockwise():
    matrix = warp_matrix(9, (9, 9), flip=False, turn=0.25, zoom=1, shift=(0, 0), crop=WHOLE)
    image = noise(9, 9)
    x, y = np.meshgrid(np.arange(9), np.arange(9))
    at = np.rint(np.einsum("ij,jyx->iyx", matrix, np.stack([x, y, np.ones_like(x)]))).astype(int)
    np.testing.assert_array_equal(image[at[1], at[0]], np.rot90(image))


def test_rotation_is_a_fraction_of_a_full_turn_either_way():
    places = [dot_place(image) for image in many(dot(0.25, 0), only(rotation=0.1), 64)]
    turns = np.array([math.atan2(-y, x) / (2 * math.pi) for x, y in places])
    assert np.abs(turns).max() <= 0.103
    assert turns.min() < -0.09
    assert turns.max() > 0.09
    assert abs(turns.mean()) < 0.01


def test_zoom_shows_one_plus_u_of_the_side_so_positive_zooms_out():
    places = [dot_place(image) for image in many(dot(0.25, 0.25), only(zoom=0.3), 64)]
    shown = 0.25 / np.array(places)
    np.testing.assert_allclose(shown[:, 0], shown[:, 1], rtol=0.02)  # both sides share the factor
    assert 0.69 < shown.min() < 0.73
    assert 1.27 < shown.max() < 1.32
    assert abs(shown.mean() - 1) < 0.03


def test_translation_is_a_fraction_of_the_side_in_each_direction_apart():
    places = np.array([dot_place(i) for i in many(dot(0, 0), only(translation=0.2), 64)])
    assert np.abs(places).max() <= 0.202
    assert (places.max(axis=0) > 0.18).all()
    assert (places.min(axis=0) < -0.18).all()
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.2


def ramps(side=64):
    """Red tells the column, green the row: what an output pixel shows of the image is read off."""
    places = (np.arange(side) + 0.5) / side * 255
    red, green = (
        np.broadcast_to(places, (side, side)),
        np.broadcast_to(places[:, None], (side,) * 2),
    )
    return np.stack([red, green, np.zeros_like(red)], axis=-1).astype(np.uint8)


def shown(image):
    """(left, top, width, height) of the crop of `ramps` that `image` shows, by its inner pixels."""
    found = []
    for values in (image[32, :, 0], image[:, 32, 1]):
        low, high = (float(values[place : place + 4].mean()) / 255 for place in (14, 46))
        extent = (high - low) * 64 / 32
        found.append((low - extent * 16 / 64, extent))
    (left, width), (top, height) = found
    return left, top, width, height


def test_a_crop_has_the_area_the_aspect_and_the_places_promised():
    parts = np.array([shown(image) for image in many(ramps(), only(crop_area=0.25), 64)])
    left, top, width, height = parts.T
    area, aspect = width * height, width / height
    assert 0.23 < area.min() < 0.3
    assert 0.9 < area.max() < 1.03
    assert 0.73 < aspect.min() < 0.8
    assert 1.25 < aspect.max() < 1.37
    assert abs(np.log(aspect).mean()) < 0.03
    for start, extent in ((left, width), (top, height)):
        assert start.min() > -0.02
        assert (start + extent).max() < 1.02
        room = 1 - extent
        place = start[room > 0.2] / room[room > 0.2]
        assert place.min() < 0.05
        assert place.max() > 0.95
        assert abs(place.mean() - 0.5) < 0.06


def test_a_crop_is_shrunk_as_much_as_it_must_be_and_no_more():
    """What it shows decides, not the whole image: neither aliased nor blurred."""
    fine = many(checkerboard(480), only(crop_area=0.25), 96, count=30)
    assert max(np.abs(image - 127.5).mean() for image in fine) < 8
    stripes = np.zeros((192, 192, 1), np.uint8)
    stripes[:, np.arange(192) % 6 < 3] = 255
    smallest = (i for i in range(300) if np.random.default_rng(i).random(13)[12] < 0.05)
    for seed in smallest:
        out = one(stripes, seed, 96, only(crop_area=0.25))
        assert out.std() > 85  # at most 76 if it were shrunk to 96 pixels as a whole


def test_zoom_acts_around_the_middle_of_the_crop():
    """One warp of both: what lies beyond the crop is the image's own, not a reflection."""
    zoomed, still = (
        np.array([shown(image) for image in many(ramps(), settings, 64)])
        for settings in (only(crop_area=0.3, zoom=0.3), only(crop_area=0.3))
    )
    for start, extent in ((0, 2), (1, 3)):
        middles = [parts[:, start] + parts[:, extent] / 2 for parts in (zoomed, still)]
        np.testing.assert_allclose(*middles, atol=0.03)
    factor = zoomed[:, 2] / still[:, 2]
    assert factor.min() < 0.75
    assert factor.max() > 1.25


def test_half_of_the_images_are_mirrored():
    image = noise(48, 48, 3)
    mirrored = [
        np.array_equal(out, image[:, ::-1]) for out in many(image, only(flip=True), 48, count=1000)
    ]
    plain = [np.array_equal(out, image) for out in many(image, only(flip=True), 48, count=1000)]
    assert all(m != p for m, p in zip(mirrored, plain, strict=True))
    assert 430 < sum(mirrored) < 570


def test_brightness_is_a_fraction_of_the_full_range():
    image = np.full((8, 8, 1), 128, np.uint8)
    shift = np.array([int(i[0, 0, 0]) - 128 for i in many(image, only(brightness=0.1), 8)])
    assert -26 <= shift.min() <= -24
    assert 24 <= shift.max() <= 26


def test_contrast_scales_the_distance_from_the_mean():
    image = np.full((8, 8, 1), 100, np.uint8)
    image[4:] = 140
    outs = np.array(
        [(int(i[0, 0, 0]), int(i[7, 0, 0])) for i in many(image, only(contrast=0.5), 8)]
    )
    spread = np.diff(outs).ravel() / 40
    assert np.abs(outs.mean(axis=1) - 120).max() <= 1
    assert 0.5 <= spread.min() < 0.55
    assert 1.45 < spread.max() <= 1.5


def test_tone_clips_instead_of_wrapping():
    image = np.array([[[0], [255]]], np.uint8)
    for out in many(image, only(brightness=1.0), 2, count=50):
        assert out[0, 0, 0] <= out[0, 1, 0]


def test_erasing_fills_one_rectangle_of_2_to_20_percent_with_the_mean():
    image = np.zeros((50, 50, 1), np.uint8)
    image[::2] = 100  # the mean, 50, occurs nowhere else
    areas, erased = [], 0
    for out in many(image, only(erasing=0.3), 50, count=500):
        rows, columns = np.nonzero(out[..., 0] == 50)
        if len(rows):
            erased += 1
            box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            assert box == len(rows)
            areas.append(box / 2500)
    assert 115 < erased < 185
    assert 0.015 < min(areas) < 0.04
    assert 0.17 < max(areas) < 0.21


def test_equal_draws_give_equal_images_and_others_do_not():
    image = noise(48, 48, 1)
    first, again, other = (one(image, seed, 96, EVERY_AUGMENTATION) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@given(images=st.lists(IMAGES, min_size=2, max_size=9), seed=st.integers(0, 2**32 - 1))
def test_an_image_turns_out_the_same_whatever_comes_with_it(images, seed):
    """To the bit, since processes and batch sizes cut a run's examples differently."""
    settings = dataclasses.replace(EVERY_AUGMENTATION, crop_area=0.3)
    seeds = range(seed, seed + len(images))
    together = augment(images, draws(*seeds), 24, settings)
    for image, alone, out in zip(images, seeds, together, strict=True):
        np.testing.assert_array_equal(out, one(image, alone, 24, settings))


def test_switching_one_factor_on_leaves_the_others_draws_alone():
    image = noise(48, 48, 1)
    for seed in range(20):
        still = one(image, seed, 48, only(flip=True))
        moved = one(image, seed, 48, only(flip=True, brightness=1e-6))
        np.testing.assert_array_equal(still, moved)


def test_the_draws_of_a_crop_come_after_those_that_were_there_before():
    for seed in range(30):
        flipped = np.random.default_rng(seed).random(12)[0] < 0.5
        for settings in (only(flip=True), only(flip=True, crop_area=0.5)):
            red = one(ramps(), seed, 64, settings)[32, :, 0].astype(int)
            assert (red[48] < red[16]) == flipped


@pytest.mark.parametrize("area", [0.0, 1.5, math.nan])
def test_a_crop_of_no_area_is_refused(area):
    with pytest.raises(UserError, match=r"augment\.crop_area=.* must be from 0\.01 to 1"):
        only(crop_area=area)


def test_colours_keep_their_channels():
    image = np.broadcast_to(np.array([10, 120, 240], np.uint8), (30, 30, 3))
    out = one(np.ascontiguousarray(image), 0, 20, only(rotation=0.5))
    assert (out == [10, 120, 240]).all()


@pytest.mark.parametrize(
    ("name", "value"), [("zoom", 1.0), ("rotation", -0.1), ("erasing", 1.5), ("contrast", math.nan)]
)
def test_a_factor_out_of_range_is_named_with_its_limit(name, value):
    with pytest.raises(UserError, match=rf"augment\.{name}={value} must be from 0 to"):
        only(**{name: value})
