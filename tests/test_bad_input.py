"""A user's mistake ends in one line, exit status 2, and nothing that existed is changed."""

import json
import shutil

import jax
import numpy as np
import pytest
from made_data import kaggle_files, make_rows, seed_files, write_folder
from safetensors.numpy import save_file
from support import call, contents, run, small_run

from fer_jax import train
from fer_jax.labels import LABELS


@pytest.fixture
def place(tmp_path):
    """A folder with a data set and somebody's notes; it must stay as it is."""
    write_folder(tmp_path / "faces", seed_files(make_rows(63), root=""))
    (tmp_path / "notes.txt").write_text("mine")
    return tmp_path


@pytest.fixture
def refused(place):
    """Runs a door with flags -> its one line, having checked that nothing was touched."""

    def refuse(door, *flags):
        before = contents(place), sorted(place.rglob("*"))
        line = call(door, flags).refusal()
        assert (contents(place), sorted(place.rglob("*"))) == before
        assert "Traceback" not in line
        return line

    return refuse


def flags_of(place, **changes):
    return small_run(place / "faces", place / "run", **changes)


@pytest.mark.slow
def test_a_mistyped_override_names_the_nearest_key(place):
    """As a process: this is refused by the flags' library, before any of our code runs."""
    before = contents(place)
    outcome = run("main", [*flags_of(place), "--config.optimizer.learning_rat=0.1"])
    line = outcome.refusal()
    assert "learning_rat'" in line
    assert "did you mean 'learning_rate'" in line
    assert not outcome.out
    assert contents(place) == before


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.optimizer.learning_rat=0.1", ["learning_rat", "'learning_rate'"]),
        ("--config.optimiser.name=sgd", ["optimiser"]),
        ("--config.train.epochs=many", ["train.epochs", "many"]),
        ("--config.train.epochs=1.5", ["train.epochs", "1.5"]),
        ("--config.augment.flip=perhaps", ["augment.flip", "perhaps"]),
        ("--config=configs/missing.py", ["configs/missing.py"]),
        ("--config=pyproject.toml", ["pyproject.toml"]),
        ("--workdirr=elsewhere", ["workdirr"]),
        ("elsewhere", ["unexpected argument", "elsewhere"]),
        ("--process=two", ["process", "two"]),
    ],
)
def test_flags(place, refused, flag, words):
    line = refused("main", *flags_of(place), flag)
    assert all(word in line for word in words), line


def test_no_config(refused):
    assert "--config=configs/smoke.py" in refused("main")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__path": "/no/such/place"}, ["/no/such/place", "does not exist"]),
        ({"data__path": ""}, ["no data path", "Kaggle", "data.path"]),
        ({"data__image_size": 64, "model__head_padding": "VALID"}, ["64", "65", "SAME"]),
        ({"model__variant": "b8"}, ["'b8'", "b7"]),
        ({"optimizer__name": "adamm"}, ["'adamm'", "adamw"]),
        ({"schedule__name": "cosinus"}, ["'cosinus'", "cosine"]),
        ({"checkpoint__select_by": "acuracy"}, ["'acuracy'", "accuracy"]),
        ({"loss__class_weights": "max"}, ["'max'", "max_ratio"]),
        ({"data__on_corrupt": "ignore"}, ["'ignore'", "skip"]),
        ({"augment__zoom": 2.0}, ["zoom", "2", "0.9"]),
        ({"model__dropout": 1.5}, ["dropout", "1.5", "0.99"]),
        ({"train__batch_size": 0}, ["train.batch_size", "0", "1"]),
    ],
)
def test_values(place, refused, changes, words):
    line = refused("main", *flags_of(place, **changes))
    assert all(word in line for word in words), line


def test_a_batch_that_does_not_divide(place, refused, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda *_: 3)
    line = refused("main", *flags_of(place))
    assert "batch_size=8" in line
    assert "3 devices" in line


def test_an_unknown_class_folder(place, refused):
    (place / "faces" / "train" / "hapy").mkdir()
    shutil.copy(next((place / "faces" / "train" / "happy").iterdir()), place / "faces/train/hapy")
    line = refused("main", *flags_of(place))
    assert "unknown class 'hapy'; did you mean 'happy'" in line


def test_an_empty_class_in_training(place, refused):
    shutil.rmtree(place / "faces" / "train" / "fear")
    line = refused("main", *flags_of(place))
    assert "no training image of fear" in line


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("audit", ["--data={}"]),
        ("prepare", ["--source=faces", "--output={}"]),
        ("evaluate", ["--checkpoint={}"]),
        ("targets", ["--data=faces", "--ferplus={}", "--output=a.npz"]),
    ],
)
def test_a_name_that_is_too_long(place, refused, monkeypatch, command, flags):
    monkeypatch.chdir(place)
    line = refused(command, *(flag.format("a" * 300) for flag in flags))
    assert "a" * 300 in line


def test_a_truncated_image(place, refused):
    image = sorted((place / "faces" / "train" / "sad").iterdir())[0]
    image.write_bytes(image.read_bytes()[:-30])
    line = refused("main", *flags_of(place))
    for words in (
        f"train/sad/{image.name}",
        "Truncated File Read",
        "1 image",
        "set on_corrupt=skip",
    ):
        assert words in line


