"""The benchmark's own conduct: turns, agreement before figures, and what could not be run."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import run

from experiments.benchmark import bandwidth, comparisons, inputs, processes, report, spare, turns
from experiments.benchmark.agreement import agree
from experiments.benchmark.children import Child, Entry, NotRunError
from experiments.benchmark.choice import (
    DISAGREEMENT,
    FAILED,
    MEASURED,
    NOT_RUN,
    Length,
    Setting,
)
from experiments.benchmark.comparisons import Result
from experiments.benchmark.processes import Training
from experiments.benchmark.rounds import Round, alone, rounds
from experiments.benchmark.settings import ROOT, Settings, config_of
from fer_jax.data.sources import ReadOptions, open_dataset

LENGTH = Length(turns=3, seconds=1.0)
ANSWER = {"logits": [[1.0, -1.0], [-2.0, 2.0]], "loss": 0.5}
MADE_ROOM = '''
"""A contestant that does what its options say."""
import os, sys, time

def make(task, settings, options):
    print("noise on standard output")
    if task == "missing":
        import a_library_that_is_not_there
    return Made(options)

class Made:
    examples = 4

    def __init__(self, options):
        self.options, self.calls = options, 0
        self.untimed = options.get("untimed", 1)

    def about(self):
        return {"platform": "cpu", "device": "made", "versions": {}, "threads": 1}

    def answer(self):
        if self.options.get("dies"):
            sys.exit("out of everything")
        time.sleep(self.options.get("thinks", 0))
        return {"loss": 1.0}

    def run(self, calls):
        start = time.time()
        time.sleep(self.options.get("seconds", 0) * calls)
        self.calls += calls
        if "diary" in self.options:
            with open(self.options["diary"], "a") as stream:
                print(self.options["name"], start, time.time(), file=stream)

    def extras(self):
        return {"waited": 0.0, "calls": self.calls}
'''


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = str(ROOT / "configs/b2_scratch.py")
    return Settings(config, "tiny", 32, 8, "float32", 1, str(tmp_path))


@pytest.fixture
def made_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that real child processes can import."""
    (tmp_path / "made_room.py").write_text(MADE_ROOM)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    return "made_room"


class Made:
    """A contestant in this process, of a known speed; what it is asked goes into a diary."""

    def __init__(
        self,
        name: str,
        speeds: Any,
        diary: list[str],
        answer: dict[str, Any] | None = None,
        platform: str = "cpu",
    ):
        self.entry, self.examples = Entry(name, "made", "train"), 10
        self.about = {"platform": platform, "device": "made", "versions": {"made": "1"}}
        self.turns: list[dict[str, float]] = []
        self._speeds, self._diary, self._answer = speeds, diary, answer or ANSWER
        self.closed = False

    def __enter__(self) -> "Made":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answer(self) -> dict[str, Any]:
        return self._answer

    def seconds(self, calls: int) -> float:
        """Images per second of turn after turn; the last of them from then on."""
        speed = self._speeds.pop(0) if len(self._speeds) > 1 else self._speeds[0]
        self._diary.append(self.entry.name)
        seconds = calls * self.examples / speed
        self.turns.append({"seconds": seconds, "waited": 0.25 * seconds})
        return seconds

    def memory(self) -> dict[str, float]:
        return {"peak_mib": 100.0}

    def bytes_per_call(self) -> float:
        return 1e9

    def close(self) -> None:
        self.closed = True


def starting(made: dict[str, Any]) -> Callable[[Entry, Settings], Any]:
    """Instead of `Child`: contestants by name, or the reason why they cannot be had."""

    def start(entry: Entry, settings: Settings) -> Any:
        found = made[entry.name]
        if isinstance(found, str):
            raise NotRunError(found)
        found.entry = entry
        return found

    return start


def compared(settings: Settings, ours: Made, peers: dict[str, Any], wait: bool = True) -> Result:
    entries = [Entry(name, "made", "train") for name in peers]
    start = starting(peers)
    setting = Setting(settings, LENGTH, lambda text: None, start, lambda peaks, gpu: wait)
    return comparisons.compare(ours, ours.answer(), entries, setting)  # type: ignore[arg-type]


def documented(
    settings: Settings, found: dict[str, Result], timed: dict[str, Any] | None = None
) -> dict[str, Any]:
    about = {"device": "made"}
    absent = {"status": NOT_RUN, "reason": "JAX sees no GPU"}
    return report.document(settings, {"turns": 3}, about, found, timed or {}, absent, [0.5])


# Turns


