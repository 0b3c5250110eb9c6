"""Configurations hold what they say, all of it is read, and they tell two runs apart."""

import ast
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from fer_jax import config, train
from fer_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.py"))
PRINTS = {"train": "aa", "validation": "bb"}


def load(name="b2.py"):
    return config.load_config(ROOT / "configs" / name, name)


def flat(settings):
    """`section.key` -> value of a config as its file has it."""
    return {
        f"{section}.{key}" if key else section: value
        for section, values in settings.items()
        for key, value in (values.items() if hasattr(values, "items") else [("", values)])
    }


def filled(settings):
    return config.fill(train.Config, settings)


KEYS = dict(config.keys(train.Config))


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
    filled(load(name))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_says_its_command_and_what_to_expect(name):
    docstring = ast.get_docstring(ast.parse(text(name)))
    assert docstring is not None
    assert f"--config=configs/{name}" in docstring
    assert "Expected:" in docstring


@pytest.mark.slow
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
    """By an attribute of its name, or handed over with its whole section."""
    names = set()
    for path in (ROOT / "fer_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
    assert not [key for key in KEYS if key.split(".")[-1] not in names]


def test_the_configs_have_the_keys_that_are_asked_for():
    assert flat(load("b2.py")).keys() == KEYS.keys()


def changed(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return tuple(map(changed, value)) or (64,)
    return value + 1 if isinstance(value, int) else value / 2 or 0.5


# Another legal value, where half of a number or one more is none.
OTHERS = {
    "data.on_corrupt": "skip",
    "model.variant": "b3",
    "model.padding": "symmetric",
    "model.stem_stride": 1,
    "model.head_padding": "SAME",
    "model.dtype": "bfloat16",
    "optimizer.name": "sgd",
    "schedule.name": "cosine",
    "loss.class_weights": "none",
    "checkpoint.select_by": "loss",
    "train.sizes": (96,),
}
PARENTS = {"optimizer.weight_decay": {"optimizer.name": "adamw"}}  # what makes a value legal


@pytest.mark.parametrize("key", sorted(KEYS))
def test_the_identity_changes_with_what_changes_the_result(key):
    before, after = load("b2.py"), load("b2.py")
    for settings in (before, after):
        settings.update_from_flattened_dict(PARENTS.get(key, {}))
    after.update_from_flattened_dict({key: OTHERS.get(key, changed(flat(before)[key]))})
    one, other = (config.identity(filled(settings), PRINTS) for settings in (before, after))
    neutral = KEYS[key].metadata["neutral"]
    assert (config.short_hash(one) == config.short_hash(other)) == neutral
    differences = config.difference(one, other)
    assert len(differences) == (0 if neutral else 1)
    assert all(line.startswith(f"{key}: ") for line in differences)


def test_what_does_not_change_the_result():
    assert {key for key, field in KEYS.items() if field.metadata["neutral"]} == {
        "init.weights",  # its content counts, as a fingerprint
        "data.path",
        "data.exclude",
        "data.map",  # what it makes of train counts, as its fingerprint
        "data.targets",
        "data.cache_mib",
        "data.max_pixels",
        "data.workers",
        "evaluation.batch_size",
        "evaluation.bootstrap_samples",
        "checkpoint.every_steps",
        "log.every_steps",
        "log.tensorboard",
    }


def test_the_identity_changes_with_the_training_and_validation_data_alone():
    settings = filled(load("b2.py"))
    hashes = [
        config.short_hash(config.identity(settings, prints))
        for prints in (PRINTS, PRINTS | {"train": "cc"}, PRINTS | {"validation": "cc"})
    ]
    assert len(set(hashes)) == 3
    with_test = config.identity(settings, PRINTS | {"test": "dd"})
    assert config.short_hash(with_test) == hashes[0]
    assert re.fullmatch(r"[0-9a-f]{8}", hashes[0])


@pytest.mark.parametrize("name", ["weights", "targets"])
def test_the_identity_changes_with_the_files_that_training_reads(name):
    settings = filled(load("b2.py"))
    one, other = (config.identity(settings, PRINTS | {name: digest}) for digest in ("cc", "dd"))
    assert config.difference(one, other) == [f"fingerprint.{name}: cc -> dd"]


def test_a_run_whose_seed_gave_other_batches_is_another_one(monkeypatch):
    now = config.identity(filled(load("b2.py")), PRINTS)
    monkeypatch.setattr(config, "BATCHES", config.BATCHES + 1)
    later = config.identity(filled(load("b2.py")), PRINTS)
    assert config.difference(now, later) == ["batches: 2 -> 3"]


def test_what_is_stored_as_json_fills_the_same():
    settings = load("b2.py")
    settings.train.sizes = (80, 96)
    stored = json.loads(json.dumps(dataclasses.asdict(filled(settings))))
    assert filled(stored) == filled(settings)


def test_whole_numbers_are_the_same_numbers():
    """Also within a tuple: the same run has one name, however its numbers are written."""
    whole, broken = load("b2.py"), load("b2.py")
    for settings, number in ((whole, int), (broken, float)):
        settings.model.input_mean = (number(0),) * 3
        settings.loss.label_smoothing = number(0)
    names = [config.short_hash(config.identity(filled(x), PRINTS)) for x in (whole, broken)]
    assert names[0] == names[1]


@pytest.mark.parametrize("number", [10**400, 1e400])
def test_a_number_beyond_floats_is_refused_however_it_is_written(number):
    settings = load("b2.py")
    settings.model.input_mean = (number, 0, 0)
    with pytest.raises(UserError, match="input_mean"):
        filled(settings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda c: c["optimizer"].update(learning_rat=0.1),
            "did you mean 'optimizer.learning_rate'",
        ),
        (lambda c: c.update(optimiser={}), "no config key 'optimiser': did you mean 'optimizer'"),
        (lambda c: c["optimizer"].update(zzz=1), "no config key 'optimizer.zzz'"),
        (lambda c: c["optimizer"].pop("b2"), "has no key 'optimizer.b2'"),
        (lambda c: c.pop("mixing"), "has no key 'mixing'"),
        (lambda c: c.update(mixing=1), "mixing must be a section"),
        (lambda c: c["train"].update(epochs="8"), "train.epochs='8' must be a whole number"),
        (lambda c: c["train"].update(epochs=True), "train.epochs=True must be a whole number"),
        (lambda c: c["train"].update(epochs=1.5), "train.epochs=1.5 must be a whole number"),
        (lambda c: c["augment"].update(flip=1), "augment.flip=1 must be True or False"),
        (
            lambda c: c["model"].update(input_mean=[0, 0]),
            "input_mean=(0.0, 0.0) must be tuple",
        ),
    ],
)
def test_a_config_file_with_a_mistake_is_refused_in_one_line(change, words):
    """Flags are refused before; a file may say what it will."""
    settings = load("b2.py").to_dict()
    change(settings)
    with pytest.raises(UserError) as caught:
        filled(settings)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absent_keys_are_named_in_a_difference():
    assert config.difference({"a": 1}, {"b": 2}) == ["a: 1 -> (absent)", "b: (absent) -> 2"]


