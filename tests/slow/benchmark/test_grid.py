"""Which setting of a contestant takes part, and what becomes of those that fail."""

from typing import Any

import pytest
from made_contestants import ANSWER, LENGTH, Made, compared, documented, starting

from experiments.benchmark import comparisons, memory, report
from experiments.benchmark.children import Entry, NotRunError
from experiments.benchmark.choice import (
    DISAGREEMENT,
    MEASURED,
    NOT_RUN,
    Setting,
)
from experiments.benchmark.settings import Settings


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


def test_the_grid_is_visited_there_and_back_and_the_mean_rate_counts(settings):
    """The machine is slow at first: what is first there is last back."""
    diary: list[str] = []
    first = Made("first", [1.0, 10.0, 10.0, 30.0], diary)  # compiles, fills a turn, two visits
    last = Made("last", [1.0, 20.0, 20.0, 10.0], diary)
    result = compared(settings, Made("fer_jax", [60.0], diary), {"first": first, "last": last})
    assert diary[:8] == ["first"] * 3 + ["last"] * 3 + ["last", "first"]
    assert [row["rates"] for row in result.grid] == [
        pytest.approx([10, 30]),
        pytest.approx([20, 10]),
    ]
    assert [row["rate"] for row in result.grid] == pytest.approx([20, 15])
    assert result.peer["name"] == "first"


def test_one_lucky_visit_chooses_nobody(settings):
    diary: list[str] = []
    lucky = Made("lucky", [1.0, 30.0, 30.0, 10.0], diary)
    steady = Made("steady", [1.0, 24.0, 24.0, 24.0], diary)
    result = compared(settings, Made("fer_jax", [60.0], diary), {"lucky": lucky, "steady": steady})
    assert result.peer["name"] == "steady"


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
    monkeypatch.setattr(memory, "host_mib", lambda: host)
    monkeypatch.setattr(memory, "device_mib", lambda: device)
    assert memory.can_wait(peaks, gpu) == waits


def test_free_memory_is_read(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9999999 kB\nMemAvailable:  2097152 kB\n")
    monkeypatch.setattr(memory, "MACHINE", tmp_path / "meminfo")
    assert memory.host_mib() == 2048
    monkeypatch.setattr(memory, "MACHINE", tmp_path / "missing")
    assert memory.host_mib() == 0
    monkeypatch.setattr(memory, "QUERY", ("echo", "81000\n79000"))
    assert memory.device_mib() == 79000
    monkeypatch.setattr(memory, "QUERY", ("no-such-program",))
    assert memory.device_mib() == 0


def test_the_peak_is_known_without_linuxs_tables(monkeypatch, tmp_path):
    told = memory.peak_mib()
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "missing")
    assert memory.peak_mib() > 0.9 * told > 5


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
