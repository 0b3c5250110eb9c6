"""The clean subset: copies of training images are told by the model, a list, an audit or data."""

import json
import shutil

import cv2
import numpy as np
import pytest
from made_data import csv_text, recompressed, some_faces
from support import call, read_data, small_config, small_rows

from fer_jax import leakage, trained, workdir
from fer_jax.auditing.report import AUDIT_FILE
from fer_jax.data.hashes import is_copy, looks_like
from fer_jax.data.images import encode_png
from fer_jax.errors import UserError
from fer_jax.labels import LABELS

EXACT, JPEG, MIRRORED = 0, 1, 2  # positions in validation of what is planted


def planted_rows() -> list:
    """14 drawn faces to train on; 10 to score, three of them copies of the first ones."""
    images, labels = some_faces("train", 90)
    first = [int(np.flatnonzero(labels == label)[i]) for i in range(2) for label in range(7)]
    others, their = some_faces("validation", 40)
    chosen = [(images[i], labels[i]) for i in first]
    scored = [(others[i], their[i]) for i in range(0, 20, 2)]
    for place, change in (
        (EXACT, lambda image: image),
        (JPEG, lambda image: recompressed(image, 80)),
        (MIRRORED, lambda image: image[:, ::-1]),
    ):
        scored[place] = (change(chosen[place][0]), chosen[place][1])
    rows = [("train", LABELS[label], image) for image, label in chosen]
    return rows + [("validation", LABELS[label], image) for image, label in scored]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """(config, data set, its path) of `planted_rows`."""
    path = tmp_path_factory.mktemp("planted") / "fer2013.csv"
    path.write_text(csv_text(planted_rows()))
    return small_config(path).data, read_data(path), path