def test_turns_alternate_and_each_pair_has_its_ratio():
    diary: list[str] = []
    ours, peer = Made("A", [20.0, 40.0, 90.0], diary), Made("B", [10.0, 40.0, 30.0], diary)
    duel = turns.alternate(ours, peer, 3, (2, 5))
    assert diary == ["A", "B"] * 3
    assert duel.ours == (20, 40, 90)
    assert duel.peer == (10, 40, 30)
    assert duel.ratios == (2, 1, 3)
    assert duel.summary() == (2, 1, 3)  # the ratio of the medians would be 4 / 3


def test_the_faster_has_the_larger_figure():
    fast, slow = Made("fast", [30.0], []), Made("slow", [10.0], [])
    assert turns.alternate(fast, slow, 1, (1, 1)).summary()[0] == pytest.approx(3)
    assert turns.alternate(slow, fast, 1, (1, 1)).summary()[0] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("speed", "calls"), [(10.0, 4), (1.0, 1), (1000.0, 400)])
def test_as_many_calls_as_fill_a_turn(speed, calls):
    compiling = Made("A", [0.001, speed], [])  # the first call takes hours and does not count
    assert turns.calls_for(compiling, seconds=4.0) == calls


# Agreement


def test_equal_answers_agree():
    near = {"logits": [[1.0005, -1.0], [-2.0, 2.0]], "loss": 0.5004}
    assert not agree(ANSWER, near).objection
    assert agree(ANSWER, near).differences["loss"] == pytest.approx(8e-4, rel=0.01)


@pytest.mark.parametrize(
    ("peer", "word"),
    [
        ({"loss": 0.502}, "loss differ"),
        ({"loss": float("nan")}, "loss differ"),
        ({"logits": [[1.01, -1.0], [-2.0, 2.0]]}, "logits differ"),
        ({"logits": [[1.0, -1.0]]}, "logits differ"),
    ],
)
def test_a_difference_is_told(peer, word):
    assert word in agree(ANSWER, {**ANSWER, **peer}).objection


def test_contestants_must_answer_the_same_questions():
    assert "they answer" in agree(ANSWER, {"loss": 0.5}).objection
    assert agree({}, {}).objection


def test_dead_networks_do_not_agree():
    dead = {"logits": [[1.0, -1.0], [1.0, -1.0]], "loss": 0.5}
    assert "the same" in agree(dead, dead).objection


def test_low_precision_has_a_limit_of_its_own():
    ours = {"loss": 1.0, "low_precision_loss": 1.0}
    assert not agree(ours, {"loss": 1.0, "low_precision_loss": 1.05}).objection
    assert agree(ours, {"loss": 1.0, "low_precision_loss": 1.2}).objection
    assert agree(ours, {"loss": 1.05, "low_precision_loss": 1.0}).objection


# One comparison


def test_the_best_of_the_grid_is_the_opponent_and_all_are_listed(settings):
    diary: list[str] = []
    ours = Made("fer_jax", [60.0], diary)
    peers = {
        "slow": Made("slow", [10.0], diary),
        "fast": Made("fast", [30.0], diary),
        "middle": Made("middle", [20.0], diary),
    }
    result = compared(settings, ours, peers)
    assert (result.status, result.median) == (MEASURED, pytest.approx(2.0))
    assert (result.min, result.max) == (pytest.approx(2.0), pytest.approx(2.0))
    assert result.peer["name"] == "fast"
    assert result.fer_jax["images_per_second"] == pytest.approx(60)
    assert result.peer["images_per_second"] == pytest.approx(30)
    assert {row["name"]: row["rate"] for row in result.grid} == {
        "slow": pytest.approx(10),
        "fast": pytest.approx(30),
        "middle": pytest.approx(20),
    }
    assert all(peer.closed for peer in peers.values())
    assert not ours.closed  # the next comparison needs it
    assert diary[-6:] == ["fer_jax", "fast"] * 3


def test_the_grid_is_visited_there_and_back_and_the_best_rate_counts(settings):
    """The machine is slow at first: the last is measured fast, the first is the fastest."""
    diary: list[str] = []
    first = Made("first", [1.0, 10.0, 10.0, 30.0], diary)  # compiles, fills a turn, two visits
    last = Made("last", [1.0, 20.0, 20.0, 10.0], diary)
    result = compared(settings, Made("fer_jax", [60.0], diary), {"first": first, "last": last})
    assert diary[:8] == ["first"] * 3 + ["last"] * 3 + ["last", "first"]
    assert [row["rates"] for row in result.grid] == [
        pytest.approx([10, 30]),
        pytest.approx([20, 10]),
    ]
    assert [row["rate"] for row in result.grid] == pytest.approx([30, 20])
    assert result.peer["name"] == "first"


