"""What lies at a path, recognised: roles, labels, rows and keys of every layout."""

import os
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from made_data import (
    OPTIONS,
    csv_text,
    kaggle_files,
    make_rows,
    opened,
    refused,
    seed_files,
    summary,
    write_folder,
    write_zip,
)

from fer_jax.data import layouts, sources
from fer_jax.data.images import encode_png
from fer_jax.labels import FER2013_CSV_ORDER, LABELS

ROWS = make_rows()


def test_one_truth(tmp_path):
    """Folders, zip and both CSVs of the same images: same order, rows, pixels, fingerprint."""
    images = seed_files(ROWS)
    folder = write_folder(tmp_path / "folder", images)
    places = [
        folder,
        folder / "images",
        write_zip(tmp_path / "images.zip", images),
        write_zip(tmp_path / "wrapped.zip", {f"archive/{n}": d for n, d in images.items()}),
        write_folder(tmp_path / "bare", seed_files(ROWS, root="")),
        write_folder(tmp_path / "up", {f"download/{n}": d for n, d in images.items()}),
    ]
    for variant, name in (("fer2013", "fer2013.csv"), ("icml", "icml_face_data.csv")):
        table = {name: csv_text(ROWS, variant).encode()}
        directory = write_folder(tmp_path / variant, table)
        places += [directory, directory / name, write_zip(tmp_path / f"{variant}.zip", table)]
    expected = summary(opened(folder))
    assert list(expected) == ["train", "validation", "test"]
    for place in places[1:]:
        assert summary(opened(place)) == expected, place


def test_a_record(tmp_path):
    folder = write_folder(tmp_path, seed_files(ROWS))
    train = opened(folder).roles["train"]
    expected = [i for i, row in enumerate(ROWS) if row[0] == "train"]
    assert train.rows.tolist() == expected
    assert train.keys == tuple(f"{i:05d}" for i in expected)
    for record, i in zip(train, expected, strict=True):
        np.testing.assert_array_equal(record["image"][..., 0], ROWS[i][2])
        assert record["image"].shape == (48, 48, 1)
        assert LABELS[record["label"]] == ROWS[i][1]
        assert record["row"] == i
        assert record["label"].dtype == record["row"].dtype == np.int32


def test_layout_names(tmp_path):
    seed = write_folder(tmp_path / "seed", seed_files(ROWS))
    kaggle = write_zip(tmp_path / "kaggle.zip", kaggle_files(ROWS))
    table = write_folder(tmp_path / "table", {"fer2013.csv": csv_text(ROWS).encode()})
    assert opened(seed).layout == "split folders"
    assert opened(kaggle).layout == "split folders in a zip"
    assert opened(table).layout == "fer2013.csv"


def test_kaggle_names_tell_public_from_private(tmp_path):
    folder = write_folder(tmp_path / "folder", kaggle_files(ROWS))
    archive = write_zip(tmp_path / "archive.zip", kaggle_files(ROWS))
    dataset = opened(folder)
    assert summary(opened(archive)) == summary(dataset)
    seed = opened(write_folder(tmp_path / "seed", seed_files(ROWS)))
    assert sources.fingerprint(dataset) == sources.fingerprint(seed)
    assert set(dataset.roles["test"].rows.tolist()) == {-1}
    assert dataset.roles["test"].keys[0].startswith("test/angry/PrivateTest_")


def test_a_plain_test_folder_is_test_and_never_validation(tmp_path):
    rows = make_rows(140, ("train", "test"))
    dataset = opened(write_folder(tmp_path, kaggle_files(rows, prefixed=False)))
    assert len(dataset.roles["test"]) == 70
    assert all(key.startswith("train/") for key in dataset.roles["validation"].keys)
    assert "no validation part" in dataset.notes[0]


def test_test_alone_stays_test(tmp_path):
    rows = make_rows(14, ("test",))
    assert list(opened(write_folder(tmp_path, seed_files(rows))).roles) == ["test"]


def test_a_name_overrules_its_folder(tmp_path):
    """The exam's images stay the exam's, wherever somebody put them; and it is said."""
    images = kaggle_files(ROWS)
    for name in list(images):
        if "PrivateTest" in name:
            images[name.replace("test/", "train/")] = images.pop(name)
    dataset = opened(write_folder(tmp_path, images))
    assert len(dataset.roles["test"]) == 14
    assert "14 files are placed by their name's prefix" in dataset.notes[0]


def test_a_folder_with_one_zip(tmp_path):
    write_zip(tmp_path / "images.zip", seed_files(ROWS))
    (tmp_path / "ferplus.csv").write_text("Usage,Image name,neutral\nTraining,fer0.png,4\n")
    (tmp_path / "README.md").write_text("hello")
    assert opened(tmp_path).layout == "split folders in a zip"


def test_a_folder_with_two_zips_is_ambiguous(tmp_path):
    write_zip(tmp_path / "a.zip", seed_files(ROWS))
    write_zip(tmp_path / "b.zip", seed_files(ROWS))
    assert "more than one archive" in refused(tmp_path)


def test_class_folders_alone_are_training(tmp_path):
    rows = make_rows(70, ("train",))
    folder = write_folder(tmp_path, seed_files(rows))
    dataset = opened(folder / "images" / "train")
    assert dataset.layout == "class folders"
    assert len(dataset.roles["train"]) + len(dataset.roles["validation"]) == 70


def test_a_role_folder_itself_keeps_its_role(tmp_path):
    folder = write_folder(tmp_path, seed_files(ROWS))
    assert list(opened(folder / "images" / "validation").roles) == ["validation"]


