"""Rounds, memory traffic, the JSON and the table."""

import dataclasses
import json
from typing import Any

import pytest
from made_contestants import LENGTH, Made, compared, documented, measured, starting

from experiments.benchmark import bandwidth, comparisons, processes, report
from experiments.benchmark.children import ALLOCATORS, Entry, NotRunError
from experiments.benchmark.choice import (
    DISAGREEMENT,
    FAILED,
    MEASURED,
    NOT_RUN,
)
from experiments.benchmark.comparisons import Result
from experiments.benchmark.processes import Training
from experiments.benchmark.rounds import Round, alone, rounds
from experiments.benchmark.settings import Settings


def test_traffic_is_bytes_by_seconds_and_a_share_where_the_device_is_known():
    found = bandwidth.traffic(moved=6e9, seconds=0.005, device="NVIDIA H200")
    assert found == {
        "gigabytes": pytest.approx(6),
        "gigabytes_per_second": pytest.approx(1200),
        "nominal_gigabytes_per_second": pytest.approx(4800),
        "share_of_nominal": pytest.approx(0.25),
    }
    assert bandwidth.traffic(6e9, 0.005, "cpu").keys() == {"gigabytes", "gigabytes_per_second"}


def test_the_traffic_is_of_one_call_in_the_time_of_one(settings):
    result = compared(settings, Made("fer_jax", [20.0], []), {"peer": Made("peer", [10.0], [])})
    assert result.fer_jax["traffic"]["gigabytes_per_second"] == pytest.approx(2)  # 1 GB, 0.5 s


def test_the_best_workers_of_our_pipeline_are_compared_and_named(settings):
    speeds = {"fer_jax, 0 workers": 20.0, "fer_jax, 2 workers": 40.0}

    def start(entry: Entry, settings: Settings) -> Any:
        return Made(entry.name, [speeds.get(entry.name, 10.0)], [])

    one = Round(settings, False, LENGTH, ("pipeline_vs_torch",), lambda text: None, start)
    found = dict(one.results())
    result = found["pipeline_vs_torch"]
    assert result.median == pytest.approx(4)
    assert {row["name"]: row["rate"] for row in result.fer_jax_grid} == pytest.approx(speeds)
    line = list(report.table(documented(settings, found)))[1]
    assert "fer_jax, 2 workers against DataLoader" in line


def test_what_fails_of_fer_jax_itself_is_a_failure(settings, monkeypatch, tmp_path):
    def broken(settings: Settings) -> dict[str, float]:
        raise NotRunError("ModuleNotFoundError: No module named 'platformdirs'")

    monkeypatch.setattr(processes, "first_steps", broken)
    first = Round(settings, False, LENGTH, (), lambda text: None)
    loop, timed = alone(("first_step",), first, Training("configs/b2.py", 8, ""))
    found = documented(settings, loop, timed)
    assert found["first_step"]["status"] == FAILED
    words = "first_step: failed: ModuleNotFoundError: No module named 'platformdirs'"
    assert report.failures(found) == [words]
    absent = Result(NOT_RUN, "ModuleNotFoundError: No module named 'torch'")
    assert not report.failures(documented(settings, {"train_vs_torch": absent}))
    for status in (DISAGREEMENT, FAILED):
        wrong = {"train_vs_torch": Result(status, "why")}
        assert report.failures(documented(settings, wrong)) == [f"train_vs_torch: {status}: why"]


def test_every_comparison_has_a_grid_of_named_contestants():
    for name in comparisons.NAMES:
        for gpu in (False, True):
            names = [entry.name for entry in comparisons.grid(name, 4, gpu)]
            assert len(names) == len(set(names)) > 1, name


def test_the_torch_grid_names_layout_mode_and_threads():
    names = " ".join(entry.name for entry in comparisons.grid("train_vs_torch", 2, gpu=False))
    for word in ("eager", "compiled", "channels_last", "contiguous", "2 threads", "1 threads"):
        assert word in names


