"""The same images as folder, zip, CSV and prepared data: one fingerprint, one training."""

import dataclasses

import pytest
from made_data import (
    OPTIONS,
    csv_text,
    kaggle_files,
    make_rows,
    seed_files,
    write_folder,
    write_zip,
)
from support import assert_identical, first, read_data, small_config

from fer_jax.data.sources import read_dataset
from fer_jax.prepare import prepare
from fer_jax.train import make_trainer

ROWS = make_rows(63)
STEPS, BATCHES = 5, 10
LAYOUTS = ("folder", "zip", "zip in a folder", "icml csv", "csv in a zip", "prepared")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Layout -> path of ROWS in it; the plain CSV is what all others are held against."""
    root = tmp_path_factory.mktemp("truth")
    table, icml = root / "fer2013.csv", root / "icml_face_data.csv"
    table.write_text(csv_text(ROWS))
    icml.write_text(csv_text(ROWS, "icml"))
    folder = write_folder(root / "folder", seed_files(ROWS))
    write_folder(root / "lone", {})
    (root / "lone").mkdir()
    write_zip(root / "lone" / "faces.zip", seed_files(ROWS))
    prepared = root / "prepared"
    prepare(read_dataset(str(folder), OPTIONS), prepared)
    return {
        "csv": table,
        "folder": folder,
        "zip": write_zip(root / "faces.zip", seed_files(ROWS)),
        "zip in a folder": root / "lone",
        "icml csv": icml,
        "csv in a zip": write_zip(root / "csv.zip", {"fer2013.csv": csv_text(ROWS).encode()}),
        "prepared": prepared,
    }


@pytest.fixture(scope="module")
def truth(places):
    """Fingerprints, trainer, first batches and the state after some steps, of the CSV."""
    data = read_data(places["csv"])
    trainer = make_trainer(small_config(places["csv"]), data.roles["train"])
    return data, trainer, first(trainer.batches(0), BATCHES), train(trainer)


def train(trainer):
    state, batches = trainer.init(), trainer.batches(0)
    for _ in range(STEPS):
        state, _ = trainer.train_step(state, next(batches))
    return state


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_truth(layout, places, truth):
    data, trainer, batches, state = truth
    other = read_data(places[layout])
    assert {role: len(part) for role, part in other.roles.items()} == dict.fromkeys(data.roles, 21)
    for role, records in data.roles.items():
        assert other.roles[role].fingerprint == records.fingerprint
    same = dataclasses.replace(trainer, records=other.roles["train"])
    assert_identical(first(same.batches(0), BATCHES), batches)
    if layout == "prepared":  # of the others, equal batches say as much
        assert_identical(train(same), state)


def test_the_kaggle_layout_holds_the_same_images(places, truth, tmp_path):
    """Its file names number the images otherwise, so their order, and no more, is another."""
    data, *_ = truth
    kaggle = write_folder(tmp_path / "kaggle", kaggle_files(ROWS))
    other = read_data(kaggle)
    for role, records in data.roles.items():
        assert other.roles[role].fingerprint == records.fingerprint


def test_other_images_are_another_truth(places, truth, tmp_path):
    data, *_ = truth
    rows = list(ROWS)
    role, name, pixels = rows[0]
    changed = pixels.copy()
    changed[0, 0] ^= 1
    rows[0] = (role, name, changed)
    table = tmp_path / "fer2013.csv"
    table.write_text(csv_text(rows))
    other = read_data(table)
    assert other.roles[role].fingerprint != data.roles[role].fingerprint
