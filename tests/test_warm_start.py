"""Training from a model file: what is taken from it, what is refused, and which runs go on.

Run as a program, this file is one of two processes that start from the same file.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from support import (
    COUNTS,
    ROOT,
    Counts,
    arrays,
    assert_identical,
    call,
    compile_cache,
    small_config,
    small_run,
)

from fer_jax import model_file
from fer_jax.data.files import sha256
from fer_jax.errors import UserError
from fer_jax.model_file import About, ModelFile
from fer_jax.models.classifier import ImagenetHead, describe, make_model, variable_shapes
from fer_jax.train import make_trainer
from fer_jax.training import mesh

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = {"model__input_mean": MEAN, "model__input_std": STD}


def write(path, seed=1, head=None, **changes):
    """A model file as from elsewhere: no leaf of it is what a fresh model has."""
    model = make_model(small_config("", **(IMAGENET | changes)).model).clone(head=head)
    draw = np.random.default_rng(seed)
    flat = {
        name: draw.uniform(0.1, 0.3, shape).astype(np.float32)
        for name, shape in variable_shapes(model).items()
    }
    leaves = unflatten_dict(flat, sep="/")
    origin = {"source": "keras", "file": "made.h5"}
    about = About(describe(model), 260, None, origin, "Apache-2.0", None, None)
    model_file.save(path, ModelFile(about, leaves))
    return leaves


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The path of a model file with an ImageNet head, and its variables."""
    path = tmp_path_factory.mktemp("given") / "made.safetensors"
    return path, write(path, head=ImagenetHead(10, 0.2))


def trainer(path="", **changes):
    settings = IMAGENET | {"init__weights": str(path)} | changes
    return make_trainer(small_config("", **settings), Counts(COUNTS["train"]))


# --- What is taken ----------------------------------------------------------------------------


def test_the_backbone_is_the_files_and_the_head_is_fresh(given):
    path, variables = given
    state, scratch = trainer(path).init(), trainer().init()
    assert_identical(state.params["backbone"], variables["params"]["backbone"])
    assert_identical(state.batch_stats, variables["batch_stats"])
    assert_identical(state.params["head"], scratch.params["head"])
    assert_identical(state.ema, state.variables)
    assert_identical(state.opt_state, scratch.opt_state)
    template = trainer(path).template()
    assert jax.tree.structure(state) == jax.tree.structure(template)
    for leaf, shape in zip(jax.tree.leaves(state), jax.tree.leaves(template), strict=True):
        assert (leaf.shape, leaf.dtype, leaf.sharding) == (shape.shape, shape.dtype, shape.sharding)


def test_the_first_step_gives_away_nothing_that_is_needed_again(given):
    """The state is donated; arrays of the file that it shared would be lost or overwritten."""
    path, variables = given
    bound = trainer(path)
    batch = mesh.to_devices(
        {"image": np.zeros((8, 32, 32, 3), np.uint8), "label": np.zeros(8, np.int32)},
        mesh.sharded(bound.evaluator.mesh),
    )
    bound.train_step(bound.init(), batch)
    assert_identical(bound.init().params["backbone"], variables["params"]["backbone"])


def test_the_first_line_lists_what_is_left_over_on_both_sides(given, tmp_path):
    path, _ = given
    shapes = variable_shapes(make_model(small_config("", **IMAGENET).model))
    lines = trainer(path, init__frozen_epochs=1).beginning().splitlines()
    assert lines == [
        f"init: of {path} (keras mini) {len(shapes) - 6} of {len(shapes)} arrays",
        "  drawn: arrays 6 of head",
        "  left over: arrays 2 of head",
        "  backbone frozen for 11 steps",
    ]
    write(tmp_path / "bare.safetensors")
    assert "left over" not in trainer(tmp_path / "bare.safetensors").beginning()
    assert trainer().beginning() == "init: random weights"