@pytest.mark.parametrize("name", comparisons.NAMES)
def test_every_peer_may_have_the_memory_that_fer_jax_has(name):
    ours = comparisons.our_entry(name.split("_vs_")[0]).environment
    assert ours == {k: v for given in ALLOCATORS.values() for k, v in given.items()}
    given = [entry.environment for entry in comparisons.grid(name, 2, gpu=False)]
    assert all(allocator in given for allocator in ALLOCATORS.values())


def test_a_round_goes_on_where_a_contestant_is_missing(settings):
    def start(entry: Entry, settings: Settings) -> Any:
        if entry.room.endswith(("torch_peer", "onnx_peer")):
            raise NotRunError("ModuleNotFoundError: No module named 'torch'")
        return Made(entry.name, [40.0] if entry.name == "fer_jax" else [10.0], [])

    names = ("train_vs_torch", "train_vs_tensorflow", "infer_vs_onnxruntime", "latency_vs_torch")
    found = dict(Round(settings, False, LENGTH, names, lambda text: None, start).results())
    assert list(found) == list(names)
    assert found["train_vs_tensorflow"].median == pytest.approx(4)
    assert "No module named 'torch'" in found["train_vs_torch"].reason
    assert found["infer_vs_onnxruntime"].reason.startswith("no ONNX file: ")
    assert found["latency_vs_torch"].status == NOT_RUN


def test_a_round_without_fer_jax_says_so(settings):
    start = starting({"fer_jax": "its process ended with -9"})
    one = Round(settings, False, LENGTH, ("train_vs_torch",), lambda text: None, start)
    assert dict(one.results())["train_vs_torch"].reason == "fer_jax: its process ended with -9"


def test_rounds_vary_what_depends_on_batch_and_precision(settings):
    first = Round(settings, True, LENGTH, comparisons.NAMES, lambda text: None)
    found = dict(rounds(first, ("float32", "bfloat16"), (8, 16)))
    assert list(found) == ["", "@float32,batch=16", "@bfloat16,batch=8", "@bfloat16,batch=16"]
    assert found[""] is first
    low = found["@bfloat16,batch=16"]
    assert (low.settings.dtype, low.settings.batch) == ("bfloat16", 16)
    assert set(low.names) == {"train_vs_torch", "train_vs_tensorflow", "infer_vs_torch"}


def test_the_json_has_every_figure_of_a_comparison(settings, tmp_path):
    found = {"train_vs_torch": measured(), "infer_vs_torch": Result(NOT_RUN, "no torch")}
    path = tmp_path / "deep" / "benchmark.json"
    report.write(path, documented(settings, found))
    read = json.loads(path.read_text())
    row = read["comparisons"]["train_vs_torch"]
    assert (row["status"], row["median"], row["min"], row["max"]) == (MEASURED, 0.5, 0.25, 0.75)
    assert row["fer_jax"]["images_per_second"] == row["peer"]["images_per_second"] == 50
    assert row["peer"]["versions"] == {"torch": "2"}
    unrun = read["comparisons"]["infer_vs_torch"]
    assert unrun == {"status": NOT_RUN, "reason": "no torch", "unit": "images/s"}
    assert read["gpu"] == {"status": NOT_RUN, "reason": "JAX sees no GPU"}
    assert read["machine"]["load_average_at_start"] == [0.5]
    assert read["settings"]["threads"] == 1


def test_the_json_holds_no_nan(settings, tmp_path):
    broken = dataclasses.replace(measured(), median=float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        report.write(tmp_path / "x.json", documented(settings, {"train_vs_torch": broken}))


def test_the_table_shows_ratio_spread_and_both_figures(settings):
    found = {"train_vs_torch": measured(), "latency_vs_torch": measured("ms")}
    lines = list(report.table(documented(settings, found)))
    assert "0.50 (0.25 to 0.75)" in lines[1]
    assert lines[1].count("50.0 img/s") == 2
    assert lines[2].count("20.00 ms") == 2
    assert "torch eager" in lines[1]
    assert lines[3].split(maxsplit=2)[2] == "fer_jax 1,234 MiB; torch eager 1,234 MiB"
    assert lines[-1].split(maxsplit=2)[2] == "not run: JAX sees no GPU"
