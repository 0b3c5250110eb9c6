"""Soft targets join by key, reach the step beside the labels, and are part of what a run is."""

import itertools
import json
import shutil
import zipfile

import jax
import numpy as np
import pytest
from made_data import SKIP, csv_text, make_rows, opened
from support import call, logged, read_data, small_config, small_run

from fer_jax.data import sidecars
from fer_jax.data.pipeline import Shard, train_batches
from fer_jax.data.records import fingerprint
from fer_jax.data.sidecars import attach, read_targets
from fer_jax.errors import UserError
from fer_jax.evaluation.predictions import Predictions
from fer_jax.labels import LABELS
from fer_jax.train import make_trainer

FERPLUS_NAMES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")


@pytest.fixture(scope="module")
def records(small_csv):
    return read_data(small_csv).roles["train"]


def soft(count, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(7), count).astype(np.float32)


@pytest.fixture(scope="module")
def half(records, tmp_path_factory):
    """A file with targets of every second training image, in another order, and of strangers."""
    path = tmp_path_factory.mktemp("targets") / "half.npz"
    keys = (*reversed(records.keys[::2]), "stranger")
    sidecars.write_targets(path, keys, soft(len(keys)))
    return path


def test_targets_join_by_key_and_the_others_keep_their_labels(records, half):
    joined = attach(records, str(half))
    keys, probabilities = read_targets(str(half))
    for i, key in enumerate(records.keys):
        example = joined[i]
        assert example["key"] == key
        assert example["label"] == records.labels[i]
        if key in keys:
            np.testing.assert_array_equal(joined.targets[i], probabilities[keys.index(key)])
        else:
            np.testing.assert_array_equal(joined.targets[i], np.eye(7)[records.labels[i]])
    assert joined.note == (
        f"targets: 42 of 83 training images have soft targets in {half}; "
        "the other 41 keep their labels"
    )


def test_what_evaluate_writes_is_such_a_file(records, tmp_path):
    given = soft(len(records))
    Predictions(records.keys, records.labels, given, np.zeros(len(records))).save(
        tmp_path / "predictions.npz"
    )
    joined = attach(records, str(tmp_path / "predictions.npz"))
    np.testing.assert_allclose(joined.targets, given, atol=1e-6)
    assert joined.note.endswith("predictions.npz")


def test_batches_have_targets_only_where_records_do(records, half):
    options = {"image_size": 16, "batch_size": 8, "seed": 0, "augmentation": None}
    options |= {"start_step": 3, "shard": Shard(0, 1), "workers": 0}
    plain, joined = (
        list(itertools.islice(train_batches(source, **options), 5))
        for source in (records, attach(records, str(half)))
    )
    place = {image.tobytes(): i for i, image in enumerate(map(image_of(records), range(83)))}
    for one, other in zip(plain, joined, strict=True):
        assert one.keys() == {"image", "label"}
        assert other.keys() == {"image", "label", "target"}
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["label"], other["label"])
        assert (other["target"].shape, other["target"].dtype) == ((8, 7), np.float32)
        expected = attach(records, str(half)).targets
        for image, target in zip(other["image"], other["target"], strict=True):
            np.testing.assert_array_equal(target, expected[place[image.tobytes()]])


def image_of(records):
    """Index -> the image at 16 pixels, as a batch has it."""
    from fer_jax.data.augment import resize

    return lambda index: resize(records.image(index), 16)


def test_the_step_learns_from_them_and_still_counts_by_labels(records, half, small_csv):
    changes = {"data__targets": str(half), "loss__targets_weight": 0.6, "model__dropout": 0.0}
    settings = {"loss__class_weights": "none", "model__drop_connect": 0.0}
    trainer = make_trainer(small_config(small_csv, **changes, **settings), records)
    batch, state = next(trainer.batches(0)), trainer.init()
    logits, _ = trainer.evaluator.model.apply(
        state.variables, batch["image"], train=True, mutable=["batch_stats"]
    )
    labels = np.asarray(batch["label"])
    wanted = 0.6 * np.asarray(batch["target"]) + 0.4 * np.eye(7)[labels]
    expected = -(wanted * np.asarray(jax.nn.log_softmax(logits))).sum() / len(labels)
    _, metrics = trainer.train_step(state, batch)
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["accuracy"]) == np.mean(np.argmax(logits, -1) == labels)


def without(name):
    def change(arrays):
        return {key: value for key, value in arrays.items() if key != name}

    return change


def replaced(**changes):
    return lambda arrays: arrays | changes


GOOD = {"key": np.array(["a", "b"]), "probabilities": soft(2)}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (without("key"), "key"),
        (without("probabilities"), "probabilities"),
        (replaced(key=np.array(["a", "a"])), "each of them once"),
        (replaced(key=np.array([1, 2])), "list of keys"),
        (replaced(key=np.array("a")), "list of keys"),
        (replaced(key=np.array(["a", None])), "cannot read"),
        (replaced(probabilities=soft(3)), r"\[3, 7\]"),
        (replaced(probabilities=soft(2)[:, :6]), r"\[2, 6\]"),
        (replaced(probabilities=np.eye(7, dtype=int)[:2]), "probabilities"),
        (replaced(probabilities=2 * soft(2)), "are no probabilities"),
        (replaced(probabilities=soft(2) * np.nan), "are no probabilities"),
        (
            replaced(probabilities=np.array([[2.0, -1.0, 0, 0, 0, 0, 0]] * 2)),
            "are no probabilities",
        ),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(change, word, tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, **change(GOOD))
    with pytest.raises(UserError, match=word) as caught:
        read_targets(str(path))
    assert "predictions.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"noise", None])
def test_no_npz_is_refused(data, tmp_path):
    path = tmp_path / "t.npz"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=r"cannot read data\.targets"):
        read_targets(str(path))