def test_what_is_skipped_on_request_is_listed_in_the_workdir(place, monkeypatch):
    image = sorted((place / "faces" / "train" / "sad").iterdir())[0]
    image.write_bytes(image.read_bytes()[:-30])

    def no_training(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "fit", no_training)
    outcome = call("main", flags_of(place, data__on_corrupt="skip"))
    assert outcome.status == 130
    assert f"left out: 1 image (train/sad/{image.name}: Truncated File Read)" in outcome.out
    (line,) = (place / "run" / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line) == {"name": f"train/sad/{image.name}", "reason": "Truncated File Read"}


def test_a_row_with_a_pixel_too_few(place, refused, small_csv):
    lines = small_csv.read_text().splitlines()
    label, pixels, usage = lines[1 + 17].split(",")
    lines[1 + 17] = ",".join([label, pixels.rsplit(" ", 1)[0], usage])
    table = place / "fer2013.csv"
    table.write_text("\n".join(lines) + "\n")
    line = refused("main", *small_run(table, place / "run"))
    for words in ("row 17", "2,303 pixels instead of 2,304", str(table)):
        assert words in line


def test_data_without_a_training_part(place, refused):
    shutil.rmtree(place / "faces" / "train")
    assert "no split 'train'" in refused("main", *flags_of(place))


def test_a_workdir_that_cannot_be_written(place, refused):
    """Below a regular file: also root cannot make a folder there."""
    workdir = place / "notes.txt" / "run"
    line = refused("main", *small_run(place / "faces", workdir))
    for words in (str(workdir), "cannot be written", "--workdir"):
        assert words in line


def test_a_workdir_whose_name_is_too_long(place, refused):
    """As with one that may not be looked into, the system refuses even to say whether it is."""
    line = refused("main", *small_run(place / "faces", place / ("a" * 300)))
    assert "cannot be written" in line
    assert "--workdir" in line


def test_a_workdir_that_is_a_file(place, refused):
    line = refused("main", *small_run(place / "faces", place / "notes.txt"))
    assert "notes.txt" in line
    assert "--workdir" in line


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[]", '{"identity": {}}'])
def test_a_workdir_whose_description_is_broken(place, refused, text):
    (place / "run").mkdir()
    (place / "run" / "run.json").write_text(text)
    assert "run.json" in refused("main", *flags_of(place))


@pytest.fixture
def other_labels(finished_run, tmp_path):
    """A finished run that says of itself that its classes are in another order."""
    workdir = tmp_path / "place" / "foreign"
    shutil.copytree(finished_run, workdir)
    about = json.loads((workdir / "run.json").read_text())
    about["labels"] = [*LABELS[1:], LABELS[0]]
    (workdir / "run.json").write_text(json.dumps(about))
    return workdir


def test_a_checkpoint_of_other_labels(other_labels, small_csv, tmp_path):
    before = contents(tmp_path)
    flags = [f"--checkpoint={other_labels}", f"--data={small_csv}", f"--output={tmp_path / 'new'}"]
    line = call("evaluate", flags).refusal()
    assert "labels disgust,fear" in line
    assert ",".join(LABELS) in line
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["give --checkpoint: Folder of a run"]),
        (["--checkpoint=/no/such/run"], ["/no/such/run: no such file or folder"]),
        (["--checkpoint=PLACE"], ["holds no run"]),
        (["--checkpoint=RUN", "--split=exam"], ["split", "exam", "validation"]),
        (["--checkpoint=RUN", "--data=/no/such/data"], ["/no/such/data"]),
        (["--checkpoint=RUN", "--data=PLACE/nothing"], ["holds no known layout"]),
        (["--checkpoint=RUN", "--data=PLACE/kaggle", "--split=validation"], ["no split"]),
        (["--checkpoint=RUN", "--data=PLACE/numbered"], [" label_order=1:angry"]),
        (["--checkpoint=RUN", "--data=PLACE/empty"], ["an empty file", "set on_corrupt=skip"]),
    ],
)
def test_evaluate(refused, place, finished_run, flags, words):
    (place / "nothing").mkdir()
    rows = [row for row in make_rows(63) if row[0] == "test"]
    write_folder(place / "kaggle", kaggle_files(rows))
    write_folder(place / "numbered" / "test", {f"{n}/{n}.png": b"" for n in range(1, 8)})
    write_folder(place / "empty" / "test", {f"{name}/{name}.png": b"" for name in LABELS})
    flags = [f.replace("PLACE", str(place)).replace("RUN", str(finished_run)) for f in flags]
    before = contents(finished_run)
    line = refused("evaluate", *flags)
    assert all(word in line for word in words), line
    assert contents(finished_run) == before


def test_evaluate_where_the_report_cannot_be_written(refused, place, finished_run):
    flags = [f"--checkpoint={finished_run}", f"--output={place / 'notes.txt' / 'report'}"]
    assert "notes.txt" in refused("evaluate", *flags)


def test_evaluate_of_a_run_that_has_no_checkpoint_yet(refused, place, finished_run):
    shutil.copytree(finished_run, place / "young", ignore=shutil.ignore_patterns("checkpoints"))
    assert "has no checkpoints yet" in refused("evaluate", f"--checkpoint={place / 'young'}")


def test_ctrl_c_before_training_is_one_line(place, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "open_dataset", interrupted)
    outcome = call("main", flags_of(place))
    assert outcome.status == 130
    assert outcome.err == "error: interrupted\n"


def test_a_name_of_two_lines_is_told_in_one(place, refused):
    save_file({"stem\nkernel": np.zeros(3, np.float32)}, place / "m.safetensors")
    flags = ["--source=timm", "--variant=tiny", "--image_size=96"]
    line = refused(
        "convert", f"--input={place}/m.safetensors", f"--output={place}/o.safetensors", *flags
    )
    assert "stem\\nkernel" in line
