"""Configurations hold what they say, all of it is read, and they tell two runs apart."""

import ast
import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fer_jax import build, config
from fer_jax.errors import UserError
from fer_jax.training.checkpoints import HIGHER_IS_BETTER

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.py"))
PRINTS = {"train": "aa", "validation": "bb"}


def load(name="b2.py"):
    return config.load_config(ROOT / "configs" / name, name)


def flat(tree):
    return dict(config._flatten(tree))


def test_b2_holds_the_recipes_values():
    b2 = flat(load("b2.py"))
    stated = {
        "data.image_size": 96,
        "data.exclude": "",
        "train.batch_size": 64,
        "train.epochs": 8,
        "optimizer.name": "adam",
        "optimizer.learning_rate": 1e-3,
        "schedule.name": "constant",
        "schedule.warmup_steps": 0,
        "loss.class_weights": "max_ratio",
        "loss.label_smoothing": 0.0,
        "model.variant": "b2",
        "model.stem_stride": 2,
        "model.padding": "same",
        "model.bn_epsilon": 1e-3,
        "model.bn_momentum": 0.99,
        "model.head_padding": "VALID",
        "model.head_filters": 128,
        "model.hidden": 128,
        "model.dropout": 0.3,
        "model.dtype": "float32",
        "train.ema_decay": 0.0,
        "init.weights": "",
        "init.frozen_epochs": 0,
        "init.layer_decay": 1.0,
        "init.residual_scale": 1.0,
        "augment.flip": True,
    }
    assert {key: b2[key] for key in stated} == stated
    assert b2["augment.rotation"] > 0
    assert b2["augment.zoom"] > 0
    for off in ("translation", "brightness", "contrast", "erasing"):
        assert b2[f"augment.{off}"] == 0
    assert b2["augment.crop_area"] == 1
    for off in ("mixing.mixup", "mixing.cutmix", "optimizer.sam_rho", "loss.logit_adjustment"):
        assert b2[off] == 0
    assert (b2["data.targets"], b2["train.sizes"]) == ("", ())
    assert b2["data.path"] == ""


@pytest.mark.parametrize("key", ["rotation", "zoom", "epsilon"])
def test_what_the_recipe_leaves_open_is_marked(key):
    (line,) = re.findall(rf"^.*optimizer\.{key} = .*$|^.*augment\.{key} = .*$", text("b2.py"), re.M)
    assert "# our choice" in line


def text(name):
    return (ROOT / "configs" / name).read_text()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_has_the_parents_keys_and_types_and_is_legal(name):
    mine, parent = flat(load(name)), flat(load("b2.py"))
    assert mine.keys() == parent.keys()
    for key in parent:
        assert type(mine[key]) is type(parent[key]), key
    build.check(load(name))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_says_its_command_and_what_to_expect(name):
    docstring = ast.get_docstring(ast.parse(text(name)))
    assert docstring is not None
    assert f"--config=configs/{name}" in docstring
    assert "Expected:" in docstring