def test_targets_of_other_data_are_refused(records, tmp_path):
    sidecars.write_targets(tmp_path / "t.npz", ("elsewhere/1",), soft(1))
    with pytest.raises(UserError, match="none of the 83 training images: its first key is"):
        attach(records, str(tmp_path / "t.npz"))


# --- FER+ ---------------------------------------------------------------------------------------

ROWS = make_rows(84)


@pytest.fixture
def ferplus(tmp_path):
    """Data and votes: 6 for the own class, 2 for neutral, 2 for what counts as no class."""
    (tmp_path / "fer2013.csv").write_text(csv_text(ROWS))
    lines = [",".join(sidecars.COLUMNS)]
    for number, (_, name, _) in enumerate(ROWS):
        counts = dict.fromkeys(sidecars.COLUMNS, 0) | {"contempt": 1, "unknown": 1}
        counts[FERPLUS_NAMES[LABELS.index(name)]] += 6
        counts["neutral"] += 2
        if number == 0:
            counts = dict.fromkeys(sidecars.COLUMNS, 0) | {"NF": 9, "contempt": 1}
        lines.append(",".join(str(counts[column]) for column in sidecars.COLUMNS))
    (tmp_path / "fer2013new.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_votes_become_shares_of_the_seven_classes(ferplus):
    output = ferplus / "ferplus.npz"
    data, csv = ferplus / "fer2013.csv", ferplus / "fer2013new.csv"
    outcome = call("targets", [f"--data={data}", f"--ferplus={csv}", f"--output={output}"])
    assert outcome.status == 0, outcome.err
    records = opened(data, SKIP).roles["train"]
    joined, neutral = attach(records, str(output)), LABELS.index("neutral")
    for i, (row, label) in enumerate(zip(records.rows, records.labels, strict=True)):
        shares = 0.75 * np.eye(7)[label] + 0.25 * np.eye(7)[neutral]
        expected = shares if row else np.eye(7)[label]
        np.testing.assert_allclose(joined.targets[i], expected, atol=1e-6)
    known = len(records) - (0 in records.rows)
    assert f"{known} of {len(records)} images of train" in outcome.out


def test_the_front_door_refuses_in_one_line(ferplus, tmp_path):
    data, csv = f"--data={ferplus / 'fer2013.csv'}", f"--ferplus={ferplus / 'fer2013new.csv'}"
    assert ".npz" in call("targets", [data, csv, f"--output={tmp_path / 'a.csv'}"]).refusal()
    place = f"--output={ferplus / 'fer2013.csv' / 'a.npz'}"
    assert "cannot write" in call("targets", [data, csv, place]).refusal()
    flags = [data, f"--ferplus={tmp_path / 'none.csv'}", f"--output={tmp_path / 'a.npz'}"]
    assert "cannot read --ferplus" in call("targets", flags).refusal()


# --- Runs ---------------------------------------------------------------------------------------


def flags_of(data, workdir, path):
    return [*small_run(data, workdir, train__epochs=1), f"--config.data.targets={path}"]


def test_a_run_is_of_its_targets_content_wherever_the_file_lies(half, small_csv, tmp_path):
    workdir = tmp_path / "run"
    first = call("main", flags_of(small_csv, workdir, half))
    assert first.status == 0, first.err
    assert "targets: 42 of 83 training images have soft targets" in first.out
    identity = json.loads((workdir / "run.json").read_text())["identity"]
    assert len(identity["fingerprint.targets"]) == 64
    assert "data.targets" not in identity
    assert len(logged(workdir, "train")) == 11
    moved = tmp_path / "moved.npz"
    shutil.copy(half, moved)
    assert "already finished" in call("main", flags_of(small_csv, workdir, moved)).out
    sidecars.write_targets(moved, ("00000",), soft(1))
    assert "fingerprint.targets: " in call("main", flags_of(small_csv, workdir, moved)).refusal()
    assert "fingerprint.targets: " in call("main", flags_of(small_csv, workdir, "")).refusal()
    gone = tmp_path / "gone.npz"
    assert f"cannot read {gone}" in call("main", flags_of(small_csv, workdir, gone)).refusal()


def test_home_is_understood_behind_a_flag(small_csv, tmp_path, monkeypatch):
    """As shells leave `~` alone behind `=`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    head, line = f"a,{','.join(sidecars.COLUMNS)}\n", "x" + ",1" * len(sidecars.COLUMNS) + "\n"
    (tmp_path / "fer2013new.csv").write_text(head + line * 200)
    flags = [f"--data={small_csv}", "--ferplus=~/fer2013new.csv", "--output=~/made/votes.npz"]
    outcome = call("targets", flags)
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "made" / "votes.npz").exists()


def test_soft_targets_do_not_change_what_the_data_is(records, half, small_csv):
    read = read_data(small_csv, data__targets=str(half))
    assert fingerprint(read)["train"] == records.fingerprint


def test_dry_run_knows_of_targets_and_sizes(half, small_csv, tmp_path):
    flags = [*flags_of(small_csv, tmp_path / "run", half), "--config.train.sizes=(24,32)"]
    outcome = call("main", [*flags, "--dry_run"])
    assert outcome.status == 0, outcome.err
    assert "targets: 42 of 83 training images" in outcome.out
    assert "images at 24 x 24, then 32 x 32 pixels" in outcome.out


def test_a_header_that_breaks_off_is_refused(tmp_path):
    """NumPy's tokenizer has errors of its own."""
    header = b"{'descr': '<f4', (".ljust(117) + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as file:
        file.writestr("key.npy", data)
        file.writestr("probabilities.npy", data)
    with pytest.raises(UserError, match=r"cannot read data\.targets"):
        read_targets(str(tmp_path / "t.npz"))