def test_who_cannot_wait_in_memory_is_started_again(settings):
    peers = {"slow": Made("slow", [10.0], []), "fast": Made("fast", [30.0], [])}
    started: list[str] = []
    start = starting(peers)

    def noted(entry: Entry, settings: Settings) -> Any:
        assert all(peer.closed for name, peer in peers.items() if name in started), "crowded"
        started.append(entry.name)
        return start(entry, settings)

    entries = [Entry(name, "made", "train") for name in peers]
    crowded = Setting(settings, LENGTH, lambda text: None, noted, lambda peaks, gpu: False)
    ours = Made("fer_jax", [60.0], [])
    result = comparisons.compare(ours, ours.answer(), entries, crowded)  # type: ignore[arg-type]
    assert started == ["slow", "fast", "fast", "slow"]
    assert result.peer["name"] == "fast"
    assert [len(row["rates"]) for row in result.grid] == [2, 2]


def test_who_is_gone_at_the_second_visit_is_out(settings):
    class Gone(Made):
        def seconds(self, calls: int) -> float:
            if len(self.turns) == 3:
                raise NotRunError("its process has ended")
            return super().seconds(calls)

    peers = {"gone": Gone("gone", [50.0], []), "stays": Made("stays", [10.0], [])}
    result = compared(settings, Made("fer_jax", [20.0], []), peers)
    assert [row["status"] for row in result.grid] == [NOT_RUN, MEASURED]
    assert result.grid[0]["reason"] == "its process has ended"
    assert result.peer["name"] == "stays"
    assert peers["gone"].closed


@pytest.mark.parametrize(
    ("host", "device", "peaks", "gpu", "waits"),
    [
        (2000.0, 0.0, {"peak_mib": 1000.0}, False, True),
        (1999.0, 0.0, {"peak_mib": 1000.0}, False, False),
        (9999.0, 800.0, {"peak_mib": 1000.0, "device_peak_mib": 400.0}, True, True),
        (9999.0, 799.0, {"peak_mib": 1000.0, "device_peak_mib": 400.0}, True, False),
        (9999.0, 9999.0, {"peak_mib": 1000.0}, True, False),  # does not tell
    ],
)
def test_a_process_waits_where_memory_is_left(monkeypatch, host, device, peaks, gpu, waits):
    monkeypatch.setattr(spare, "host_mib", lambda: host)
    monkeypatch.setattr(spare, "device_mib", lambda: device)
    assert spare.can_wait(peaks, gpu) == waits


