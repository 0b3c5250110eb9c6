"""Spoiled inputs end well, and what would not is found."""

import json
import multiprocessing
import os

import pytest
from support import _front_door, write_small_csv

from experiments import jobs
from fer_jax.data import sidecars
from fer_jax.errors import UserError


@pytest.fixture(scope="module")
def fuzz():
    with _front_door("experiments.fuzz") as door:
        yield door


@pytest.fixture(scope="module")
def guard(fuzz, tmp_path_factory):
    return fuzz.Guard((tmp_path_factory.getbasetemp() / "case" / "out",))


def test_200_inputs_end_well_and_are_not_tried_again(fuzz, tmp_path):
    rows = fuzz.fuzz(tmp_path, 200)
    assert [row for row in rows if row["end"] == "finding"] == []
    assert {row["end"] for row in rows} == {"accepted", "refused"}
    with (tmp_path / fuzz.RESULTS).open("a") as file:
        json.dump({**rows[0], "seed": 1}, file)
        file.write('\n{"number": 7, "se')  # killed here
    assert fuzz.fuzz(tmp_path, 200) == rows
    assert fuzz.fuzz(tmp_path, 100) == rows[:100]
    assert "| all | 200 |" in fuzz.table(rows)


def test_results_of_other_tests_or_libraries_are_forgotten(tmp_path, monkeypatch):
    for room in ("fer_jax", "tests"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "hostile.py").write_text("first")
    monkeypatch.setattr(jobs, "ROOT", tmp_path)
    for what in ("tests", "libraries"):
        assert jobs.earlier_rows(tmp_path / "out", "rows.jsonl") == []
        (tmp_path / "out/rows.jsonl").write_text('{"number": 0}\n')
        assert jobs.earlier_rows(tmp_path / "out", "rows.jsonl") == [{"number": 0}]
        (tmp_path / "tests/hostile.py").write_text(what)
        if what == "libraries":
            monkeypatch.setattr(jobs, "distributions", list)
    assert jobs.earlier_rows(tmp_path / "out", "rows.jsonl") == []


def test_a_name_of_no_reader_is_refused_and_a_worker_that_died_is_replaced(fuzz, tmp_path):
    with pytest.raises(UserError, match="--only=nosuch"), fuzz.crew(tmp_path / "a/b", 0, "nosuch"):
        pass
    with fuzz.crew(tmp_path / "a/b", 0, "") as ask:
        (worker,) = multiprocessing.active_children()
        worker.kill()
        worker.join()
        assert ask(3)["end"] == "finding"
        assert ask(3)["end"] == "refused"


def of_votes():
    """A reader of FER+'s votes, whatever they are."""

    def reader(place, out, draw):
        data = write_small_csv(place)
        return "targets", [f"--data={data}", f"--ferplus={data}", f"--output={out}/targets.npz"]

    return reader


def failing(_):
    raise ValueError("planted")


def writing_elsewhere(path):
    os.makedirs("elsewhere")
    return failing_well(path)


def failing_well(path):
    raise sidecars.UserError(f"{path} is refused")


def running(path):
    os.system("true")
    return failing_well(path)


@pytest.mark.parametrize(
    ("planted", "word"),
    [(failing, "ValueError: planted"), (writing_elsewhere, "elsewhere"), (running, "os.system")],
)
def test_a_planted_fault_is_found(planted, word, fuzz, guard, tmp_path, monkeypatch):
    monkeypatch.setattr(sidecars, "read_votes", planted)
    monkeypatch.chdir(tmp_path)
    found = fuzz.attempt(of_votes(), tmp_path / "case", "0", guard)
    assert found["end"] == "finding"
    assert word in str(found["why"])


def test_a_good_refusal_is_none(fuzz, guard, tmp_path, monkeypatch):
    monkeypatch.setattr(sidecars, "read_votes", failing_well)
    monkeypatch.chdir(tmp_path)
    assert fuzz.attempt(of_votes(), tmp_path / "case", "0", guard)["end"] == "refused"