# --- What is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "override"),
    [
        ("variant", "tiny", "--config.model.variant=tiny"),
        ("padding", "symmetric", "--config.model.padding=symmetric"),
        ("bn_epsilon", 1e-5, "--config.model.bn_epsilon=1e-05"),
        ("input_mean", (0.5, 0.25, 1 / 3), "--config.model.input_mean=0.5,0.25,0.3333333"),
        ("input_std", (0.5, 0.5, 0.5), "--config.model.input_std=0.5,0.5,0.5"),
    ],
)
def test_a_file_of_another_model_is_refused_with_the_override(tmp_path, setting, value, override):
    path = tmp_path / "other.safetensors"
    write(path, **{f"model__{setting}": value})
    with pytest.raises(UserError) as caught:
        trainer(path)
    relative = " (init.partial=True takes what fits of a relative)" if setting == "variant" else ""
    said = f"{path} was trained otherwise than the config says{relative}: add {override}"
    assert str(caught.value) == said
    trainer(path, **{f"model__{setting}": value})


def test_the_overrides_named_are_all_that_is_needed(tmp_path, small_csv):
    path = tmp_path / "other.safetensors"
    write(path, model__padding="symmetric", model__input_mean=(0.1, 1 / 3, 0))
    flags = small_run(small_csv, tmp_path / "run", model__variant="tiny")
    flags += [f"--config.init.weights={path}", "--dry_run"]
    line = call("main", flags).refusal()
    overrides = [word for word in line.split() if word.startswith("--")]
    assert len(overrides) == 4  # b2.py has Keras' scaling without weights
    outcome = call("main", [*flags, *overrides])
    assert outcome.status == 0, outcome.err
    assert f"init: of {path}" in outcome.out
    assert not (tmp_path / "run").exists()


def test_a_stem_of_another_stride_is_no_difference(given):
    """Its arrays are of the same shapes: ImageNet's stem of stride 2 starts one of stride 1."""
    path, variables = given
    state = trainer(path, model__stem_stride=1).init()
    assert_identical(state.params["backbone"], variables["params"]["backbone"])


def test_what_a_converter_rounds_is_no_difference(tmp_path):
    """Keras' files hold the deviation as a float32 variance, which is divided again."""
    std = tuple(float(np.sqrt(np.float32(x))) * float(np.sqrt(x)) for x in STD)
    assert std != STD
    write(tmp_path / "keras.safetensors", model__input_std=std)
    trainer(tmp_path / "keras.safetensors")


def test_a_file_that_is_no_model_is_refused(tmp_path, small_csv):
    path = tmp_path / "noise.safetensors"
    path.write_bytes(b"noise")
    flags = [*small_run(small_csv, tmp_path / "run"), f"--config.init.weights={path}"]
    assert str(path) in call("main", flags).refusal()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("weights", ["", "nowhere.safetensors"])
def test_imagenet_without_its_file_says_how_to_get_it(weights, tmp_path):
    config = ROOT / "configs" / "b2_imagenet.py"
    flags = [f"--config={config}", "--config.data.path=synthetic", f"--workdir={tmp_path / 'run'}"]
    line = call("main", [*flags, f"--config.init.weights={weights}"]).refusal()
    for words in ("make pretrained", "python -m fer_jax.convert", "--config.init.weights=FILE"):
        assert words in line


def test_weights_that_cannot_be_looked_at_are_refused(tmp_path):
    flags = ["--config=configs/lite2.py", f"--workdir={tmp_path / 'run'}"]
    line = call("main", [*flags, f"--config.init.weights={'a' * 300}"]).refusal()
    assert "make pretrained" in line
    assert "--variant" not in line


# --- Which runs go on -------------------------------------------------------------------------


def warm_run(data, workdir, weights, frozen_epochs=1):
    """The flags of a run of one epoch, by default of the head alone."""
    flags = small_run(data, workdir, train__epochs=1, init__frozen_epochs=frozen_epochs)
    scaling = [f"--config.model.input_mean={MEAN}", f"--config.model.input_std={STD}"]
    return [*flags, *scaling, *([f"--config.init.weights={weights}"] if weights else [])]


