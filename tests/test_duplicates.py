"""Exact copies are found wherever they lie, near ones by what a model keeps of them."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_data import (
    OPTIONS,
    SKIP,
    make_rows,
    opened,
    recompressed,
    seed_files,
    some_faces,
    write_folder,
)

from fer_jax.data import hashes, records
from fer_jax.data.records import digest
from fer_jax.data.sources import open_dataset

ROWS = make_rows()


@pytest.fixture
def dataset(tmp_path):
    """Row 7 (validation) copies row 0 (train) with its label, row 1 copies row 2 with another."""
    rows = list(ROWS)
    rows[7] = ("validation", rows[0][1], rows[0][2])
    rows[1] = (*rows[1][:2], rows[2][2])
    return open_dataset(str(write_folder(tmp_path, seed_files(rows))), OPTIONS)


@given(st.lists(st.integers(0, 3), max_size=20))
def test_groups_are_equal_where_digests_are(values):
    digests = np.array([[value] * 32 for value in values], np.uint8).reshape(-1, 32)
    groups = records.copy_groups(digests)
    for i, first in enumerate(values):
        for j, second in enumerate(values):
            assert (groups[i] == groups[j]) == (first == second)


def test_a_digest_tells_shapes_apart():
    pixels = np.zeros((2, 6, 1), np.uint8)
    assert digest(pixels) != digest(pixels.reshape(6, 2, 1))
    assert digest(pixels) == digest(pixels.copy())


def test_short_hashes_tell_copies_as_digests_do(dataset):
    roles = dataset.roles
    kept = hashes.short_hashes(roles["train"])
    assert kept.dtype == np.uint64
    assert kept.shape == (len(roles["train"]) - 1, 2)  # two of them are copies
    assert (np.diff(kept[:, 0].astype(object)) > 0).all()
    for role in ("train", "validation", "test"):
        train = {digest.tobytes() for digest in roles["train"].digests}
        expected = [digest.tobytes() in train for digest in roles[role].digests]
        found = hashes.is_copy(roles[role], kept)
        assert found.tolist() == expected
        assert hashes.looks_like(roles[role], kept).tolist() == expected
        assert found.sum() == {"train": 14, "validation": 1, "test": 0}[role]


def records_of(images: list[np.ndarray]) -> records.Records:
    """Records of uint8 [H, W] images of any sizes."""
    entries = [records.Entry(str(i), "train", 0, str(i), -1) for i in range(len(images))]
    given = [image[..., None] for image in images]
    digests = np.frombuffer(b"".join(map(digest, given)), np.uint8).reshape(-1, 32)
    return records.Records(entries, given, digests, None, 1)


def test_a_short_hash_is_the_first_eight_bytes_little_endian():
    one = records_of([ROWS[0][2]])
    [[exact, look]] = hashes.short_hashes(one).tolist()
    assert exact == int.from_bytes(one.digests[0, :8].tobytes(), "little")
    assert look


ALTERED = {
    "enlarged": lambda image: cv2.resize(image, (224, 224), interpolation=cv2.INTER_CUBIC),
    "enlarged and JPEG": lambda image: recompressed(cv2.resize(image, (100, 100)), 60),
    "JPEG": lambda image: recompressed(image, 75),
    "lighter": lambda image: np.clip(0.7 * image.astype(float) + 40, 0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("name", ALTERED)
def test_looks_survive_what_changes_every_pixel(name):
    faces = some_faces("train", 71)[0]
    kept = hashes.short_hashes(records_of(list(faces)))
    altered = records_of([ALTERED[name](image) for image in faces])
    assert not hashes.is_copy(altered, kept).any()
    assert hashes.looks_like(altered, kept).all()


def test_other_faces_and_blank_images_look_like_none():
    faces, others = some_faces("train", 10)[0], some_faces("validation", 5)[0]
    blank = [np.full((48, 48), grey, np.uint8) for grey in (0, 90, 91)]
    kept = hashes.short_hashes(records_of([*faces, *blank]))
    assert not hashes.looks_like(records_of([*others, np.full((48, 48), 17, np.uint8)]), kept).any()
    assert not hashes.looks_like(records_of(blank), hashes.short_hashes(records_of(blank))).any()


def test_public_test_has_280_exact_and_137_near_copies(fer2013):
    """The audit, which lays images over each other, finds 633, all but 6 of these among them."""
    roles = opened(fer2013, SKIP).roles
    kept = hashes.short_hashes(roles["train"])
    exact = hashes.is_copy(roles["validation"], kept)
    near = hashes.looks_like(roles["validation"], kept)
    assert exact.sum() == 280
    assert (exact | near).sum() == 417
