"""What is amiss with data is one line, and nothing is lost unsaid; the real data's counts."""

import os
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import (
    OPTIONS,
    SKIP,
    make_rows,
    opened,
    refused,
    seed_files,
    summary,
    write_folder,
    write_zip,
)

from fer_jax.data import files, layouts
from fer_jax.data.images import encode_png
from fer_jax.errors import UserError, printable

ROWS = make_rows()


def test_junk_is_ignored_and_counted(tmp_path):
    junk = {
        "images/.DS_Store": b"",
        "images/train/.DS_Store": b"",
        "images/train/angry/Thumbs.db": b"x",
        "images/train/angry/desktop.ini": b"x",
        "images/train/angry/._0.png": b"x",
        "__MACOSX/images/train/angry/0.png": b"x",
        "images/train/.ipynb_checkpoints/0.png": b"x",
        "notes.txt": b"x",
    }
    archive = write_zip(tmp_path / "a.zip", seed_files(ROWS) | junk)
    folder = write_folder(tmp_path / "a", seed_files(ROWS) | junk)
    expected = {
        "hidden and system files": 7,
        "other files (*.txt)": 1,
    }
    assert opened(archive).ignored == opened(folder).ignored == expected
    assert "7 hidden" in opened(folder).describe()
    assert summary(opened(folder)) == summary(
        opened(write_zip(tmp_path / "b.zip", seed_files(ROWS)))
    )


def broken_files():
    images = seed_files(ROWS)
    images["images/train/angry/900.png"] = encode_png(np.zeros((9, 9, 1), np.uint8))[:-30]
    images["images/train/angry/901.png"] = b""
    images["images/train/angry/902.txt"] = b"not an image"
    images["images/train/903.png"] = encode_png(np.zeros((9, 9, 1), np.uint8))
    return images


def test_what_cannot_be_read_stops_the_run(tmp_path):
    images = seed_files(ROWS)
    first = next(iter(images))
    images[first] = images[first][:-30]
    message = refused(write_folder(tmp_path, images))
    assert f"cannot read 1 image ({first}: Truncated File Read)" in message
    assert "set on_corrupt=skip" in message


@pytest.mark.parametrize("zipped", [False, True])
def test_or_is_listed_and_left_out(tmp_path, zipped):
    images = broken_files()
    place = write_zip(tmp_path / "a.zip", images) if zipped else write_folder(tmp_path, images)
    assert "cannot read 4 images" in refused(place)
    dataset = opened(place, SKIP)
    names = {name for name, _ in dataset.unreadable}
    assert names == {f"images/train/{n}" for n in
                     ("angry/900.png", "angry/901.png", "angry/902.txt", "903.png")}  # fmt: skip
    assert len(dataset.roles["train"]) == 14
    assert "left out: 4 images" in dataset.describe()


def test_an_oversized_image(tmp_path):
    images = seed_files(ROWS) | {
        "images/train/sad/99.png": encode_png(np.zeros((101, 100, 1), "u1"))
    }
    assert "100x101 pixels, more than max_pixels=10000" in refused(write_folder(tmp_path, images))


def test_an_oversized_file_is_not_even_read(tmp_path):
    images = seed_files(ROWS) | {"images/train/sad/99.png": bytes(2**22)}
    archive = write_zip(tmp_path / "bomb.zip", images)
    assert archive.stat().st_size < 2**19
    assert "more than 1,128,576 bytes" in refused(archive)


def test_a_damaged_member(tmp_path):
    archive = write_zip(tmp_path / "a.zip", seed_files(ROWS))
    data = bytearray(archive.read_bytes())
    data[2000] ^= 255
    archive.write_bytes(data)
    assert "cannot read 1 image" in refused(archive)


def test_a_member_that_lies_about_its_size(tmp_path):
    archive = write_zip(tmp_path / "a.zip", seed_files(ROWS))
    data = bytearray(archive.read_bytes())
    entry = data.index(b"PK\1\2")
    (size,) = struct.unpack_from("<I", data, entry + 24)
    struct.pack_into("<I", data, entry + 24, size - 5)
    archive.write_bytes(data)
    assert "cannot read 1 image" in refused(archive)