@pytest.fixture(scope="module")
def audited(planted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("audited") / "audit"
    outcome = call("audit", [f"--data={planted[2]}", f"--output={folder}"])
    assert outcome.status == 0, outcome.err
    return folder


def copies(path, planted, split="validation"):
    config, data, _ = planted
    return np.flatnonzero(
        leakage.by_path(str(path), config, config.path, data, split)[-1].mask
    ).tolist()


def test_data_is_compared_for_exact_near_and_mirrored_copies(planted, tmp_path):
    assert copies(planted[2], planted) == [EXACT, JPEG, MIRRORED]
    elsewhere = tmp_path / "train.csv"
    lines = planted[2].read_text().splitlines()
    elsewhere.write_text("\n".join([line for line in lines if not line.endswith("PublicTest")]))
    assert copies(elsewhere, planted) == [EXACT, JPEG, MIRRORED]


def test_one_place_may_be_spelled_in_several_ways(planted, tmp_path, monkeypatch):
    """It is not read again, as other data would be, whose training part was not divided."""
    monkeypatch.setattr(leakage, "read_dataset", lambda *_: pytest.fail("read again"))
    (tmp_path / "link.csv").symlink_to(planted[2])
    around = planted[2].parent / ".." / planted[2].parent.name / planted[2].name
    for path in (tmp_path / "link.csv", around):
        assert copies(path, planted) == [EXACT, JPEG, MIRRORED]


def test_an_audit_tells_the_same_by_its_folder_or_file(planted, audited):
    assert copies(audited, planted) == [EXACT, JPEG, MIRRORED]
    assert copies(audited / AUDIT_FILE, planted) == [EXACT, JPEG, MIRRORED]


def test_both_tell_exact_copies_apart(planted, audited):
    config, data, path = planted
    for told_by in (path, audited):
        exact, every = leakage.by_path(str(told_by), config, config.path, data, "validation")
        assert np.flatnonzero(exact.mask).tolist() == [EXACT]
        assert exact.against.startswith("exact copies of ")
        assert every.against.startswith("exact, near and mirrored copies of ")


def test_what_the_audit_lists_to_exclude_leaves_no_copy(planted, audited):
    listed = audited / "exclude_copies_of_validation.txt"
    data = read_data(planted[2], data__exclude=str(listed))
    assert len(data.roles["train"]) == 14 - 3
    assert "3 of 14 training images left out" in data.describe()
    config = small_config(planted[2]).data
    found = leakage.by_path(str(planted[2]), config, config.path, data, "validation")
    assert not any(copied.mask.any() for copied in found)


def test_a_list_names_images_of_the_split(planted, tmp_path):
    keys = planted[1].roles["validation"].keys
    listed = tmp_path / "keys.txt"
    listed.write_text(f"{keys[4]}\n{keys[2]}\nelsewhere\n")
    assert copies(listed, planted) == [2, 4]
    config, data, _ = planted
    [found] = leakage.by_path(str(listed), config, config.path, data, "validation")
    assert found.against == f"listed in {listed}, 1 of whose keys name no image of validation"


def test_other_lists_and_audits_are_refused(planted, audited, tmp_path):
    listed = tmp_path / "keys.txt"
    listed.write_text("elsewhere\n")
    with pytest.raises(UserError, match="none of its 1 keys, first 'elsewhere', is of validation"):
        copies(listed, planted)
    facts = json.loads((audited / AUDIT_FILE).read_text())
    facts["fingerprints"]["validation"] = "ab" * 32
    (tmp_path / AUDIT_FILE).write_text(json.dumps(facts))
    with pytest.raises(UserError, match="an audit of other data: its validation is abab"):
        copies(tmp_path, planted)
    with pytest.raises(UserError, match="audit of train, validation, not of all: give the data"):
        copies(audited, planted, "all")
    (tmp_path / AUDIT_FILE).write_text("{}")
    with pytest.raises(UserError, match=r"audit\.json is no audit"):
        copies(tmp_path, planted)
    with pytest.raises(UserError, match="does not exist"):
        copies(tmp_path / "none", planted)


# ---- from end to end ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """The small data with two of its validation images replaced by training images."""
    rows = small_rows()
    train = [i for i, row in enumerate(rows) if row[0] == "train"]
    validation = [i for i, row in enumerate(rows) if row[0] == "validation"]
    for source, target in ((train[0], validation[3]), (train[5], validation[9])):
        rows[target] = ("validation", *rows[source][1:])
    path = tmp_path_factory.mktemp("leaky") / "fer2013.csv"
    path.write_text(csv_text(rows))
    return path


def clean_of(folder, *flags):
    outcome = call("evaluate", [*flags, f"--output={folder}"])
    assert outcome.status == 0, outcome.err
    return json.loads((folder / "report.json").read_text())["clean"], outcome.out


def test_a_run_knows_its_training_images(finished_run, small_csv, leaky, tmp_path):
    data = read_data(small_csv).roles
    kept = workdir.train_hashes(finished_run)
    assert len(kept) == len(data["train"])
    assert is_copy(data["train"], kept).all()
    assert looks_like(data["train"], kept).all()
    assert not is_copy(data["validation"], kept).any()
    report = json.loads((finished_run / "report" / "report.json").read_text())
    assert (report["clean"]["n"], report["clean"]["copies"]) == (35, 0)
    assert report["clean"]["accuracy"] == report["accuracy"]
    clean, said = clean_of(tmp_path / "a", f"--checkpoint={finished_run}", f"--data={leaky}")
    assert (clean["n"], clean["copies"]) == (33, 2)
    assert clean["against"] == "exact copies of the model's training images"
    assert " on 33 images, without 2 exact copies of the model's training images\n" in said
    assert " exact or near copies of the model's training images\n" in said


def test_a_model_file_knows_them_too(finished_run, leaky, tmp_path):
    path = tmp_path / "m.safetensors"
    outcome = call("convert", ["--source=fer_jax", f"--input={finished_run}", f"--output={path}"])
    assert outcome.status == 0, outcome.err
    np.testing.assert_array_equal(
        trained.load(path).train_hashes, workdir.train_hashes(finished_run)
    )
    clean, _ = clean_of(tmp_path / "a", f"--checkpoint={path}", f"--data={leaky}")
    assert (clean["n"], clean["copies"]) == (33, 2)


def test_all_of_an_ensemble_must_tell(finished_run, leaky, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(finished_run, old)
    (old / workdir.HASHES_FILE).unlink()
    model, known, records = trained.load(old), trained.load(finished_run), read_data(leaky)
    records = records.split("validation")
    assert model.train_hashes is None
    assert leakage.by_models([known, model], records) == []
    exact, near = leakage.by_models([known], records)
    assert exact.mask.sum() == 2 <= near.mask.sum()
    (old / workdir.HASHES_FILE).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"cannot read .*train_hashes\.npy"):
        trained.load(old)


@pytest.fixture
def enlarged(small_csv, tmp_path):
    """The run's training images as another set: larger, as JPEG, in class folders."""
    train = read_data(small_csv).roles["train"]
    for i in range(len(train)):
        large = cv2.resize(train.image(i)[..., 0], (100, 100), interpolation=cv2.INTER_CUBIC)
        place = tmp_path / "enlarged" / LABELS[train.labels[i]] / f"{i}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(place), large)
    return tmp_path / "enlarged"


def test_enlarged_training_images_are_known_and_said_first(finished_run, enlarged, tmp_path):
    clean, said = clean_of(tmp_path / "a", f"--checkpoint={finished_run}", f"--data={enlarged}")
    n = clean["n"]
    assert clean["copies"] == 0
    start = said.index(f"WARNING: ALL {n} images are exact or near copies of the model's training")
    assert start < said.index("% accuracy on all")
    assert f"without {n} exact or near copies" not in said


def test_the_door_takes_a_list(finished_run, small_csv, tmp_path):
    keys = read_data(small_csv).roles["validation"].keys
    (tmp_path / "seen.txt").write_text("\n".join(keys[:5]))
    flags = [f"--checkpoint={finished_run}", f"--clean_against={tmp_path / 'seen.txt'}"]
    clean, _ = clean_of(tmp_path / "a", *flags)
    assert (clean["n"], clean["copies"]) == (30, 5)
    assert clean["against"] == f"listed in {tmp_path / 'seen.txt'}"


def test_evaluate_reads_what_it_compares_with_by_the_same_flags(finished_run, tmp_path):
    """Both have folders 1 to 7, which mean nothing by themselves."""
    for i, (role, name, pixels) in enumerate(planted_rows()):
        file = tmp_path / role / role / str(1 + LABELS.index(name)) / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_png(pixels[..., None]))
    flags = [f"--checkpoint={finished_run}", f"--data={tmp_path / 'validation'}"]
    flags += [f"--clean_against={tmp_path / 'train'}", f"--output={tmp_path / 'report'}"]
    assert " label_order=1:" in call("evaluate", flags).refusal()
    outcome = call("evaluate", [*flags, f"--label_order=1:{','.join(LABELS)}"])
    assert outcome.status == 0, outcome.err
    assert "without 1 exact copies of the 14 training images" in outcome.out
