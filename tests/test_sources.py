"""Every layout gives the same records; what is amiss is one line, and nothing is lost unsaid."""

import os
import pickle
import struct
import unicodedata
import zipfile
from dataclasses import replace

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from made_data import (
    OPTIONS,
    csv_text,
    kaggle_files,
    make_rows,
    seed_files,
    write_folder,
    write_zip,
)

from fer_jax.data import csv_rows, duplicates, files, layouts, sources
from fer_jax.data.images import encode_png
from fer_jax.data.sources import open_dataset
from fer_jax.errors import UserError
from fer_jax.labels import FER2013_CSV_ORDER, LABELS

ROWS = make_rows()
COLUMNS = csv_rows.Columns(0, 1, 2)
BLACK = " ".join(["0"] * 2304)
SKIP = replace(OPTIONS, on_corrupt="skip")


def summary(dataset):
    """All that training sees of a data set."""
    return {
        role: (
            r.fingerprint,
            r.keys,
            r.rows.tolist(),
            r.labels.tolist(),
            [x["image"].tobytes() for x in r],
        )
        for role, r in dataset.roles.items()
    }


def opened(path, options=OPTIONS):
    return open_dataset(str(path), options)


def refused(path, options=OPTIONS) -> str:
    """The one line with which `path` is refused."""
    with pytest.raises(UserError) as caught:
        opened(path, options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Layouts


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
    assert opened(seed).layout == "seed folders"
    assert opened(kaggle).layout == "Kaggle folders in a zip"
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
    assert opened(tmp_path).layout == "seed folders in a zip"


def test_a_folder_with_two_zips_is_ambiguous(tmp_path):
    write_zip(tmp_path / "a.zip", seed_files(ROWS))
    write_zip(tmp_path / "b.zip", seed_files(ROWS))
    assert "more than one zip" in refused(tmp_path)


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
    assert "data.label_order" in refused(folder)
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
    assert "are one name" in refused(write_zip(tmp_path / "a.zip", images))


# Junk, and what cannot be read


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
        ".DS_Store": 2,
        "Thumbs.db": 1,
        "desktop.ini": 1,
        "._*": 1,
        "__MACOSX/": 1,
        "hidden files": 1,
        "other files (*.txt)": 1,
    }
    assert opened(archive).ignored == opened(folder).ignored == expected
    assert "2 .DS_Store" in opened(folder).describe()
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
    assert f"cannot read 1 image ({first}: truncated PNG)" in message
    assert "data.on_corrupt=skip" in message


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
    assert "4194304 bytes, more than" in refused(archive)


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
    assert "neither a folder, a zip nor a CSV" in refused(archive)
    assert "is no whole zip" in refused(tmp_path)


def test_paths_that_climb_out_are_ignored(tmp_path):
    evil = {"../../train/angry/evil.png": b"x", "images/train/../../evil.png": b"x"}
    archive = write_zip(tmp_path / "a.zip", seed_files(ROWS) | evil)
    before = sorted(tmp_path.rglob("*"))
    assert opened(archive).ignored == {"paths with ..": 2}
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
@settings(max_examples=200, deadline=None)
def test_any_name_is_one_storable_line(name):
    shown = files.printable(name)
    assert shown.encode("utf-8").decode() == shown
    assert len(shown.splitlines()) <= 1
    assert files.printable(os.fsdecode(b"a\xff\n")).isprintable()


@given(st.lists(st.text("abtrainesg./\\019 ", max_size=24), max_size=6))
@settings(max_examples=200, deadline=None)
def test_any_names_give_a_listing_or_one_line(names):
    kept, junk = files.split_junk(names)
    try:
        listing = layouts.find_images(kept, "here", "")
    except UserError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    else:
        if listing:
            found = len(listing.entries) + len(listing.stray) + listing.ignored.total()
            assert found + junk.total() == len(names)


# Refusals


def test_no_path_says_where_to_get_the_data():
    message = refused("")
    assert "Kaggle" in message
    assert "fer2013.csv" in message
    assert "train/CLASS" in message


def test_a_missing_path(tmp_path):
    assert "does not exist" in refused(tmp_path / "nothing")


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    assert "neither a folder, a zip nor a CSV" in refused(tmp_path / "a.txt")
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


