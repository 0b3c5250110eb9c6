"""One photograph is recognised through compression, crops, light and a mirror; faces are not."""

import cv2
import numpy as np
import pytest
from made_data import recompressed, some_faces

from fer_jax.auditing import copies
from fer_jax.auditing.copies import (
    NEAR,
    UNCHANGED,
    aligned_distance,
    candidates,
    find_pairs,
    spectra,
)


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """70 drawn faces of different people, uint8 [70, 48, 48]."""
    return some_faces("validation", 11)[0][:70]


def resized(image: np.ndarray, by: int) -> np.ndarray:
    """The same after it was `by` pixels wider and higher for a while."""
    return cv2.resize(cv2.resize(image, (48 + by, 48 + by)), (48, 48))


CHANGES = {
    "JPEG 90": lambda image: recompressed(image, 90),
    "JPEG 75": lambda image: recompressed(image, 75),
    "smaller": lambda image: resized(image, -1),
    "larger": lambda image: resized(image, 1),
    "lighter": lambda image: np.clip(0.7 * image.astype(float) + 40, 0, 255).astype(np.uint8),
    "cropped": lambda image: cv2.resize(image[1:, 1:-1], image.shape[::-1]),
}


PLACES = (5, 9, 18, 27, 33, 40)


def test_changed_copies_are_the_only_near_ones(drawn):
    changed = [change(drawn[i]) for i, change in zip(PLACES, CHANGES.values(), strict=True)]
    images = np.concatenate([drawn, changed])
    found = find_pairs(images, np.arange(len(images)), mirrored=False)[0].tolist()
    assert sorted(found) == [[5, 70], [9, 71], [18, 72], [27, 73], [33, 74], [40, 75]]


@pytest.mark.parametrize("name", list(CHANGES)[:-1])
def test_altered_copies_lie_within_the_limits(drawn, name):
    """Of resized ones some seem to move: fewer conflicts are claimed than there are, never more."""
    measured = np.array([aligned_distance(image, CHANGES[name](image)) for image in drawn])
    assert measured[:, 0].max() < NEAR
    assert (measured[:, 1] < UNCHANGED).mean() >= (0.9 if name in ("smaller", "larger") else 1)


def test_a_mirrored_copy_is_found_as_such_only(drawn):
    images = np.concatenate([drawn, [recompressed(drawn[8][:, ::-1].copy(), 80)]])
    everything = np.arange(len(images))
    assert [8, 70] in find_pairs(images, everything, mirrored=True)[0].tolist()
    assert [8, 70] not in find_pairs(images, everything, mirrored=False)[0].tolist()


def test_distances_of_the_same_of_nothing_and_of_others(drawn):
    assert aligned_distance(drawn[0], drawn[0]) == pytest.approx((0, 0), abs=1e-6)
    grey = np.full((48, 48), 90, np.uint8)
    assert aligned_distance(grey, grey) == (1, np.inf)
    assert aligned_distance(drawn[0], grey) == (1, np.inf)
    assert aligned_distance(drawn[0], drawn[33])[0] > NEAR


def test_only_the_chosen_are_compared_and_named_by_their_position(drawn):
    images = np.concatenate([drawn, drawn[3:4]])
    assert find_pairs(images, np.array([3, 9, 70]), mirrored=False)[0].tolist() == [[3, 70]]
    for chosen in (np.arange(9, 20), np.zeros(0, int), np.array([3])):
        assert find_pairs(images, chosen, mirrored=False)[0].shape == (0, 2)


def test_pairs_come_nearest_first(drawn):
    images = np.concatenate([drawn, [recompressed(drawn[2], 40), recompressed(drawn[1], 95)]])
    found, _ = find_pairs(images, np.arange(len(images)), mirrored=False)
    assert found.tolist() == [[1, 71], [2, 70]]


def test_mirroring_changes_only_signs_of_the_spectrum(drawn):
    turned = spectra(np.ascontiguousarray(drawn[:, :, ::-1]))
    np.testing.assert_allclose(turned, spectra(drawn) * copies.MIRROR_SIGNS, atol=1e-5)


def test_too_many_candidates_leave_the_nearest(monkeypatch, drawn):
    features = spectra(np.concatenate([drawn, drawn[:3]]))
    assert len(candidates(features, mirrored=False)) > 3
    monkeypatch.setattr(copies, "MOST", 3)
    left = candidates(features, mirrored=False)
    assert sorted(left.tolist()) == [[0, 70], [1, 71], [2, 72]]