def test_configs_load_from_any_folder(tmp_path):
    """Also a copy of the folder elsewhere, which then has its own parent."""
    folder = tmp_path / "mine"
    shutil.copytree(ROOT / "configs", folder)
    (folder / "b2.py").write_text(text("b2.py").replace("batch_size = 64", "batch_size = 32"))
    code = (
        "import runpy; "
        f"print(runpy.run_path({str(folder / 'smoke.py')!r})['get_config']().train.batch_size)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "32"


def test_a_loaded_parent_can_be_changed_without_changing_the_next():
    load("b2.py").train.batch_size = 1
    assert load("b2.py").train.batch_size == 64


def test_every_key_is_read_by_the_code():
    """Sections handed over whole (`**config.augment`) count by the receiving function's names."""
    names = set()
    for path in (ROOT / "fer_jax").rglob("*.py"):
        if path.name == "config.py":
            continue  # its tables only list keys
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
    unread = [key for key in flat(load("b2.py")) if key.split(".")[-1] not in names]
    assert not unread


def test_the_tables_name_keys_that_exist():
    keys = flat(load("b2.py")).keys()
    assert set(config.RESULT_NEUTRAL) <= keys
    assert config.LIMITS.keys() <= keys
    assert config.CHOICES.keys() <= keys


def changed(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    return tuple(map(changed, value)) or (1,) if isinstance(value, tuple) else value + 1


@pytest.mark.parametrize("key", sorted(flat(load("b2.py"))))
def test_the_identity_changes_with_what_changes_the_result(key):
    before, after = load("b2.py"), load("b2.py")
    after.update_from_flattened_dict({key: changed(flat(before)[key])})
    one, other = (config.identity(settings, PRINTS) for settings in (before, after))
    neutral = key in config.RESULT_NEUTRAL
    assert (config.short_hash(one) == config.short_hash(other)) == neutral
    differences = config.difference(one, other)
    assert len(differences) == (0 if neutral else 1)
    assert all(line.startswith(f"{key}: ") for line in differences)


def test_the_identity_changes_with_the_training_and_validation_data_alone():
    settings = load("b2.py")
    hashes = [
        config.short_hash(config.identity(settings, prints))
        for prints in (
            PRINTS,
            PRINTS | {"train": "cc"},
            PRINTS | {"validation": "cc"},
        )
    ]
    assert len(set(hashes)) == 3
    with_test = config.identity(settings, PRINTS | {"test": "dd"})
    assert config.short_hash(with_test) == hashes[0]
    assert re.fullmatch(r"[0-9a-f]{8}", hashes[0])


def test_the_identity_changes_with_the_file_that_training_starts_from():
    settings = load("b2.py")
    one, other = (
        config.identity(settings, PRINTS | {"weights": digest}) for digest in ("cc", "dd")
    )
    assert config.difference(one, other) == ["fingerprint.weights: cc -> dd"]
    settings.init.weights = "elsewhere"
    assert config.identity(settings, PRINTS | {"weights": "cc"}) == one


def test_the_identity_changes_with_the_file_of_the_targets():
    settings = load("b2.py")
    one, other = (
        config.identity(settings, PRINTS | {"targets": digest}) for digest in ("cc", "dd")
    )
    assert config.difference(one, other) == ["fingerprint.targets: cc -> dd"]


def test_a_run_of_before_a_key_is_one_of_its_neutral_value():
    settings = load("b2.py")
    now = config.identity(settings, PRINTS)
    before = {key: value for key, value in now.items() if key not in config.NEWER}
    assert len(before) < len(now)
    assert not config.difference(before, now)
    settings.init.layer_decay = 0.5
    changed = config.identity(settings, PRINTS)
    assert config.difference(before, changed) == ["init.layer_decay: 1.0 -> 0.5"]


def test_a_run_whose_seed_gave_other_batches_is_another_one():
    now = config.identity(load("b2.py"), PRINTS)
    before = {key: value for key, value in now.items() if key != "batches"}
    assert config.difference(before, now) == [f"batches: 1 -> {config.BATCHES}"]


def test_a_run_of_before_a_key_can_still_be_evaluated():
    stored, newer = load("b2.py").to_dict(), {key.split(".")[0] for key in config.NEWER}
    without = {
        name: {key: value for key, value in section.items() if f"{name}.{key}" not in config.NEWER}
        if name in newer
        else section
        for name, section in stored.items()
    }
    without = {name: section for name, section in without.items() if section != {}}
    assert "init" not in without
    assert config.complete(without).to_dict() == stored
    stored["init"]["layer_decay"] = 0.5
    assert config.complete(stored).to_dict() == stored
    assert {key: flat(load("b2.py"))[key] for key in config.NEWER} == config.NEWER


def test_absent_keys_are_named_in_a_difference():
    assert config.difference({"a": 1}, {"b": 2}) == ["a: 1 -> (absent)", "b: (absent) -> 2"]


@pytest.mark.parametrize(
    ("key", "bound", "beyond"),
    [
        (key, bound, bound + direction)
        for key, bounds in config.LIMITS.items()
        for bound, direction in zip(bounds, (-1, 1), strict=True)
    ],
)
def test_values_beyond_their_limits_are_refused(key, bound, beyond):
    legal = load("b2.py")
    legal.update_from_flattened_dict({key: type(flat(legal)[key])(bound)})
    config.check(legal)
    refused = load("b2.py")
    refused.update_from_flattened_dict({key: type(flat(refused)[key])(beyond)})
    with pytest.raises(UserError) as caught:
        config.check(refused)
    assert key in str(caught.value)
    assert f"{bound:g}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", sorted(config.CHOICES))
def test_words_that_are_no_choice_are_refused(key):
    settings = load("b2.py")
    for word in config.CHOICES[key]:
        settings.update_from_flattened_dict({key: word})
        config.check(settings)
    settings.update_from_flattened_dict({key: "other"})
    with pytest.raises(UserError, match=config.CHOICES[key][0]):
        config.check(settings)


def test_a_checkpoint_can_be_chosen_by_every_score_that_is_measured():
    assert set(config.CHOICES["checkpoint.select_by"]) == set(HIGHER_IS_BETTER)


def test_every_combination_of_rule_and_schedule_is_built():
    for rule, schedule in itertools.product(("adam", "adamw", "sgd"), ("constant", "cosine")):
        settings = load("b2.py")
        settings.optimizer.name, settings.schedule.name = rule, schedule
        build._optimizer(settings, total_steps=10)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer.name", "adamm"),
        ("schedule.name", "cosinus"),
        ("checkpoint.select_by", "acuracy"),
        ("data.validation_fraction", 1.0),
        ("augment.zoom", 1.5),
        ("model.variant", "b9"),
        ("optimizer.weight_decay", 0.1),
        ("train.batch_size", 0),
        ("optimizer.epsilon", -1.0),
        ("seed", -1),
        ("init.frozen_epochs", 9),
        ("augment.crop_area", 0.0),
        ("mixing.cutmix", -0.1),
        ("optimizer.sam_rho", -0.05),
        ("loss.targets_weight", 1.1),
        ("model.stem_stride", 3),
        ("train.sizes", (64, 96)),
        ("train.sizes", (96, 5000)),
        ("train.sizes", (96.0,)),
    ],
)
def test_a_value_that_cannot_work_is_refused_before_anything_is_read(key, value):
    settings = load("b2.py")
    settings.update_from_flattened_dict({key: value})
    with pytest.raises(UserError) as caught:
        build.check(settings)
    assert key.split(".")[-1] in str(caught.value)