# CSV


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"0,{BLACK[:-2]},Training", "2,303 pixels instead of 2,304"),
        (f"0,{BLACK} 0,Training", "2,305 pixels"),
        (f"0,{BLACK[:-1]}256,Training", "pixel 2303 is '256', not 0..255"),
        (f"0,-1{BLACK[1:]},Training", "pixel 0 is '-1'"),
        (f"0,1.5{BLACK[1:]},Training", "pixel 0 is '1.5'"),
        (f"0,{BLACK},Validation", "Usage 'Validation' is none of"),
        (f"7,{BLACK},Training", "emotion 7 is outside 0..6"),
        (f"-1,{BLACK},Training", "emotion '-1' is neither"),
        (f",{BLACK},Training", "emotion '' is neither"),
        ("0,1 2 3", "2 columns instead of 3"),
    ],
)
def test_a_bad_row_is_named(tmp_path, line, reason):
    lines = csv_text(ROWS).splitlines()
    lines.insert(6, line)
    path = write_folder(tmp_path, {"fer2013.csv": "\n".join(lines).encode()}) / "fer2013.csv"
    message = refused(path)
    assert "cannot read 1 image (row 5: " in message
    assert reason in message
    skipped = opened(path, SKIP)
    assert skipped.unreadable[0][0] == "row 5"
    assert sum(len(records) for records in skipped.roles.values()) == len(ROWS)
    assert 5 not in skipped.roles["train"].rows
    assert skipped.roles["train"].rows[5] == 6


@given(nps.arrays(np.uint8, 2304), st.sampled_from([" ", "  "]))
@settings(max_examples=30, deadline=None)
def test_any_pixels_come_back(values, gap):
    line = f"6,{gap.join(map(str, values))},PrivateTest"
    role, label, pixels = csv_rows.parse_row(line, COLUMNS, FER2013_CSV_ORDER)
    assert (role, LABELS[label]) == ("test", "neutral")
    np.testing.assert_array_equal(np.frombuffer(pixels, np.uint8), values)


@given(st.text("0123456789 -.,\"'\x00e", max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_line_gives_a_row_or_a_reason(text):
    line = f"0,{BLACK[: -2 * 10]}{text},Training"
    entries, pixels = csv_rows._read_rows([line], COLUMNS, FER2013_CSV_ORDER)
    try:
        image = pixels(entries[0].ref)
    except ValueError as error:
        assert str(error)  # noqa: PT017
    else:
        assert image.shape == (48, 48, 1)


def test_csv_oddities(tmp_path):
    """A byte-order mark, Windows line ends, blank lines, quotes, class names for numbers."""
    lines = csv_text(ROWS).splitlines()
    number, pixels, usage = lines[1].split(",")
    lines[1] = f'"{FER2013_CSV_ORDER[int(number)]}", "{pixels}" ,"{usage.upper()}"'
    lines[1] = lines[1].replace(', "', ',"').replace('" ,', '",')
    text = "\ufeff" + "\r\n".join([*lines, "", "  ", ""])
    odd = write_folder(tmp_path / "a", {"x.csv": text.encode()})
    plain = write_folder(tmp_path / "b", {"x.csv": csv_text(ROWS).encode()})
    assert summary(opened(odd)) == summary(opened(plain))


def test_a_csv_without_usage_is_training(tmp_path):
    rows = make_rows(70, ("train",))
    text = "\n".join(line.removesuffix(",Training").removesuffix(",Usage")
                     for line in csv_text(rows).splitlines())  # fmt: skip
    dataset = opened(write_folder(tmp_path, {"train.csv": text.encode()}))
    assert list(dataset.roles) == ["train", "validation"]


def test_a_csv_without_labels(tmp_path):
    (tmp_path / "test.csv").write_text("pixels\n0 0 0\n")
    assert "must name columns emotion, pixels" in refused(tmp_path / "test.csv")
    assert "no known layout" in refused(tmp_path)


def test_a_csv_of_no_rows(tmp_path):
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n")
    assert "has a header and no rows" in refused(tmp_path)


def test_an_endless_line_is_one_bad_row(tmp_path):
    lines = csv_text(ROWS).splitlines()
    lines.insert(3, "0," + "1 " * 10**6 + ",Training")
    (tmp_path / "fer2013.csv").write_text("\n".join(lines))
    dataset = opened(tmp_path, SKIP)
    assert [name for name, _ in dataset.unreadable] == ["row 2"]
    assert dataset.roles["train"].rows[2] == 3


# The made validation split


def many(copies: int = 1):
    digests = np.random.default_rng(0).integers(0, 256, (700, 32), np.uint8)
    labels = np.repeat(np.arange(7), 100).astype(np.int32)
    return np.repeat(digests, copies, axis=0), np.repeat(labels, copies)


def test_the_split_is_stratified_and_seeded():
    digests, labels = many()
    held_out = sources.choose_validation(digests, labels, 0.1, 0)
    assert np.bincount(labels[held_out]).tolist() == [10] * 7
    again = sources.choose_validation(digests, labels, 0.1, 0)
    np.testing.assert_array_equal(again, held_out)
    assert (sources.choose_validation(digests, labels, 0.1, 1) != held_out).any()


def test_the_split_does_not_depend_on_order():
    digests, labels = many()
    shuffled = np.random.default_rng(1).permutation(len(labels))
    held_out = sources.choose_validation(digests, labels, 0.1, 0)
    np.testing.assert_array_equal(
        sources.choose_validation(digests[shuffled], labels[shuffled], 0.1, 0), held_out[shuffled]
    )


def test_copies_stay_together_whatever_their_labels():
    digests, labels = many(copies=3)
    labels[::50] = (labels[::50] + 1) % 7
    held_out = sources.choose_validation(digests, labels, 0.2, 0).reshape(-1, 3)
    assert (held_out.all(axis=1) == held_out.any(axis=1)).all()
    assert 0.17 < held_out.mean() <= 0.2


def test_small_classes_keep_a_training_image():
    digests = np.random.default_rng(0).integers(0, 256, (3, 32), np.uint8)
    held_out = sources.choose_validation(digests, np.array([0, 1, 1]), 0.9, 0)
    assert not held_out[0]
    assert held_out[1:].sum() == 1


def test_no_fraction_no_split(tmp_path):
    folder = write_folder(tmp_path, seed_files(make_rows(70, ("train",))))
    assert list(opened(folder, replace(OPTIONS, validation_fraction=0.0)).roles) == ["train"]


def test_the_made_split_is_announced(tmp_path):
    folder = write_folder(tmp_path, seed_files(make_rows(140, ("train",))))
    dataset = opened(folder)
    assert dataset.roles["validation"].counts().tolist() == [2] * 7
    assert "14 of 140 training images held out" in dataset.describe()
    assert not set(dataset.roles["train"].keys) & set(dataset.roles["validation"].keys)


# Records as a source


def test_beyond_the_cache_images_are_decoded_again(tmp_path):
    folder = write_folder(tmp_path / "a", seed_files(ROWS))
    places = [folder, write_zip(tmp_path / "a.zip", seed_files(ROWS))]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "fer2013.csv").write_text(csv_text(ROWS))
    for place in [*places, tmp_path / "c"]:
        lazy = opened(place, replace(OPTIONS, cache_mib=0))
        assert summary(lazy) == summary(opened(folder))
        assert all(image is None for image in lazy.roles["train"]._images)


def test_an_image_that_vanishes_later(tmp_path):
    folder = write_folder(tmp_path, seed_files(ROWS))
    train = opened(folder, replace(OPTIONS, cache_mib=0)).roles["train"]
    for path in folder.rglob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match="was readable when loaded and is not now"):
        train[0]


