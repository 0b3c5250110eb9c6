"""Contestants as real processes, their agreement, the product's own, the time to a first step."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import ANSWER
from support import call

from experiments.benchmark import comparisons, memory, ours, shared, table, timer
from experiments.benchmark.grid import Entry
from experiments.benchmark.timer import Child, NotRunError


def test_a_child_takes_turns_in_its_own_environment(settings, made_module):
    options, environment = {"seconds": 0.02, "untimed": 3}, {"GLIBC_TUNABLES": "glibc.malloc.x=1"}
    with Child(Entry("made", made_module, "", options, environment), settings) as child:
        told = child.ask(timer.answer)["environment"]
        assert told["GLIBC_TUNABLES"] == "glibc.malloc.x=1"
        assert "LD_PRELOAD" not in told
        speed, waits = child.ask(timer.turn, 0.2)
        assert 20 < speed < 200  # 4 images in 0.02 s: the untimed calls do not count
        assert waits < 0.1


def test_a_childs_memory_is_its_own_not_its_parents(settings, made_module):
    """Linux lets `ru_maxrss` begin at the parent's: a large one would have hidden every child."""
    large = np.ones(2**27)  # 1,024 MiB
    with Child(Entry("made", made_module, ""), settings) as child:
        assert 5 < child.ask(timer.peak_mib) < large.nbytes / 2**20 / 2


def test_the_peak_is_known_without_linuxs_tables(monkeypatch, tmp_path):
    told = memory.peak_mib()
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "missing")
    assert memory.peak_mib() > 0.9 * told > 5


def test_children_compute_one_at_a_time(settings, made_module, tmp_path, timing):
    diary = tmp_path / "diary"
    one, other = (
        Entry(name, made_module, "", {"seconds": 0.01, "diary": str(diary), "name": name})
        for name in "AB"
    )
    with Child(one, settings) as first, Child(other, settings) as second:
        first.ask(timer.turn, 0.03), second.ask(timer.turn, 0.03), first.ask(timer.turn, 0.03)
    lines = [line.split() for line in diary.read_text().splitlines()]
    assert "".join(dict.fromkeys(name for name, _, _ in lines)) == "AB"
    ends, starts = [float(line[2]) for line in lines], [float(line[1]) for line in lines]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


def test_a_missing_library_or_module_is_the_reason(settings, made_module):
    with pytest.raises(NotRunError, match="No module named 'a_library_that_is_not_there'"):
        Child(Entry("made", made_module, "missing"), settings)
    with pytest.raises(NotRunError, match="No module named 'no_such_module'"):
        Child(Entry("made", "no_such_module", ""), settings)


def test_a_process_that_dies_says_its_last_words(settings, made_module):
    child = Child(Entry("made", made_module, "", {"dies": True}), settings)
    with pytest.raises(NotRunError, match="has died: out of everything"):
        child.ask(timer.answer)


@pytest.mark.parametrize(
    ("peer", "word"),
    [
        ({}, ""),
        ({"train_loss": 0.5004}, ""),
        ({"train_loss": 0.502}, "train_loss differ"),
        ({"train_loss": float("nan")}, "train_loss differ"),
        ({"logits": [[1.01, -1.0], [-2.0, 2.0]]}, "logits differ"),
        ({"logits": [[1.0, -1.0]]}, "logits differ"),
        ({"mean": 1.0}, "they answer"),
    ],
)
def test_a_difference_is_told(peer, word):
    objection = shared.agree(ANSWER, {**ANSWER, **peer})[1]
    assert word in objection
    assert bool(word) == bool(objection)


def test_dead_networks_do_not_agree():
    dead = {"logits": [[1.0, -1.0], [1.0, -1.0]]}
    assert "the same" in shared.agree(dead, dead)[1]
    assert shared.agree({}, {})[1]


def test_fer_jax_takes_its_turns(settings, monkeypatch):
    """The product's own steps: weights written and read, answers whole, a turn of each task."""
    made = ours.make("prepare", settings, {})
    answer = made.answer()
    assert answer["logits"].shape == (8, shared.CLASSES)
    assert not shared.agree(answer, answer)[1]  # healthy weights tell images apart
    one = ours.make("latency", settings, {})
    assert one.answer()["logits"] == pytest.approx(answer["logits"][:4], abs=1e-4)

    step = ours.make("loop", settings, {})
    losses = step.answer()
    assert losses["train_loss"] != losses["later_loss"]
    monkeypatch.setattr(timer, "present", [step])
    speed, waits = timer.turn(0.2)
    assert speed > 0
    assert 0 < waits < 1

    pipeline = ours.make("pipeline", settings, {"workers": 0})
    seen = pipeline.answer()
    assert seen["bytes"] == shared.SAMPLED * 8 * 32 * 32
    assert 60 < seen["mean"] < 200


def test_calls_are_timed_to_their_last_result():
    """A deque of results is no pytree: block_until_ready let the last of them go on."""
    import jax
    import jax.numpy as jnp

    slow = jax.jit(lambda x: jax.lax.fori_loop(0, 40, lambda _, x: x @ x / 512, x))
    x = jnp.ones((512, 512))
    contestant = shared.Contestant({}, 1, dict, iter(()), slow)
    lagging = ours.lagging(contestant)
    results = [lagging.call(x) for _ in range(4)][-1]
    lagging.wait(results)
    assert 0 < len(results) < 4
    assert all(result.is_ready() for result in results)


def test_the_first_step_is_timed_cold_and_warm(timing):
    row = comparisons.first_step(timing({}))
    assert row["seconds"].keys() == {"cold", "warm"}
    last = list(table.table({"comparisons": {"first_step": row}}))[-1]
    assert last.startswith("| from process start to the first step | ")
    assert " s cold, " in last


def test_a_first_step_that_never_comes_is_a_failure(timing):
    broken = timing({})
    settings = dataclasses.replace(broken.settings, variant="b99")
    broken = dataclasses.replace(broken, settings=settings)
    found = {"comparisons": dict(comparisons.comparisons(["first_step"], broken, gpu=False))}
    assert found["comparisons"]["first_step"]["status"] == timer.FAILED
    assert "b99" in table.failures(found)[0]


def test_paths_of_the_machine_stay_out_of_the_json(settings):
    found = table.about(settings, 3, 1.0)
    assert found["settings"]["config"] == "configs/b2_scratch.py"
    assert settings.folder not in json.dumps(found)


@pytest.mark.parametrize("flag", ["--compare=train_vs_torch,nonsense", "--turns=0", "--batch=x"])
def test_a_mistyped_flag_is_one_line(flag):
    assert (
        flag.partition("=")[0].strip("-")
        in call("benchmark.__main__", [flag], package="experiments").refusal()
    )
