"""Studies: their overrides exist, their runs go on, and the table is of what was really run."""

import ast
import json
import operator
import re
import shutil
import signal

import pytest
from ml_collections import ConfigDict
from support import EPOCH_ENDS, ROOT, SMALL, UNDRAWN, call, finish, logged, start, wait_until

from experiments import jobs, studies
from experiments.ablations import STUDIES, TRANSFER
from fer_jax import train
from fer_jax.config import fill, load_config
from fer_jax.errors import UserError

pytestmark = pytest.mark.timeout(900)  # on a busy machine

PLAN = ROOT / "experiments/plan.md"
CASES = [(name, variant) for name, study in STUDIES.items() for variant in study.variants]


def loaded(name) -> ConfigDict:
    place = ROOT / "configs" / STUDIES[name].config
    return load_config(place, place.name)


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_every_variant_is_a_legal_config(name, variant):
    config, changes = loaded(name), dict(STUDIES[name].variants[variant])
    assert set(changes) <= {f"{part}.{key}" for part in config for key in config.get(part) or ()}
    config.update_from_flattened_dict(changes)
    fill(train.Config, config)


def small_settings(study):
    """Those of the plan for two cores, which are for the studies of transfer."""
    (line,) = [x for x in PLAN.read_text().splitlines() if x.strip().startswith("SMALL=")]
    given = jobs.overrides(re.findall(r"--set=([^ \"]+)", line))
    return given if study.config == TRANSFER else {}


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", STUDIES)
def test_a_variant_is_what_its_name_says_at_any_length(name, small):
    """No two train alike, and a number in a name is the value of a key that the study changes."""
    study, seen = STUDIES[name], []
    for variant, changes in study.variants.items():
        given = small_settings(study) if small else {}
        read = {key: ast.literal_eval(value) for key, value in given.items()}
        raw = loaded(name)
        raw.update_from_flattened_dict(read | dict(changes))
        config = fill(train.Config, raw)
        assert config not in seen, variant
        seen.append(config)
        keys = {key for changes in study.variants.values() for key in changes}
        values = [operator.attrgetter(key)(config) for key in keys]
        known = {x for value in values for x in (value if isinstance(value, tuple) else [value])}
        assert {float(x) for x in re.findall(r"(?<![\w.])\d[\d.e-]*", variant)} <= known, variant


def test_a_variants_own_value_is_the_last_word(tmp_path):
    given = {"data.path": "PATH", "train.ema_decay": "0.5"}
    (job,) = studies.plan(STUDIES["ema"], tmp_path, given, ["3"], ["0.998"])
    decays = [part for part in job.command if part.startswith("--config.train.ema_decay")]
    assert decays == ["--config.train.ema_decay=0.998"]
    assert "--config.seed=3" in job.command
    assert job.folder == tmp_path / "b2_lite2-ema_decay=0.998-seed=3"


def test_runs_share_a_folder_where_they_share_the_command_and_there_alone(tmp_path):
    todo = []
    for study in STUDIES.values():
        todo += studies.plan(study, tmp_path, dict.fromkeys(study.needs, "votes.npz"), "01", [])
    assert len({job.folder for job in todo}) == len({job.command for job in todo}) < len(todo)


def test_a_file_reaches_the_variants_that_ask_for_it(tmp_path):
    given = {"data.targets": "votes.npz"}
    labels, votes, _ = studies.plan(STUDIES["ferplus"], tmp_path, given, ["0"], [])
    assert "--config.data.targets=votes.npz" in votes.command
    assert not any("targets" in part for part in labels.command)


def test_what_is_not_told(tmp_path):
    with pytest.raises(UserError, match=r"no variant '0.5': .* 0.998"):
        studies.plan(STUDIES["ema"], tmp_path, {}, ["0"], ["0.5"])
    with pytest.raises(UserError, match=r"--set=train\.epochs: write --set=KEY=VALUE"):
        studies.overrides(STUDIES["ema"], ["train.epochs"])
    with pytest.raises(UserError, match=r"--set=data\.targets=FILE"):
        studies.overrides(STUDIES["ferplus"], [])
    assert len(studies.plan(STUDIES["ema"], tmp_path, {}, ["0"], ["none", "none"])) == 1
    assert studies.overrides(STUDIES["ferplus"], ["data.targets=a=b"]) == {"data.targets": "a=b"}
    with pytest.raises(UserError, match="no run is finished"):
        studies.summary(STUDIES["ema"], [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing", "--data=x"], "no study 'nothing': give one of start"),
        (["ema"], "no --data"),
        (
            ["ema", "--data=x", "--seeds=0,1,00"],
            "--seeds=0,1,00: give 1 or more numbers, each once",
        ),
        (["ema", "--data=x", "--seeds=one"], "--seeds=one: "),
        (["ema", "--data=x", "--parallel=4"], "--parallel needs --cluster"),
    ],
)
def test_the_door_refuses_in_one_line(arguments, words, tmp_path):
    given = [*arguments, f"--output={tmp_path / 'out'}"]
    outcome = call("run", given, package="experiments")
    assert words in outcome.refusal()
    assert not (tmp_path / "out").exists()