def test_free_memory_is_read(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9999999 kB\nMemAvailable:  2097152 kB\n")
    monkeypatch.setattr(spare, "MEMORY", tmp_path / "meminfo")
    assert spare.host_mib() == 2048
    monkeypatch.setattr(spare, "MEMORY", tmp_path / "missing")
    assert spare.host_mib() == 0
    monkeypatch.setattr(spare, "QUERY", ("echo", "81000\n79000"))
    assert spare.device_mib() == 79000
    monkeypatch.setattr(spare, "QUERY", ("no-such-program",))
    assert spare.device_mib() == 0


def test_who_disagrees_is_never_timed(settings):
    diary: list[str] = []
    wrong = Made("wrong", [1e6], diary, {**ANSWER, "loss": 0.7})
    right = Made("right", [10.0], diary)
    result = compared(settings, Made("fer_jax", [20.0], diary), {"wrong": wrong, "right": right})
    assert "wrong" not in diary
    assert wrong.closed
    assert (result.status, result.peer["name"]) == (MEASURED, "right")
    assert result.grid[0]["status"] == DISAGREEMENT
    assert "loss differ" in result.grid[0]["reason"]


def test_no_ratio_unless_contestants_agree(settings):
    wrong = Made("wrong", [10.0], [], {**ANSWER, "loss": 0.7})
    result = compared(settings, Made("fer_jax", [20.0], []), {"wrong": wrong})
    assert result.status == DISAGREEMENT
    assert result.agreement["loss"] == pytest.approx(2 / 7)
    written = documented(settings, {"train_vs_torch": result})["comparisons"]["train_vs_torch"]
    assert not written.keys() & {"median", "min", "max", "ratios", "fer_jax", "peer"}
    line = list(report.table(documented(settings, {"train_vs_torch": result})))[1]
    assert line.split(maxsplit=1) == ["train_vs_torch", f"disagreement: {result.reason}"]


def test_who_cannot_be_imported_is_listed_with_the_reason(settings):
    peers = {"torch": "ModuleNotFoundError: No module named 'torch'"}
    result = compared(settings, Made("fer_jax", [20.0], []), peers)
    assert result.status == NOT_RUN
    assert result.grid == [
        {"name": "torch", "agreement": {}, "status": NOT_RUN, "reason": peers["torch"]}
    ]
    lines = list(report.table(documented(settings, {"train_vs_torch": result})))
    assert any("not run: ModuleNotFoundError" in line for line in lines)


def test_a_part_of_the_grid_that_fails_leaves_the_rest(settings):
    peers = {"compiled": "RuntimeError: no compiler", "eager": Made("eager", [10.0], [])}
    result = compared(settings, Made("fer_jax", [20.0], []), peers)
    assert (result.status, result.median) == (MEASURED, pytest.approx(2.0))
    assert [row["status"] for row in result.grid] == [NOT_RUN, MEASURED]


def test_other_devices_are_not_compared(settings):
    gpu = Made("gpu", [10.0], [], platform="gpu")
    result = compared(settings, Made("fer_jax", [20.0], []), {"gpu": gpu})
    assert (result.status, result.reason) == (NOT_RUN, "it computes on gpu, fer_jax on cpu")
    assert gpu.closed


def test_the_whole_loop_tells_how_long_it_waits(settings):
    loop, step = Made("loop", [15.0], []), Made("step", [20.0], [])

    def start(entry: Entry, settings: Settings) -> Any:
        return {"loop": loop, "train": step}[entry.task]

    result = comparisons.whole_loop(settings, LENGTH, start)
    assert result.median == pytest.approx(0.75)
    assert result.fer_jax["waiting_share"] == pytest.approx(0.25)


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


# Rounds


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


# JSON and table


def measured(unit: str = "images/s") -> Result:
    side = {"images_per_second": 50.0, "milliseconds_per_call": 20.0, "peak_mib": 1234.0}
    return Result(
        MEASURED,
        "",
        0.5,
        0.25,
        0.75,
        (0.5, 0.25, 0.75),
        unit,
        fer_jax={**side, "name": "fer_jax", "versions": {"jax": "1"}},
        peer={**side, "name": "torch eager", "versions": {"torch": "2"}},
        agreement={"loss": 1e-6},
    )


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


# Real child processes


def test_a_child_answers_takes_turns_and_tells_its_memory(settings, made_room):
    options = {"seconds": 0.05, "untimed": 100}
    with Child(Entry("made", made_room, "train", options), settings) as child:
        assert child.about["device"] == "made"
        assert child.examples == 4
        assert child.answer() == {"loss": 1.0}
        assert 0.15 <= child.seconds(3) < 5  # without the untimed calls before
        assert child.turns[0]["calls"] == 103
        assert 5 < child.memory()["peak_mib"] < 2000


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


# What contestants are given


def test_paths_of_the_machine_stay_out_of_the_document(settings, tmp_path):
    found = documented(dataclasses.replace(settings, data=str(tmp_path / "faces.zip")), {})
    assert found["settings"]["config"] == "configs/b2_scratch.py"
    assert found["settings"]["data"] == "faces.zip"
    assert str(ROOT) not in json.dumps(found)


def test_the_config_is_the_products_without_random_depth(settings):
    config = config_of(dataclasses.replace(settings, variant="b2", size=96, batch=64))
    assert (config.model.variant, config.model.dropout) == ("b2", 0.3)
    assert (config.model.drop_connect, config.schedule.name) == (0.0, "constant")
    assert all(config.augment[name] for name in config.augment)
    assert config_of(settings, dropout=False).model.dropout == 0
    assert config_of(settings, dtype="bfloat16").model.dtype == "bfloat16"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_whatever_the_recipe_the_loss_is_the_peers(settings, path):
    loss = config_of(dataclasses.replace(settings, config=str(path))).loss
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
    options = ReadOptions("", "stop", 0.1, 0, 10_000, 100, "")
    data = open_dataset(str(path), options)
    assert len(data.split("train")) == 12
    assert len(data.split("validation")) == 7
    assert (data.split("train").counts() > 0).all()


def test_a_first_step_that_never_comes_says_why(settings, tmp_path):
    processes.write_csv(tmp_path / "fer2013.csv", count=8)
    impossible = dataclasses.replace(settings, variant="b9")
    with pytest.raises(NotRunError, match="b9"):
        processes.first_step(impossible, tmp_path, "cold")


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
    assert words in run("benchmark", [flag], package="experiments").refusal()


def test_fer_jax_takes_its_turns(settings, one_stage):
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