LIMITS = {k: field.metadata for k, field in KEYS.items() if field.metadata["low"] is not None}
CHOICES = {k: field.metadata["choices"] for k, field in KEYS.items() if field.metadata["choices"]}


def made_with(key, value):
    """The section of `key` alone, with `value` there: no rule that spans sections."""
    settings = load("b2.py").to_dict()
    section, _, name = key.rpartition(".")
    kinds = typing.get_type_hints(train.Config)
    if not section:
        return filled(settings | {name: value})
    return config.fill(kinds[section], settings[section] | {name: value}, f"{section}.")


def of_its_kind(key, number):
    """A value of that key's type, of such numbers."""
    kind = KEYS[key].type
    return (typing.get_args(kind)[0](number),) * 3 if typing.get_origin(kind) else kind(number)


@pytest.mark.parametrize("key", sorted(LIMITS))
def test_values_beyond_their_limits_are_refused(key):
    for bound, direction in ((LIMITS[key]["low"], -1), (LIMITS[key]["high"], 1)):
        if key != "optimizer.weight_decay":  # which Adam refuses
            made_with(key, of_its_kind(key, bound))
        beyond = of_its_kind(key, bound + direction)
        with pytest.raises(
            UserError, match=rf"{key}=.* must be from .*{bound:g}".replace("+", ".")
        ):
            made_with(key, beyond)


def test_every_number_has_limits():
    kinds = {key: typing.get_args(field.type) or (field.type,) for key, field in KEYS.items()}
    numbers = {key for key, kind in kinds.items() if kind[0] in (int, float)}
    assert numbers - LIMITS.keys() == {"data.split_seed"}


@pytest.mark.parametrize("key", sorted(CHOICES))
def test_words_that_are_no_choice_are_refused(key):
    for word in CHOICES[key]:
        made_with(key, word)
    with pytest.raises(UserError, match=CHOICES[key][0]):
        made_with(key, "other")


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
        filled(settings)
    assert key.split(".")[-1] in str(caught.value)
