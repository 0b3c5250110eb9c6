"""A sweep: it refuses what it would not train with, and says of a run what it was."""

import json

import pytest
from support import SMALL, _argv, _front_door, call

from fer_jax import cli

WHOLE = SMALL | {
    "optimizer.name": "adamw",
    "schedule.name": "cosine",
    "loss.class_weights": "none",
}
RUN = {"name": "a", "seed": 0, "epochs": 1}


def spec(place, runs=(RUN,), whole=WHOLE, config="b2.py"):
    path = place / "spec.json"
    path.write_text(json.dumps({"config": config, "set": whole, "runs": list(runs)}))
    return path


@pytest.mark.parametrize(
    ("config", "whole", "words"),
    [
        ("b2_long.py", {}, "trains with optimizer.name='adamw' alone"),
        ("b2_cpu.py", {"optimizer.name": "adamw"}, "trains with train.sizes=() alone"),
        ("b2_lite2.py", {"optimizer.sam_rho": 0.05}, "trains with optimizer.sam_rho=0.0 alone"),
        ("b2_lite2.py", {"optimizer.learning_rat": 1.0}, "did you mean 'optimizer.learning_rate'"),
        ("nothing.py", {}, "nothing.py"),
    ],
)
def test_what_the_whole_may_not_set(config, whole, words, tmp_path):
    path = spec(tmp_path, whole=whole, config=config)
    assert words in call("sweep", [path, "--data=x"], package="experiments").refusal()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"set": {"train.batch_size": 7}}, "run b-1: train.batch_size is the same for all runs"),
        ({"set": {"optimizer.learning_rat": 9}}, "learning_rat"),
        ({"set": {"augment.zom": 0.1}}, "did you mean 'augment.zoom'"),
        ({"set": {"optimizer.learning_rate": -1}}, "optimizer.learning_rate=-1"),
        ({"epochs": None}, "run b-1: it has no 'epochs'"),
        ({"epoch": 3}, "run b-1: no key is called 'epoch'"),
        ({"teachers": ["a-0"]}, "run b-1: teacher a-0 is no earlier run that is kept"),
        ({"targets": "none.npz"}, "run b-1: targets none.npz cannot be found"),
        ({"name": "a", "seed": 0}, "run a-0: another one has this name and seed"),
    ],
)
def test_a_run_is_refused_before_the_first_one_starts(change, words, tmp_path):
    run = {
        k: v for k, v in {"name": "b", "seed": 1, "epochs": 1, **change}.items() if v is not None
    }
    path, output = spec(tmp_path, (RUN, run)), tmp_path / "out"
    flags = [path, "--data=x", f"--output={output}"]
    assert words in call("sweep", flags, package="experiments").refusal()
    assert not output.exists()


def test_no_spec_is_one_line(tmp_path):
    assert "give one SPEC" in call("sweep", ["--data=x"], package="experiments").refusal()
    for text in ("", "[]", '{"config": "nothing.py", "runs": []}', '{"runs": 1}'):
        (tmp_path / "spec.json").write_text(text)
        flags = [tmp_path / "spec.json", "--data=x"]
        assert "is no SPEC" in call("sweep", flags, package="experiments").refusal()


def test_a_run_that_was_cut_for_time_says_how_long_it_was(small_csv, tmp_path, monkeypatch):
    """And it is told apart by what it sets alone."""
    run = {"name": "a", "seed": 0, "epochs": 3, "keep": True, "set": {"loss.label_smoothing": 0.2}}
    flags = [f"--data={small_csv}", f"--output={tmp_path}", "--workers=0"]
    argv = ["sweep", str(spec(tmp_path, [run])), *flags]
    with _front_door("experiments.sweep") as door, _argv(argv):
        monkeypatch.setattr(door.Sweep, "_epochs", lambda sweep, run: 1)
        with pytest.raises(SystemExit) as end:
            cli._exit(door.main, cli._parse(argv, arguments=True))
    assert end.value.code == 0
    record = json.loads((tmp_path / "a-0.json").read_text())
    assert len(record["epochs"]) == record["run"]["epochs"] == 1
    header = (tmp_path / "a-0.safetensors").read_bytes()
    assert b'"epochs\\\\\\": 1' in header
    assert b'label_smoothing\\": 0.2' in header
