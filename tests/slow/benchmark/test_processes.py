"""Contestants as real processes, their common input, the time to the first step, the flags."""

import dataclasses
import json

import numpy as np
import pytest
from made_contestants import documented
from support import call

from experiments.benchmark import inputs, processes, report, turns
from experiments.benchmark.agreement import agree
from experiments.benchmark.children import Child, Entry, NotRunError
from experiments.benchmark.choice import (
    MEASURED,
)
from experiments.benchmark.processes import Training
from experiments.benchmark.settings import ROOT, config_of
from fer_jax.data.sources import ReadOptions, open_dataset


def test_a_child_answers_and_takes_turns(settings, made_room):
    options = {"seconds": 0.05, "untimed": 100}
    with Child(Entry("made", made_room, "train", options), settings) as child:
        assert child.about["device"] == "made"
        assert child.examples == 4
        assert child.answer() == {"loss": 1.0}
        assert 0.15 <= child.seconds(3) < 5  # without the untimed calls before
        assert child.turns[0]["calls"] == 103


def test_a_childs_memory_is_its_own_not_its_parents(settings, made_room):
    """Linux lets `ru_maxrss` begin at the parent's: a large one would have hidden every child."""
    large = np.ones(2**27)  # 1,024 MiB
    with Child(Entry("made", made_room, "train"), settings) as child:
        assert 5 < child.memory()["peak_mib"] < large.nbytes / 2**20 / 2


def test_children_compute_one_at_a_time(settings, made_room, tmp_path):
    diary = tmp_path / "diary"
    entries = [
        Entry(name, made_room, "train", {"seconds": 0.01, "diary": str(diary), "name": name})
        for name in "AB"
    ]
    with Child(entries[0], settings) as one, Child(entries[1], settings) as other:
        turns.alternate(one, other, 2, (1, 1))
    lines = [line.split() for line in diary.read_text().splitlines()]
    assert [name for name, _, _ in lines] == ["A", "A", "B", "B"] * 2  # untimed, then timed
    ends, starts = [float(line[2]) for line in lines], [float(line[1]) for line in lines]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


def test_a_missing_library_is_the_reason(settings, made_room):
    with pytest.raises(NotRunError, match="No module named 'a_library_that_is_not_there'"):
        Child(Entry("made", made_room, "missing"), settings)


def test_a_room_that_is_not_there_is_the_reason(settings):
    with pytest.raises(NotRunError, match="No module named 'no_such_room'"):
        Child(Entry("made", "no_such_room", "train"), settings)


def test_a_process_that_dies_says_its_last_words(settings, made_room):
    with (
        Child(Entry("made", made_room, "train", {"dies": True}), settings) as child,
        pytest.raises(NotRunError, match="ended with 1: out of everything"),
    ):
        child.answer()


def test_patience_has_an_end(settings, made_room):
    entry = Entry("made", made_room, "train", {"thinks": 60})
    with Child(entry, settings) as child:
        child.patience = 0.2
        with pytest.raises(NotRunError, match=r"no answer within 0\.2 s"):
            child.answer()


def test_paths_of_the_machine_stay_out_of_the_document(settings, tmp_path):
    found = documented(dataclasses.replace(settings, data=str(tmp_path / "faces.zip")), {})
    assert found["settings"]["config"] == "configs/b2_scratch.py"
    assert found["settings"]["data"] == "faces.zip"
    assert str(ROOT) not in json.dumps(found)


def test_the_config_is_the_products_without_random_depth(settings):
    config = config_of(dataclasses.replace(settings, variant="b2", size=96, batch=64))
    assert (config.model.variant, config.model.dropout) == ("b2", 0.3)
    assert (config.model.drop_connect, config.schedule.name) == (0.0, "constant")
    assert all(dataclasses.asdict(config.augment).values())
    assert config_of(settings, dropout=False).model.dropout == 0
    assert config_of(settings, dtype="bfloat16").model.dtype == "bfloat16"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_whatever_the_recipe_the_loss_is_the_peers(settings, path):
    loss = config_of(dataclasses.replace(settings, config=str(path), size=96)).loss
    assert (loss.class_weights, loss.label_smoothing) == ("none", 0.0)


def test_all_contestants_are_given_the_same_batches(settings):
    one, other = inputs.step_batches(settings), inputs.step_batches(settings)
    for first, second in zip(one, other, strict=True):
        assert (first["image"] == second["image"]).all()
        assert (first["label"] == second["label"]).all()
    assert one[0]["image"].shape == (8, 32, 32, 3)
    assert one[0]["image"].dtype == np.uint8
    assert (one[0]["image"] != one[1]["image"]).any()


def test_the_data_of_the_first_step_are_a_data_set(settings, tmp_path):
    path = tmp_path / "fer2013.csv"
    processes.write_csv(path, count=12)
    options = ReadOptions("", "stop", 0.1, 0, 10_000, 100, "", "")
    data = open_dataset(str(path), options)
    assert len(data.split("train")) == 12
    assert len(data.split("validation")) == 7
    assert (data.split("train").counts() > 0).all()


def test_a_first_step_that_never_comes_says_why(settings, tmp_path):
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n0,nonsense,Training\n")
    with pytest.raises(NotRunError, match="fer2013"):
        processes.first_step(settings, tmp_path, "cold")


def test_a_whole_run_is_timed_to_its_end_cold_and_warm(settings, small_csv, tmp_path):
    training = Training(str(ROOT / "configs/smoke.py"), 1, str(small_csv))
    seconds = processes.whole_runs(training, str(tmp_path))
    assert seconds.keys() == {"cold", "warm"}
    assert all(0 < value < 600 for value in seconds.values())
    assert training.about() == {"recipe": "smoke.py", "data": "fer2013.csv", "epochs": 1}
    timed = {"whole_run": {"status": MEASURED, "seconds": seconds}}
    lines = list(report.table(documented(settings, {}, timed)))
    assert lines[1].startswith("whole_run")
    assert lines[1].endswith("from process start to the end")


def test_a_whole_run_that_fails_says_its_last_words(tmp_path):
    training = Training(str(ROOT / "configs/smoke.py"), 1, str(tmp_path / "nowhere"))
    with pytest.raises(NotRunError, match=r"ended with 2: error: .*nowhere"):
        processes.whole_runs(training, str(tmp_path))


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--compare=train_vs_torch,nonsense", "--compare=nonsense is not one of train_vs_torch"),
        ("--turns=0", "must be positive"),
        ("--whole_epochs=0", "--whole_epochs=0 must be positive"),
        ("--batch=64,none", "--batch=64,none must be numbers"),
    ],
)
def test_a_mistyped_flag_is_one_line(flag, words):
    assert words in call("benchmark.__main__", [flag], package="experiments").refusal()


def test_fer_jax_takes_its_turns(settings):
    """The product's own steps: weights written and read, answers whole, a turn of each task."""
    from experiments.benchmark import ours

    ours.make("prepare", settings, {})
    step = ours.make("loop", settings, {})
    answer = step.answer()
    assert answer.keys() == {"logits", "loss", "train_loss", "later_loss", "statistics"}
    assert not agree(answer, answer).objection  # healthy weights tell images apart
    assert answer["train_loss"] != answer["later_loss"]
    step.run(2)
    assert step.extras()["waited"] > 0
    assert step.bytes_per_call() > 2 * settings.file(inputs.MODEL).stat().st_size
    pipeline = ours.make("pipeline", settings, {"workers": 0})
    pipeline.run(2)
    seen = pipeline.answer()
    assert np.shape(seen["plain"]) == (inputs.PLAIN, 32, 32)
    assert 60 < seen["mean"] < 200