def test_a_truncated_zip(tmp_path):
    archive = write_zip(tmp_path / "a.zip", seed_files(ROWS))
    archive.write_bytes(archive.read_bytes()[:-100])
    assert "if it is truncated or damaged, fetch it again" in refused(archive)
    assert "if it is truncated or damaged, fetch it again" in refused(tmp_path)


def test_paths_that_climb_out_are_ignored(tmp_path):
    evil = {"../../train/angry/evil.png": b"x", "images/train/../../evil.png": b"x"}
    archive = write_zip(tmp_path / "a.zip", seed_files(ROWS) | evil)
    before = sorted(tmp_path.rglob("*"))
    assert opened(archive).ignored == {"hidden and system files": 2}
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("train/angry/0.png", b"a")
        archive.writestr("train/angry/0.png", b"b")
    assert "train/angry/0.png 2 times" in refused(tmp_path / "a.zip")


def test_windows_separators(tmp_path):
    names = {name.replace("/", "\\"): data for name, data in seed_files(ROWS).items()}
    plain = opened(write_zip(tmp_path / "b.zip", seed_files(ROWS)))
    assert summary(opened(write_zip(tmp_path / "a.zip", names))) == summary(plain)


@given(st.text(max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_name_is_one_storable_line(name):
    shown = printable(name)
    assert shown.encode("utf-8").decode() == shown
    assert len(shown.splitlines()) <= 1
    assert printable(os.fsdecode(b"a\xff\n")).isprintable()


@given(st.lists(st.text("abtrainesg./\\019 ", max_size=24), max_size=6))
@settings(max_examples=60, deadline=None)
def test_any_names_give_a_listing_or_one_line(names):
    kept, junk = files.split_junk(names)
    try:
        listing = layouts.find_images(kept, "here", OPTIONS.classes())
    except UserError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    else:
        if listing:
            found = len(listing.entries) + len(listing.stray) + listing.ignored.total()
            assert found + junk.total() == len(names)


def test_no_path_says_where_to_get_the_data():
    message = refused("")
    assert "Kaggle" in message
    assert "fer2013.csv" in message
    assert "train/CLASS" in message


def test_a_missing_path(tmp_path):
    assert "does not exist" in refused(tmp_path / "nothing")


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    assert "neither a folder, an archive nor a table" in refused(tmp_path / "a.txt")
    assert "no known layout: a.txt" in refused(tmp_path)


def test_an_empty_folder(tmp_path):
    assert "no known layout: no files" in refused(tmp_path)


def test_an_unknown_class_folder(tmp_path):
    images = seed_files(ROWS) | {"images/train/hapy/99.png": b""}
    assert "unknown class 'hapy'; did you mean 'happy'" in refused(write_folder(tmp_path, images))


def test_an_unknown_class_among_bare_class_folders(tmp_path):
    images = {
        n.removeprefix("images/train/"): d for n, d in seed_files(ROWS).items() if "train" in n
    }
    folder = write_folder(tmp_path, images | {"contempt/99.png": b""})
    assert "unknown class 'contempt'" in refused(folder)


def test_an_empty_class_in_training(tmp_path):
    rows = [row for row in ROWS if row[:2] != ("train", "disgust")]
    folder = write_folder(tmp_path, seed_files(rows))
    (folder / "images/train/disgust").mkdir()
    assert "no training image of disgust" in refused(folder)


@pytest.mark.parametrize("change", [{"on_corrupt": "drop"}, {"validation_fraction": 1.0}])
def test_options_out_of_range(change):
    with pytest.raises(UserError, match=next(iter(change))):
        replace(OPTIONS, **change)


def test_a_split_that_is_not_there(tmp_path):
    dataset = opened(write_folder(tmp_path, seed_files(make_rows(14, ("test",)))))
    with pytest.raises(UserError, match="no split 'train', only test"):
        dataset.split("train")


@pytest.fixture(scope="module")
def real(fer2013):
    return opened(fer2013, replace(OPTIONS, cache_mib=1024))


def test_real_counts(real):
    train, validation = real.roles["train"], real.roles["validation"]
    assert train.counts().tolist() == [3995, 436, 4097, 7215, 4965, 4830, 3171]
    assert validation.counts().tolist() == [467, 56, 496, 895, 607, 653, 415]
    assert list(real.roles) == ["train", "validation"]
    assert train[5]["image"].shape == (48, 48, 1)
    np.testing.assert_array_equal(train.rows, np.arange(28_709))