def test_aliases_and_case_of_folders(tmp_path):
    names = {"happy": "Happiness", "fear": "FEARFUL", "angry": "Anger"}
    rows = [(role, names.get(name, name), pixels) for role, name, pixels in ROWS]
    aliased = opened(write_folder(tmp_path / "a", seed_files(rows)))
    plain = opened(write_folder(tmp_path / "b", seed_files(ROWS)))
    assert summary(aliased) == summary(plain)


def test_numeric_folders_need_an_order(tmp_path):
    numbered = [(role, str(FER2013_CSV_ORDER.index(name)), pixels) for role, name, pixels in ROWS]
    folder = write_folder(tmp_path / "a", seed_files(numbered))
    assert "label_order" in refused(folder)
    dataset = opened(folder, replace(OPTIONS, label_order=",".join(FER2013_CSV_ORDER)))
    named = opened(write_folder(tmp_path / "b", seed_files(ROWS)))
    assert summary(dataset) == summary(named)


def test_a_numeric_folder_out_of_range(tmp_path):
    folder = write_folder(tmp_path, {"train/7/a.png": b""})
    assert "outside 0..6" in refused(folder, replace(OPTIONS, label_order=",".join(LABELS)))


def test_a_csv_of_another_order(tmp_path):
    path = write_folder(tmp_path, {"a.csv": csv_text(ROWS).encode()}) / "a.csv"
    dataset = opened(path, replace(OPTIONS, label_order=",".join(LABELS)))
    for records in dataset.roles.values():
        written = [FER2013_CSV_ORDER.index(ROWS[row][1]) for row in records.rows]
        assert records.labels.tolist() == written


def test_stems_that_repeat_are_no_rows(tmp_path):
    images = {
        f"train/{name}/{i}.png": encode_png(np.full((4, 4, 1), 7 * i + k, np.uint8))
        for k, name in enumerate(LABELS)
        for i in range(2)
    }
    train = opened(write_folder(tmp_path, images), replace(OPTIONS, validation_fraction=0.0))
    assert set(train.roles["train"].rows.tolist()) == {-1}
    assert train.roles["train"].keys[:2] == ("train/angry/0.png", "train/angry/1.png")


@pytest.mark.parametrize(
    ("stem", "row"),
    [("0", 0), ("00012", 12), ("-1", -1), ("1a", -1), ("", -1), ("٣", -1), ("²", -1),
     ("2147483647", 2147483647), ("2147483648", -1), ("9" * 30, -1)],
)  # fmt: skip
def test_row_numbers(stem, row):
    assert layouts.row_number(stem) == row


def test_keys_sort_as_numbers():
    rows = [99_999, 100_000, 5]
    assert sorted(rows) == [int(key) for key in sorted(layouts.row_key(r, 100_000) for r in rows)]


def test_the_same_data_twice_is_read_once(tmp_path):
    images = seed_files(ROWS)
    nested = images | {f"images/{name}": data for name, data in images.items()}
    dataset = opened(write_folder(tmp_path, nested))
    assert len(dataset.roles["train"]) == 14
    assert "images/images holds the same file names again" in dataset.notes[0]


def test_two_data_sets_are_ambiguous(tmp_path):
    two = seed_files(ROWS, "a/") | seed_files(ROWS[:20], "b/")
    assert "two different data sets, in a and b" in refused(write_folder(tmp_path, two))


def test_links_in_a_circle_end(tmp_path):
    folder = write_folder(tmp_path, seed_files(ROWS))
    os.symlink(tmp_path, folder / "images" / "loop")
    assert len(opened(folder).roles["train"]) == 14


def test_composed_and_decomposed_names_are_one_key(tmp_path):
    name = "Zoë"
    keys = []
    for form in ("NFC", "NFD"):
        images = {
            f"train/{c}/{unicodedata.normalize(form, name)}.png": encode_png(
                np.full((4, 4, 1), k, np.uint8)
            )
            for k, c in enumerate(LABELS)
        }
        options = replace(OPTIONS, validation_fraction=0.0)
        keys.append(
            opened(write_zip(tmp_path / f"{form}.zip", images), options).roles["train"].keys
        )
    assert keys[0] == keys[1]


def test_names_that_differ_only_in_their_unicode_form_are_refused(tmp_path):
    images = {f"train/angry/{form}.png": b"" for form in ("Zo\u00eb", "Zoe\u0308")}
    assert "2 images are train/angry/Zoë.png" in refused(write_zip(tmp_path / "a.zip", images))


def test_an_unreadable_name_is_no_other_file_too(tmp_path):
    images = seed_files(ROWS) | {"images/train/Zoe\u0308.png": b"x"}
    dataset = opened(write_zip(tmp_path / "a.zip", images), replace(OPTIONS, on_corrupt="skip"))
    assert dataset.unreadable == (("images/train/Zoë.png", "lies in no class folder"),)
    assert dataset.ignored == {}


@pytest.mark.parametrize("around", ["train/", "test/", "a/test/"])
def test_what_is_packed_may_be_called_like_a_split(tmp_path, around):
    images = seed_files(ROWS, root="")
    wrapped = write_zip(tmp_path / "b.zip", {f"{around}{name}": d for name, d in images.items()})
    assert summary(opened(wrapped)) == summary(opened(write_zip(tmp_path / "a.zip", images)))


def test_a_pipe_among_the_images_is_named_and_not_waited_for(tmp_path):
    write_folder(tmp_path, seed_files(ROWS, root=""))
    os.mkfifo(tmp_path / "train" / "sad" / "pipe.png")
    assert "train/sad/pipe.png: a pipe, not a file" in refused(tmp_path)
