"""Turns, the choice of each peer's setting, and what becomes of those that fail."""

import pytest
from conftest import ANSWER, Made

from experiments.benchmark import comparisons, grid, table, timer
from experiments.benchmark.grid import Entry

WRONG = {**ANSWER, "train_loss": 0.7}
REFERENCE = ("cpu", ANSWER)


def compared(timing, peers, ours=None):
    entries = [Entry(name, "", "") for name in peers]
    return timer.compare(ours or Made("fer_jax", [20.0]), REFERENCE, entries, timing(peers))


def test_turns_alternate_and_each_pair_has_its_ratio(timing):
    diary = []
    ours, peer = Made("A", [20.0, 40.0, 90.0], diary), Made("B", [10.0, 40.0, 30.0], diary)
    row = timer.duel(ours, peer, timing({}))
    assert diary == ["A", "B"] * 3
    assert row["ratios"] == [2, 1, 3]
    assert (row["median"], row["min"], row["max"]) == (2, 1, 3)  # of the medians it is 4 / 3
    assert row["fer_jax"]["images_per_second"] == 40
    assert row["peer"]["peak_mib"] == 1234


def test_the_grid_is_visited_there_and_back_and_the_mean_rate_chooses(timing):
    """The machine is slow at first: what is first there is last back."""
    diary = []
    peers = {"first": Made("first", [10.0, 30.0], diary), "last": Made("last", [20.0, 10.0], diary)}
    row = compared(timing, peers, Made("fer_jax", [60.0], diary))
    assert diary == ["first", "last", "last", "first"] + ["fer_jax", "first"] * 3
    assert [line["rates"] for line in row["grid"]] == [[10, 30], [20, 10]]
    assert [line["rate"] for line in row["grid"]] == [20, 15]
    assert (row["status"], row["median"], row["peer"]["name"]) == (timer.MEASURED, 2, "first")


def test_one_lucky_visit_chooses_nobody(timing):
    peers = {"lucky": Made("lucky", [30.0, 10.0]), "steady": Made("steady", [24.0])}
    assert compared(timing, peers)["peer"]["name"] == "steady"


def test_one_peer_at_a_time_waits_beside_ours(timing):
    peers, started = {"slow": Made("slow", [10.0]), "fast": Made("fast", [30.0])}, []

    def start(entry):
        assert all(peers[name].closed for name in started), "two peers at once"
        started.append(entry.name)
        return peers[entry.name]

    entries = [Entry(name, "", "") for name in peers]
    timer.compare(Made("fer_jax", [1.0]), REFERENCE, entries, timing(start))
    assert started == ["slow", "fast", "fast", "slow", "fast"]
    assert all(peer.closed for peer in peers.values())


def test_who_disagrees_is_never_timed(timing):
    diary = []
    peers = {"wrong": Made("wrong", [1e6], diary, [WRONG]), "right": Made("right", [10.0], diary)}
    row = compared(timing, peers)
    assert "wrong" not in diary
    assert (row["status"], row["peer"]["name"]) == (timer.MEASURED, "right")
    assert row["grid"][0]["status"] == timer.DISAGREEMENT
    assert "train_loss differ" in row["grid"][0]["reason"]


def test_the_process_that_takes_turns_has_agreed_itself(timing):
    diary = []
    row = compared(timing, {"peer": Made("peer", [10.0], diary, [ANSWER, ANSWER, WRONG])})
    assert row["status"] == timer.DISAGREEMENT
    assert len(diary) == 2  # two visits, no turn
    assert "median" not in row


def test_nobody_who_agrees_is_a_disagreement_without_figures(timing):
    row = compared(timing, {"gone": "no torch", "wrong": Made("wrong", [10.0], [], [WRONG])})
    assert row["status"] == timer.DISAGREEMENT
    assert not row.keys() & {"median", "min", "max", "ratios", "fer_jax", "peer"}
    line = next(l for l in table.table({"comparisons": {"train_vs_torch": row}}) if "training" in l)
    assert line.startswith("| training step, torch | | | disagreement: train_loss differ")
    assert table.failures({"comparisons": {"train_vs_torch": row}})


def test_who_fails_is_listed_with_the_reason_and_the_rest_goes_on(timing):
    peers = {"missing": "No module named 'torch'", "stays": Made("stays", [10.0])}
    row = compared(timing, peers)
    assert [line["status"] for line in row["grid"]] == [timer.NOT_RUN, timer.MEASURED]
    assert row["grid"][0]["reason"] == peers["missing"]
    assert row["peer"]["name"] == "stays"
    assert compared(timing, {"missing": "no torch"})["status"] == timer.NOT_RUN


def test_other_devices_are_not_compared(timing):
    row = compared(timing, {"gpu": Made("gpu", [10.0], platform="gpu")})
    assert (row["status"], row["reason"]) == ("not run", "it computes on gpu, fer_jax on cpu")


def test_comparisons_go_on_where_a_library_is_missing(timing):
    def start(entry):
        missing = entry.module.endswith(("torch_peer", "onnx_peer"))
        ours = entry.name.startswith("fer_jax")
        return "No module named 'it'" if missing else Made(entry.name, [40.0 if ours else 10.0])

    names = ["train_vs_torch", "train_vs_tensorflow", "infer_vs_onnxruntime", "whole_loop"]
    found = dict(comparisons.comparisons(names, timing(start), gpu=False))
    assert list(found) == names
    assert found["train_vs_tensorflow"]["median"] == pytest.approx(4)
    assert found["train_vs_torch"]["reason"] == "No module named 'it'"
    assert table.failures({"comparisons": found}) == []
    lines = "\n".join(table.table({"comparisons": found}))
    assert "| training step, torch | | | not run: No module named 'it' |" in lines
    assert "40 images/s | 10 images/s | 4.00 (4.00 to 4.00) |" in lines
    assert "1.00 (1.00 to 1.00), waits for data 25.0 % of the time |" in lines
    assert "| peak memory in training, tensorflow, 1 threads" in lines


def test_without_fer_jax_the_benchmark_fails(timing):
    found = dict(comparisons.comparisons(["train_vs_torch"], timing(lambda e: "it is dead"), False))
    assert found == {"train_vs_torch": {"status": "failed", "reason": "fer_jax: it is dead"}}
    assert table.failures({"comparisons": found}) == ["train_vs_torch: failed: fer_jax: it is dead"]


@pytest.mark.parametrize("name", grid.NAMES)
def test_every_peer_may_have_the_memory_and_threads_that_fer_jax_has(name):
    task, peer = name.split("_vs_")
    for gpu in (False, True):
        entries = grid.grid(peer, task, 4, gpu)
        assert len({entry.name for entry in entries}) == len(entries) > 1
        given = [entry.environment for entry in entries]
        assert all(allocator in given for allocator in grid.ALLOCATORS.values())
    assert {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}.items() <= grid.ours(
        task
    ).environment.items()
