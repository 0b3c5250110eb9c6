"""One photograph is recognised through compression, crops, light and a mirror; faces are not."""

import cv2
import numpy as np
import pytest

from fer_jax.auditing import near_duplicates
from fer_jax.auditing.near_duplicates import (
    ALTERATIONS,
    NEAR,
    Pairs,
    aligned_distance,
    altered_distances,
    candidates,
    find_pairs,
    recompressed,
    spectra,
)
from fer_jax.data.synthetic import faces


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """70 drawn faces of different people, uint8 [70, 48, 48]."""
    return faces("validation")[0][::11][:70]


def cropped(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image[1:, 1:-1], image.shape[::-1])


def lighter(image: np.ndarray) -> np.ndarray:
    return np.clip(0.7 * image.astype(float) + 40, 0, 255).astype(np.uint8)


CHANGES = {**ALTERATIONS, "cropped": cropped, "lighter": lighter}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_copy_is_found_as_the_only_near_one(drawn, name):
    images = np.concatenate([drawn, [CHANGES[name](drawn[5]), CHANGES[name](drawn[40])]])
    before = find_pairs(drawn, np.arange(len(drawn)), mirrored=False).near().members.tolist()
    after = find_pairs(images, np.arange(len(images)), mirrored=False).near().members.tolist()
    assert sorted(pair for pair in after if pair not in before) == [[5, 70], [40, 71]]


def test_a_mirrored_copy_is_found_as_such_only(drawn):
    images = np.concatenate([drawn, [recompressed(drawn[8][:, ::-1].copy(), 80)]])
    everything = np.arange(len(images))
    assert [8, 70] in find_pairs(images, everything, mirrored=True).near().members.tolist()
    assert [8, 70] not in find_pairs(images, everything, mirrored=False).near().members.tolist()


def test_look_alikes_are_not_near(drawn):
    distances = find_pairs(drawn, np.arange(len(drawn)), mirrored=False).distances
    assert not (distances <= NEAR).any()
    assert aligned_distance(drawn[0], drawn[33]) > NEAR


def test_distance_of_the_same_pixels_is_nothing(drawn):
    assert aligned_distance(drawn[0], drawn[0]) == pytest.approx(0, abs=1e-6)


def test_constant_images_are_far_from_everything(drawn):
    grey = np.full((48, 48), 90, np.uint8)
    assert aligned_distance(grey, grey) == 1
    assert aligned_distance(drawn[0], grey) == 1


def test_only_the_chosen_are_compared_and_named_by_their_position(drawn):
    images = np.concatenate([drawn, drawn[3:4]])
    assert find_pairs(images, np.array([3, 9, 70]), mirrored=False).members.tolist() == [[3, 70]]
    assert len(find_pairs(images, np.arange(9, 20), mirrored=False).near().members) == 0
    assert find_pairs(images, np.zeros(0, int), mirrored=False).members.shape == (0, 2)


def test_pairs_come_nearest_first(drawn):
    images = np.concatenate([drawn, [recompressed(drawn[2], 40), recompressed(drawn[1], 95)]])
    found = find_pairs(images, np.arange(len(images)), mirrored=False)
    assert found.members[:2].tolist() == [[1, 71], [2, 70]]
    assert (np.diff(found.distances) >= 0).all()


def test_mirroring_changes_only_signs_of_the_spectrum(drawn):
    turned = spectra(np.ascontiguousarray(drawn[:, :, ::-1]))
    np.testing.assert_allclose(turned, spectra(drawn) * near_duplicates._mirror_signs(), atol=1e-5)


def test_the_spectrum_is_opencvs_dct(drawn):
    whole = cv2.dct(drawn[0].astype(np.float32))[:8, :8].ravel()[1:]
    np.testing.assert_allclose(spectra(drawn[:1])[0], whole / np.linalg.norm(whole), atol=1e-5)


def test_too_many_candidates_leave_the_nearest(monkeypatch, drawn):
    images = np.concatenate([drawn, drawn[:3]])
    everything = candidates(spectra(images), mirrored=False)
    assert len(everything) > 3
    monkeypatch.setattr(near_duplicates, "MOST", 3)
    left = candidates(spectra(images), mirrored=False)
    assert sorted(left.tolist()) == [[0, 70], [1, 71], [2, 72]]


def test_pairs_without_others():
    pairs = Pairs(np.array([[0, 1], [0, 2], [1, 2]]), np.array([0.1, 0.2, 0.3]))
    left = pairs.without(Pairs(np.array([[0, 2]]), np.array([0.0])))
    assert left.members.tolist() == [[0, 1], [1, 2]]
    assert left.distances.tolist() == [0.1, 0.3]


def test_altered_copies_lie_within_the_limit(drawn):
    measured = altered_distances(drawn)
    assert set(measured) == set(ALTERATIONS)
    assert all(len(values) == len(drawn) for values in measured.values())
    assert max(values.max() for values in measured.values()) < NEAR
