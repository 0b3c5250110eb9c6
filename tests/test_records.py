"""Records as a training source, and the validation split made where there is none."""

import pickle
from dataclasses import replace

import grain
import numpy as np
import pytest
from made_data import (
    OPTIONS,
    csv_text,
    make_rows,
    opened,
    refused,
    seed_files,
    summary,
    write_folder,
    write_zip,
)

from fer_jax.data import sources
from fer_jax.data.images import encode_png
from fer_jax.errors import UserError
from fer_jax.labels import LABELS

ROWS = make_rows()


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


def without(folder, listing, text, **options):
    """The data set without what a file of `text` lists."""
    path = folder.parent / listing
    path.write_text(text)
    return opened(folder, replace(OPTIONS, exclude=str(path), **options))


@pytest.mark.parametrize(
    ("listing", "text"),
    [
        ("keys.txt", "00001\n00005\n00001\n"),
        ("keys.txt", "00005\r\n\r\n00001"),
    ],
)
def test_what_a_list_names_is_left_out_of_train_alone(tmp_path, listing, text):
    folder = write_folder(tmp_path / "data", seed_files(ROWS))
    whole, part = opened(folder), without(folder, listing, text)
    kept = [key for key in whole.roles["train"].keys if key not in ("00001", "00005")]
    assert part.roles["train"].keys == tuple(kept)
    assert part.roles["train"].fingerprint != whole.roles["train"].fingerprint
    for role in ("validation", "test"):
        assert part.roles[role].fingerprint == whole.roles[role].fingerprint
    assert f"data.exclude: 2 of {len(kept) + 2} training images left out" in part.describe()
    assert "name no" not in part.describe()


def test_keys_that_name_no_training_image_are_counted(tmp_path):
    folder = write_folder(tmp_path / "data", seed_files(ROWS))
    validation = opened(folder).roles["validation"].keys[0]
    part = without(folder, "keys.txt", f"00001\n{validation}\n99999\n")
    assert "1 of 14 training images left out" in part.describe()
    assert "2 of whose keys name no image of train" in part.describe()
    assert validation in part.roles["validation"].keys


def test_an_empty_list_leaves_nothing_out(tmp_path):
    folder = write_folder(tmp_path / "data", seed_files(ROWS))
    part = without(folder, "keys.txt", "")
    assert part.roles["train"].fingerprint == opened(folder).roles["train"].fingerprint
    assert "0 of 14 training images left out" in part.describe()


def test_a_made_validation_part_is_the_same_with_and_without(tmp_path):
    folder = write_folder(tmp_path / "data", seed_files(make_rows(140, ("train",))))
    whole = opened(folder).roles
    listed = [whole["validation"].keys[0], *whole["train"].keys[:3]]
    part = without(folder, "keys.txt", "\n".join(listed))
    assert part.roles["validation"].fingerprint == whole["validation"].fingerprint
    assert part.roles["train"].keys == whole["train"].keys[3:]
    assert "1 of whose keys name no image of train" in part.describe()


@pytest.mark.parametrize(
    ("listing", "text", "words"),
    [
        ("keys.txt", "x\ny\n", ["data.exclude=", "none of its 2 keys, first 'x'", "'00000'"]),
        ("none/keys.txt", None, ["cannot read a list of keys"]),
        ("keys.txt", "\n".join(f"{i:05d}" for i in range(42)), ["no training image of angry"]),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(tmp_path, listing, text, words):
    folder = write_folder(tmp_path / "data", seed_files(ROWS))
    if text is not None:
        (tmp_path / listing).write_text(text)
    options = replace(OPTIONS, exclude=str(tmp_path / listing))
    line = refused(folder, options)
    assert all(word in line for word in words), line


def test_beyond_the_cache_images_are_decoded_again(tmp_path):
    folder = write_folder(tmp_path / "a", seed_files(ROWS))
    places = [folder, write_zip(tmp_path / "a.zip", seed_files(ROWS))]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "fer2013.csv").write_text(csv_text(ROWS))
    for place in [*places, tmp_path / "c"]:
        lazy = opened(place, replace(OPTIONS, cache_mib=0))
        assert summary(lazy) == summary(opened(folder))
        assert all(image is None for image in lazy.roles["train"]._images)


@pytest.mark.parametrize("cache_mib", [0, 64])
def test_one_image_in_colour_makes_three_channels(tmp_path, cache_mib):
    files, options = seed_files(ROWS), replace(OPTIONS, cache_mib=cache_mib)
    roles = opened(write_folder(tmp_path / "grey", files), options).roles
    assert {role: part.channels for role, part in roles.items()} == dict.fromkeys(roles, 1)
    name = next(name for name in files if "/train/" in name)
    colour = files | {name: encode_png(np.full((48, 48, 3), [1, 2, 3], np.uint8))}
    roles = opened(write_folder(tmp_path / "colour", colour), options).roles
    assert {role: part.channels for role, part in roles.items()} == {
        **dict.fromkeys(roles, 1),
        "train": 3,
    }


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