@pytest.mark.parametrize("cache_mib", [0, 64])
def test_records_survive_pickling(tmp_path, cache_mib):
    archive = write_zip(tmp_path / "a.zip", seed_files(ROWS))
    dataset = opened(archive, replace(OPTIONS, cache_mib=cache_mib))
    assert summary(pickle.loads(pickle.dumps(dataset))) == summary(dataset)


def test_records_feed_grain(tmp_path):
    train = opened(write_folder(tmp_path, seed_files(ROWS))).roles["train"]
    shuffled = grain.MapDataset.source(train).seed(0).shuffle()
    assert sorted(shuffled[i]["key"] for i in range(len(shuffled))) == sorted(train.keys)


def test_records_index_as_a_sequence(tmp_path):
    train = opened(write_folder(tmp_path, seed_files(ROWS))).roles["train"]
    assert train[-1]["key"] == train[np.int64(len(train) - 1)]["key"] == train.keys[-1]
    with pytest.raises(IndexError):
        train[len(train)]
    assert train.counts().tolist() == [2] * 7


def test_a_fingerprint_changes_with_pixels_and_labels(tmp_path):
    def of(rows, name):
        return opened(write_folder(tmp_path / name, seed_files(rows))).roles["train"].fingerprint

    role, name, pixels = ROWS[0]
    brighter = [(role, name, pixels ^ 1), *ROWS[1:]]
    other = LABELS[(LABELS.index(name) + 1) % 7]
    assert len({of(ROWS, "a"), of(brighter, "b"), of([(role, other, pixels), *ROWS[1:]], "c")}) == 3
    assert of(ROWS[::-1], "d") == of(ROWS, "a")


def test_synthetic_faces(monkeypatch):
    from fer_jax.data import synthetic

    draw = np.random.default_rng(0)
    faces = {
        role: (draw.integers(0, 256, (14, 48, 48), np.uint8), np.tile(np.arange(7), 2))
        for role in ("train", "validation")
    }
    monkeypatch.setattr(synthetic, "faces", faces.get)
    dataset = opened("synthetic")
    assert dataset.layout == "synthetic"
    np.testing.assert_array_equal(
        np.stack([x["image"] for x in dataset.roles["train"]])[..., 0], faces["train"][0]
    )
    assert dataset.roles["validation"].keys[3] == "validation/00003"
    assert dataset.roles["validation"].rows[3] == -1


# Real data


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


def test_real_copies(real):
    """280 PublicTest images have a copy in Training, as others counted."""
    copied = duplicates.has_copy_in(real.roles["validation"], real.roles["train"])
    assert copied.sum() == 280