@pytest.fixture
def two_finished(finished_run, tmp_path):
    """A study of two variants and two seeds, each folder a copy of one finished run."""
    todo = studies.plan(STUDIES["ema"], tmp_path, {}, ["0", "1"], ["0.99", "none"])
    for job in todo:
        shutil.copytree(finished_run, job.folder)
        (job.folder / jobs.COMMAND_FILE).write_text(job.made_of)
    return todo


def test_the_table_is_of_the_reports(two_finished, finished_run):
    report = json.loads((finished_run / "report" / "report.json").read_text())
    result = studies.summary(STUDIES["ema"], two_finished)
    assert [row["name"] for row in result["models"]] == ["0.99", "none"]
    assert [row["accuracy"] for row in result["models"]] == [report["accuracy"]] * 2
    (pair,) = result["pairs"]
    assert (pair["first"], pair["second"], pair["difference"]) == ("0.99", "none", 0.0)
    assert result["costs"][1]["seeds"] == ["0", "1"]
    assert result["costs"][1]["macro_f1"] == pytest.approx(report["macro_f1"])
    last = logged(finished_run, "validation")[-1]["accuracy"]
    assert result["costs"][0]["last_epoch_accuracy"] == pytest.approx(last)
    assert 0 < result["costs"][0]["hours"] < 1
    text = studies.table(result)
    assert f"{report['accuracy']:.2%}" in text
    assert f"| none | 2 | {report['macro_f1']:.2%} | {last:.2%} |" in text


def test_only_a_report_of_the_same_command_counts(two_finished):
    first, second, *_ = two_finished
    assert first.finished
    (first.folder / jobs.COMMAND_FILE).write_text("another")
    assert not first.finished
    (second.report / "report.json").unlink()
    assert not second.finished


@pytest.mark.parametrize("changed", ["a parent of its config", "weights", "targets"])
def test_only_a_report_of_the_same_content_counts(changed, tmp_path, monkeypatch):
    """The command names files, which may say something else by now."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.setattr(jobs, "CONFIGS", tmp_path / "configs")
    files = {name: tmp_path / name for name in ("weights", "targets")}
    for file in files.values():
        file.write_text("first")
    settings = {"init.weights": files["weights"], "data.targets": files["targets"]}

    def job():
        return jobs.training("name", "0", tmp_path / "run", "b2_lite2.py", settings)

    job().report.mkdir(parents=True)
    (job().report / "report.json").touch()
    (job().folder / jobs.COMMAND_FILE).write_text(job().made_of)
    assert job().finished
    file = files.get(changed, tmp_path / "configs/b2_scratch.py")
    file.write_text(
        file.read_text().replace("first", "second").replace("smoothing = 0.1", "smoothing = 0.2")
    )
    assert not job().finished


def begin(arguments):
    """experiments.run as a process."""
    return start("run", arguments, package="experiments", **UNDRAWN)


def test_a_killed_study_goes_on_and_a_finished_one_is_passed_over(small_csv, tmp_path):
    """Real runs; the second command finds the first one's checkpoints, the third one nothing."""
    overrides = [f"--set={key}={value}" for key, value in SMALL.items()]
    flags = [f"--data={small_csv}", f"--output={tmp_path}", "--only=notebook", *overrides]
    folder = tmp_path / "runs/b2-seed=0"
    first = begin(["collapse", *flags])
    wait_until(lambda: logged(folder), first, 600)
    first.send_signal(signal.SIGKILL)
    finish(first)
    second = finish(begin(["collapse", *flags]))
    assert second.status == 0, second.err
    assert logged(folder, "validation")[-1]["step"] == EPOCH_ENDS[-1]
    assert (tmp_path / "collapse/study.md").read_text().startswith("# collapse: Which choice")
    third = finish(begin(["collapse", *flags]))
    assert third.status == 0, third.err
    assert f"finished: {folder / 'report'}" in third.out
    assert "compiling" not in third.out
