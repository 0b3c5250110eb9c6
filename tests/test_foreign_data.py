"""Data as people have it: other classes, other splits, lists, Parquet, tar, odd tables."""

import gzip
import io
import json
import sys
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from made_data import (
    OPTIONS,
    SKIP,
    csv_text,
    make_rows,
    opened,
    refused,
    seed_files,
    summary,
    write_folder,
    write_zip,
)

from fer_jax.data import files
from fer_jax.data.images import encode_png
from fer_jax.data.sources import fingerprint, open_dataset, read_dataset
from fer_jax.errors import UserError
from fer_jax.labels import FER2013_CSV_ORDER, LABELS

ROWS = make_rows()
RAFDB = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")
FROM_ONE = "1:" + ",".join(FER2013_CSV_ORDER)
PNG = encode_png(np.zeros((4, 4, 1), np.uint8))


def table(path, text, **options):
    """The data set of a CSV of `text`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return opened(path, replace(OPTIONS, **options))


def numbered(first):
    """fer2013.csv whose numbers begin at `first`."""
    header, *lines = csv_text(ROWS).splitlines()
    cells = (line.split(",", 1) for line in lines)
    return "\n".join([header, *(f"{int(number) + first},{rest}" for number, rest in cells)])


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """What every spelling of ROWS must give."""
    return summary(opened(write_folder(tmp_path_factory.mktemp("truth"), seed_files(ROWS))))


# Classes


def test_an_eighth_class_is_left_out_by_name_and_counted(tmp_path, truth):
    extra = {f"images/train/contempt/{i}.png": PNG for i in (900, 901)}
    folder = write_folder(tmp_path, seed_files(ROWS) | extra)
    assert "contempt:none" in refused(folder)
    dataset = opened(folder, replace(OPTIONS, map="contempt:none"))
    assert summary(dataset) == truth
    assert "2 images of contempt left out" in dataset.describe()


def test_a_class_is_mapped_to_another(tmp_path):
    folder = write_folder(tmp_path, seed_files(ROWS) | {"images/train/joy/900.png": PNG})
    counts = opened(folder, replace(OPTIONS, map="joy:happy")).roles["train"].counts()
    assert counts.tolist() == [2, 2, 2, 3, 2, 2, 2]


def test_eight_numbers_of_a_csv(tmp_path, truth):
    text = csv_text(ROWS) + "7," + " ".join(["9"] * 2304) + ",Training\n"
    dataset = table(tmp_path / "a.csv", text, map="7:none")
    assert summary(dataset) == truth
    assert "1 image of 7 left out" in dataset.describe()


def test_numbers_that_a_map_takes_out_still_say_where_numbers_start(tmp_path):
    text = csv_text(ROWS) + "7," + " ".join(["9"] * 2304) + ",Training\n"
    (tmp_path / "a.csv").write_text(text)
    options = replace(OPTIONS, map="0:none,7:none")
    notes = read_dataset(str(tmp_path / "a.csv"), options).notes
    assert notes == ("6 images of 0 left out, as map says", "1 image of 7 left out, as map says")
    assert "class 7 is outside 0..6" in refused(tmp_path, replace(OPTIONS, map="0:none"))


@pytest.mark.parametrize("given", ["contempt", "contempt:nobody", ":none", "a:none,a:happy"])
def test_a_map_that_cannot_be_meant(tmp_path, given):
    folder = write_folder(tmp_path, seed_files(ROWS))
    assert f"map={given}: " in refused(folder, replace(OPTIONS, map=given))


def test_five_classes_are_for_all_but_training(tmp_path):
    rows = [row for row in make_rows(70, ("train",)) if row[1] not in ("sad", "fear")]
    folder = write_folder(tmp_path, seed_files(rows)) / "images" / "train"
    assert "no training image of fear, sad" in refused(folder)
    assert len(read_dataset(str(folder), OPTIONS).roles["train"]) == 50
    assert len(open_dataset(str(folder), OPTIONS, trained_on=[]).split("all")) == 50


def test_numbers_of_folders_may_start_at_one(tmp_path, truth):
    rows = [(role, str(1 + FER2013_CSV_ORDER.index(name)), pixels) for role, name, pixels in ROWS]
    folder = write_folder(tmp_path, seed_files(rows))
    assert "1:" in refused(folder)
    assert "1:" in refused(folder, replace(OPTIONS, label_order=FROM_ONE[2:]))
    assert summary(opened(folder, replace(OPTIONS, label_order=FROM_ONE))) == truth


def test_bare_numeric_folders_ask_for_their_order(tmp_path):
    rows = [(role, str(FER2013_CSV_ORDER.index(name)), p) for role, name, p in ROWS]
    folder = write_folder(tmp_path, seed_files(rows)) / "images" / "train"
    assert "label_order=" in refused(folder)
    options = replace(OPTIONS, label_order=FROM_ONE[2:], validation_fraction=0.0)
    assert opened(folder, options).roles["train"].counts().tolist() == [2] * 7


@pytest.mark.parametrize("options", [OPTIONS, SKIP])
def test_a_csv_from_one_is_never_shifted(tmp_path, truth, options):
    path = tmp_path / "a.csv"
    path.write_text(numbered(1))
    line = refused(path, options)
    assert "from 1 to 7" in line
    assert "label_order=1:" in line
    assert summary(opened(path, replace(options, label_order=FROM_ONE))) == truth


def test_a_csv_that_may_start_at_one_is_said_to(tmp_path):
    rows = [row for row in ROWS if row[1] != "neutral"]
    lines = csv_text(rows).splitlines()
    text = "\n".join([lines[0], *(f"{int(line[0]) + 1}{line[1:]}" for line in lines[1:])])
    (tmp_path / "a.csv").write_text(text)
    notes = read_dataset(str(tmp_path / "a.csv"), OPTIONS).notes
    assert any("label_order=1:" in note for note in notes)


# Splits


def test_class_folders_beside_the_known_splits_stop(tmp_path):
    files = seed_files(ROWS)
    renamed = {name.replace("/validation/", "/holdback/"): data for name, data in files.items()}
    line = refused(write_folder(tmp_path, renamed))
    assert "images/holdback" in line
    assert "valid, " in line
    with_notes = files | {"images/notes/about.txt": b"x", "images/sketches/1.png": PNG}
    assert opened(write_folder(tmp_path / "b", with_notes)).ignored


def test_any_data_can_be_one_split(tmp_path):
    dataset = opened(write_folder(tmp_path, seed_files(ROWS)))
    every = dataset.split("all")
    assert every.keys == tuple(f"{i:05d}" for i in range(42))
    assert [LABELS[label] for label in every.labels] == [row[1] for row in ROWS]
    np.testing.assert_array_equal(every[5]["image"][..., 0], ROWS[5][2])
    lazy = opened(tmp_path, replace(OPTIONS, cache_mib=0)).split("all")
    assert lazy.fingerprint == every.fingerprint
    np.testing.assert_array_equal(lazy[41]["image"], every[41]["image"])


def test_evaluation_holds_nothing_out_of_foreign_data(tmp_path):
    folder = write_folder(tmp_path, seed_files(make_rows(140, ("train",)))) / "images" / "train"
    foreign = open_dataset(str(folder), OPTIONS, trained_on=[{"validation": "of another"}])
    assert len(foreign.roles["all"]) == 140
    assert "all 140 images are one split" in foreign.describe()
    training = opened(folder)
    own = open_dataset(str(folder), OPTIONS, trained_on=[{}, fingerprint(training)])
    assert summary(own) == summary(training)


def test_evaluation_needs_no_class_in_train(tmp_path):
    rows = [row for row in ROWS if row[:2] != ("train", "disgust")]
    folder = write_folder(tmp_path, seed_files(rows))
    assert "no training image of disgust" in refused(folder)
    dataset = open_dataset(str(folder), OPTIONS, trained_on=[])
    assert len(dataset.split("validation")) == 14
    assert "all 41" not in dataset.describe()


def test_tables_side_by_side_are_the_splits_they_are_called(tmp_path):
    for role, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        rows = [row for row in ROWS if row[0] == role]
        text = "\n".join(line.rsplit(",", 1)[0] for line in csv_text(rows).splitlines())
        (tmp_path / f"{name}.csv").write_text(text)
    (tmp_path / "README.md").write_text("hello")
    dataset = opened(tmp_path)
    assert {role: len(part) for role, part in dataset.roles.items()} == dict.fromkeys(
        ("train", "validation", "test"), 14
    )
    assert dataset.roles["test"].keys[0] == "test.csv/00000"
    assert set(dataset.roles["test"].rows.tolist()) == {-1}
    assert dataset.ignored == {"other files (*.md)": 1}
    assert len(opened(tmp_path / "test.csv").roles["test"]) == 14


def test_a_table_without_labels_is_not_dropped_in_silence(tmp_path):
    rows = make_rows(70, ("train",))
    (tmp_path / "train.csv").write_text(csv_text(rows))
    (tmp_path / "test.csv").write_text("pixels\n" + " ".join(["0"] * 2304) + "\n")
    assert opened(tmp_path).ignored == {"other files (*.csv)": 1}


# Lists and Parquet


def rafdb(rows):
    """RAF-DB as it is packed: images in one folder, labels from 1 in a list beside it."""
    files, lines = {}, []
    for i, (role, name, pixels) in enumerate(rows):
        stem = f"{'train' if role == 'train' else 'test'}_{i:05d}"
        files[f"basic/Image/aligned/{stem}_aligned.jpg"] = encode_png(pixels[..., None])
        files[f"basic/Image/original/{stem}.jpg"] = PNG
        lines.append(f"{stem}.jpg {1 + RAFDB.index(name)}")
    return files, lines


@pytest.mark.parametrize("zipped", [False, True])
def test_rafdb_by_its_list(tmp_path, zipped):
    rows = make_rows(28, ("train", "test"))
    files, lines = rafdb(rows)
    files["basic/EmoLabel/list_patition_label.txt"] = "\n".join(lines).encode()
    place = write_zip(tmp_path / "a.zip", files) if zipped else write_folder(tmp_path, files)
    dataset = read_dataset(str(place), OPTIONS)
    plain = opened(write_folder(tmp_path / "plain", seed_files(rows)), SKIP)
    assert dataset.roles["test"].fingerprint == plain.roles["test"].fingerprint
    assert dataset.layout.startswith("RAF-DB")
    assert dataset.roles["train"].keys[0] == "train_00000.jpg"


def test_rafdb_with_images_that_are_not_there(tmp_path):
    files, lines = rafdb(make_rows(28, ("train", "test")))
    lines += ["train_09999.jpg 3", "test_09998.jpg 8", "nonsense"]
    files["basic/EmoLabel/list_patition_label.txt"] = "\n".join(lines).encode()
    line = refused(write_folder(tmp_path, files))
    assert "cannot read 3 images" in line
    assert "train_09999.jpg: not there" in line


def test_an_image_twice_in_a_list_is_refused(tmp_path):
    files, lines = rafdb(make_rows(28, ("train", "test")))
    name = lines[0].split()[0]
    files["basic/EmoLabel/list_patition_label.txt"] = "\n".join([*lines, f"{name} 3"]).encode()
    assert f"2 images are {name}" in refused(write_folder(tmp_path, files))


def parquet(path, rows, names=LABELS, kind="dictionary"):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = [encode_png(pixels[..., None]) for *_, pixels in rows]
    cells = [{"bytes": data, "path": None} for data in encoded] if kind == "dictionary" else encoded
    known = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
    filled = pa.table({"image": cells, "label": [names.index(name) for _, name, _ in rows]})
    if kind == "dictionary":
        filled = filled.replace_schema_metadata({"huggingface": json.dumps(known)})
    pq.write_table(filled, path, row_group_size=5)


@pytest.mark.parametrize("cache_mib", [0, 64])
def test_parquet(tmp_path, cache_mib):
    names = [name for name in FER2013_CSV_ORDER if name != "fear"] + ["contempt", "fear"]
    for role in ("train", "validation", "test"):
        part = [row for row in ROWS if row[0] == role]
        parquet(tmp_path / "data" / f"{role}-00000-of-00001.parquet", part, names)
    options = replace(OPTIONS, cache_mib=cache_mib)
    dataset = opened(tmp_path, options)
    plain = opened(write_folder(tmp_path / "plain", seed_files(ROWS)))
    assert fingerprint(dataset) == fingerprint(plain)
    assert dataset.layout == "Parquet"
    one = opened(tmp_path / "data" / "test-00000-of-00001.parquet", options)
    assert one.roles["test"].fingerprint == plain.roles["test"].fingerprint


def test_parquet_written_anew_is_read_anew(tmp_path):
    for rows in (ROWS[:14], make_rows(84)[-14:]):
        parquet(tmp_path / "train.parquet", rows)
        train = opened(tmp_path, replace(OPTIONS, validation_fraction=0.0)).roles["train"]
        np.testing.assert_array_equal(train[3]["image"][..., 0], rows[3][2])


def test_rows_of_parquet_without_an_image_are_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": PNG}, {"bytes": None}, None]
    pq.write_table(pa.table({"image": cells, "label": ["sad"] * 3}), tmp_path / "train.parquet")
    line = refused(tmp_path)
    assert "cannot read 2 images (train.parquet/00001: the row holds no image's bytes" in line


def test_parquet_of_nameless_numbers(tmp_path):
    parquet(tmp_path / "train.parquet", ROWS, FER2013_CSV_ORDER, kind="plain")
    assert "label_order=" in refused(tmp_path)
    options = replace(OPTIONS, label_order=FROM_ONE[2:], validation_fraction=0.0)
    train = opened(tmp_path, options).roles["train"]
    assert train.counts().tolist() == [6] * 7


def test_parquet_without_its_library_or_broken(tmp_path, monkeypatch):
    (tmp_path / "train.parquet").write_bytes(b"PAR1 nothing")
    assert "train.parquet" in refused(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert "fer_jax[parquet]" in refused(tmp_path)


def test_parquet_in_an_archive(tmp_path):
    parquet(tmp_path / "train.parquet", ROWS)
    plain = opened(tmp_path / "train.parquet")
    data = (tmp_path / "train.parquet").read_bytes()
    for archive in (
        write_zip(tmp_path / "a.zip", {"train.parquet": data}),
        write_tar(tmp_path / "a.tar", {"train.parquet": data}, "w"),
    ):
        assert fingerprint(opened(archive)) == fingerprint(plain)


# Archives


def write_tar(path, files, mode):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize(("suffix", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tgz", "w:gz")])
@pytest.mark.parametrize("cache_mib", [0, 64])
def test_tar(tmp_path, truth, suffix, mode, cache_mib):
    archive = write_tar(tmp_path / f"a.{suffix}", seed_files(ROWS), mode)
    dataset = opened(archive, replace(OPTIONS, cache_mib=cache_mib))
    assert summary(dataset) == truth
    assert dataset.layout == "split folders in a tar"
    assert summary(opened(tmp_path)) == truth


def test_the_challenges_own_archive(tmp_path, truth):
    files = {"fer2013/README": b"x", "fer2013/fer2013.csv": csv_text(ROWS).encode(),
             "fer2013/fer2013.bib": b"x"}  # fmt: skip
    dataset = opened(write_tar(tmp_path / "fer2013.tar.gz", files, "w:gz"))
    assert summary(dataset) == truth
    assert dataset.layout == "fer2013.csv in a tar"


def test_an_archive_that_never_ends_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_UNPACKED", 1000)
    assert "more than 1000 bytes" in refused(
        write_tar(tmp_path / "a.tar.gz", seed_files(ROWS), "w:gz")
    )


def test_a_truncated_archive_says_so(tmp_path):
    archive = write_zip(tmp_path / "a.zip", seed_files(ROWS))
    whole = archive.read_bytes()
    for size in (len(whole) - 100, 5000, 40):
        archive.write_bytes(whole[:size])
        assert "is truncated or damaged" in refused(archive)
        assert "is truncated or damaged" in refused(tmp_path)
    archive.unlink()
    for mode in ("w", "w:gz"):
        tar = write_tar(tmp_path / "a.tar.gz", seed_files(ROWS), mode)
        tar.write_bytes(tar.read_bytes()[:50_000])
        assert "is truncated or damaged" in refused(tar)


def test_links_in_a_tar_are_not_followed(tmp_path):
    archive = write_tar(tmp_path / "a.tar", seed_files(ROWS), "w")
    with tarfile.open(archive, "a") as tar:
        link = tarfile.TarInfo("images/train/sad/900.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert "images/train/sad/900.png: a link" in refused(archive)


def test_no_unpacked_file_stays_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    opened(write_tar(tmp_path / "a.tgz", seed_files(ROWS), "w:gz"))
    assert not list((tmp_path / "temporary").iterdir())


# Tables


def spelled(rows, separator=",", cell=str, cells=" ", brackets="", usage=str, label=str):
    """fer2013.csv in another spelling."""
    text = csv_text(rows).splitlines()
    lines = [text[0].replace(",", separator)]
    for line in text[1:]:
        number, pixels, split = line.split(",")
        left, right = brackets[:1], brackets[1:]
        joined = f'"{left}{cells.join(map(cell, pixels.split()))}{right}"'
        lines.append(separator.join([label(number), joined, usage(split)]))
    return "\n".join(lines) + "\n"


NEW_USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "Test"}
SPELLINGS = {
    "semicolons": {"separator": ";"},
    "tabs": {"separator": "\t"},
    "bars": {"separator": "|"},
    "floats": {"cell": lambda value: f"{value}.0", "label": lambda number: f"{number}.0"},
    "scientific": {"cell": lambda value: f"{int(value):.18e}"},
    "a list": {"cells": ", ", "brackets": "[]"},
    "a list of floats": {"cell": lambda v: f"{v}.0", "cells": ", ", "brackets": "[]"},
    "an array": {"cells": "\n  ", "brackets": "[]"},
    "blank lines within": {"cells": "\r\n\r\n"},
    "usage": {"usage": lambda usage: NEW_USAGES[usage]},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_spelling(tmp_path, truth, spelling):
    text = spelled(ROWS, **SPELLINGS[spelling])
    assert summary(table(tmp_path / "b" / "a.csv", text)) == truth
    assert summary(opened(tmp_path / "b")) == truth


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_an_encoding(tmp_path, truth, encoding):
    (tmp_path / "a.csv").write_bytes(csv_text(ROWS).replace("\n", "\r\n").encode(encoding))
    assert summary(opened(tmp_path)) == truth


@pytest.mark.parametrize("name", ["pixel{}", "pixel_{}", "Pixel {}"])
def test_a_column_for_each_pixel(tmp_path, truth, name):
    order = np.random.default_rng(0).permutation(2304)
    lines = [",".join(["emotion", *(name.format(i) for i in order), "Usage"])]
    for line in csv_text(ROWS).splitlines()[1:]:
        number, pixels, usage = line.split(",")
        lines.append(",".join([number, *np.array(pixels.split())[order], usage]))
    assert summary(table(tmp_path / "a.csv", "\n".join(lines))) == truth


def test_a_header_that_cannot_be_read_says_what_it_has(tmp_path):
    (tmp_path / "a.csv").write_text("emotion;face;usage\n1;2;3\n")
    line = refused(tmp_path / "a.csv")
    assert "emotion;face;usage" in line
    assert "pixel0" in line
    (tmp_path / "b.csv").write_text("emotion,pixel0,pixel1\n1,2,3\n")
    assert "some of the 2,304 columns" in refused(tmp_path / "b.csv")


@pytest.mark.parametrize("stray", [[5], [5, 9], [40]])
def test_a_stray_quotation_mark_never_shifts_rows(tmp_path, stray):
    lines = csv_text(ROWS).splitlines()
    for row in stray:
        lines[row + 1] = lines[row + 1].replace(",", ',"', 1)
    (tmp_path / "a.csv").write_text("\n".join(lines))
    line = refused(tmp_path / "a.csv", SKIP)
    assert f"a quotation mark is astray in row {stray[0]}" in line


# Messages


def test_an_empty_file_is_called_empty(tmp_path):
    folder = write_folder(tmp_path, seed_files(ROWS) | {"images/train/sad/900.png": b""})
    assert "images/train/sad/900.png: an empty file" in refused(folder)
    (tmp_path / "empty.csv").write_text("")
    assert "is empty" in refused(tmp_path / "empty.csv")


def test_a_gzip_of_a_table_is_told_from_an_archive(tmp_path):
    (tmp_path / "fer2013.csv.gz").write_bytes(gzip.compress(csv_text(ROWS).encode()))
    assert "neither a folder" in refused(tmp_path / "fer2013.csv.gz")


@pytest.mark.parametrize(("name", "flips"), [("a.tar", 20), ("train.parquet", 1)])
def test_a_damaged_file_ends_in_one_line(tmp_path, name, flips):
    if name == "a.tar":
        write_tar(tmp_path / name, seed_files(ROWS[:14]), "w")
    else:
        parquet(tmp_path / name, ROWS[:14])
    whole, draw = (tmp_path / name).read_bytes(), np.random.default_rng(0)
    for i in range(40):
        damaged = bytearray(whole)
        for place in draw.integers(0, len(whole), flips):
            damaged[place] = draw.integers(0, 256)
        (tmp_path / f"{i}{name}").write_bytes(bytes(damaged))
        try:
            opened(tmp_path / f"{i}{name}", SKIP)
        except UserError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017


def test_zip_members_stay_where_they_are(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../dataset_info.json", b"{}")
        file.writestr("/etc/dataset_info.json", b"{}")
    assert "no known layout" in refused(archive) or "prepared" in refused(archive)
