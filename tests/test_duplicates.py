"""Exact copies are found wherever they lie."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_data import OPTIONS, SKIP, make_rows, opened, seed_files, write_folder

from fer_jax.data import records
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
    hashes = records.short_hashes(roles["train"].digests)
    assert hashes.dtype == np.uint64
    assert (np.diff(hashes.astype(object)) > 0).all()
    assert len(hashes) == len(roles["train"]) - 1  # two of them are copies
    for role in ("train", "validation", "test"):
        train = {digest.tobytes() for digest in roles["train"].digests}
        expected = [digest.tobytes() in train for digest in roles[role].digests]
        found = records.has_hash_in(roles[role].digests, hashes)
        assert found.tolist() == expected
        assert found.sum() == {"train": 14, "validation": 1, "test": 0}[role]


def test_a_short_hash_is_the_first_eight_bytes_little_endian():
    digests = np.arange(32, dtype=np.uint8)[None]
    assert records.short_hashes(digests).tolist() == [0x0706050403020100]


def test_short_hashes_find_the_280_known_copies_in_public_test(fer2013):
    roles = opened(fer2013, SKIP).roles
    hashes = records.short_hashes(roles["train"].digests)
    assert records.has_hash_in(roles["validation"].digests, hashes).sum() == 280