@pytest.fixture(scope="module")
def finished(given, small_csv, tmp_path_factory):
    """The workdir of a finished run from the given file, and what it said."""
    workdir = tmp_path_factory.mktemp("warm") / "run"
    outcome = call("main", warm_run(small_csv, workdir, given[0]))
    assert outcome.status == 0, outcome.err
    return workdir, outcome


def test_a_fresh_run_says_once_what_it_starts_from(finished):
    workdir, outcome = finished
    assert outcome.out.count("init: of ") == 1
    identity = json.loads((workdir / "run.json").read_text())["identity"]
    assert len(identity["fingerprint.weights"]) == 64
    assert "init.weights" not in identity
    assert "backbone frozen for 11 steps" in outcome.out


def test_the_same_file_elsewhere_is_the_same_run(finished, given, small_csv, tmp_path):
    moved = tmp_path / "moved.safetensors"
    shutil.copy(given[0], moved)
    outcome = call("main", warm_run(small_csv, finished[0], moved))
    assert outcome.status == 0, outcome.err
    assert "already finished" in outcome.out


def test_another_file_under_the_same_name_is_another_run(finished, small_csv, tmp_path):
    other = tmp_path / "made.safetensors"
    write(other, seed=2, head=ImagenetHead(10, 0.2))
    line = call("main", warm_run(small_csv, finished[0], other)).refusal()
    assert "fingerprint.weights: " in line


def test_a_run_from_scratch_is_another_run(finished, small_csv):
    line = call("main", warm_run(small_csv, finished[0], "", frozen_epochs=0)).refusal()
    assert "fingerprint.weights: " in line
    assert "-> (absent)" in line


# --- Two processes ----------------------------------------------------------------------------


def two_steps(path):
    """The state before any step, and after one of the head and one of everything, by path."""
    bound, draw = trainer(path, init__frozen_epochs=1), np.random.default_rng(5)
    start = bound.init()
    found = {f"start{name}": leaf for name, leaf in arrays(start).items()}
    images = draw.integers(0, 256, (8, 32, 32, 3), np.uint8)
    batch = {"image": images, "label": draw.integers(0, 7, 8).astype(np.int32)}
    block = slice(jax.process_index() * 8 // jax.process_count(), None)
    block = slice(block.start, block.start + 8 // jax.process_count())
    local = {name: array[block] for name, array in batch.items()}
    batch = mesh.to_devices(local, mesh.sharded(bound.evaluator.mesh))
    state, _ = bound.train_step(start, batch, True)
    state, metrics = bound.train_step(state, batch)
    return found | {f"metrics{name}": leaf for name, leaf in arrays(metrics).items()}


@pytest.fixture(scope="module")
def both(given, tmp_path_factory):
    """What two processes said and wrote that started from the given file."""
    output = tmp_path_factory.mktemp("both") / "two.npz"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    children = [
        subprocess.Popen(
            [sys.executable, __file__, f"localhost:{port}", str(i), str(given[0]), str(output)],
            cwd=ROOT,
            env=os.environ | compile_cache() | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    said = [child.communicate(timeout=280) for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    with np.load(output) as file:
        return dict(file), [out for out, _ in said]


@pytest.mark.slow
def test_two_processes_start_where_one_does(both, given):
    two, one = both[0], two_steps(given[0])
    assert two.keys() == one.keys()
    for name, expected in one.items():
        if name.startswith("start"):
            assert two[name].tobytes() == expected.tobytes(), name
        else:
            np.testing.assert_allclose(two[name], expected, rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_processes_with_different_files_are_told(both):
    for out in both[1]:
        assert "init.weights is not the same file for every process: copy one to all" in out


if __name__ == "__main__":
    coordinator, process, weights, output_file = sys.argv[1:]
    mesh.start(coordinator, 2, int(process))
    result = two_steps(weights)
    mesh.check_same("init.weights", sha256(Path(weights)))
    try:
        mesh.check_same("init.weights", f"{int(process):064x}")
    except UserError as error:
        print(error)
    if process == "0":
        np.savez(output_file, **result)
