"""Out to another library's format and back: the same answers on images, or a line that asks."""

import copy
import functools
import itertools
import json

import cv2
import h5py
import jax
import numpy as np
import pytest
import safetensors.numpy
from made_models import (
    PUBLISHED,
    keras_config,
    keras_layers,
    made_file,
    made_model,
    made_variables,
    torch_arrays,
    two_stages,
    write_archive,
    write_weights,
)
from support import call, slow_but

from fer_jax import model_file
from fer_jax.conversion.exporting import TARGETS
from fer_jax.conversion.names import COLUMNS
from fer_jax.labels import LABELS

SIZE = 66  # pixels: no variant's own
IMAGES = np.random.default_rng(0).integers(
    [[[[0]]], [[[150]]]], [[[[50]]], [[[256]]]], (2, 48, 48, 3)
)
BACK = [*(name for name in TARGETS if name in COLUMNS), "fer_jax", "hub"]  # the others only run
ODD = (0.1, 0.2, 0.3), (0.9, 0.5, 0.25)
HASHES = np.arange(20_000, dtype=np.uint64).reshape(-1, 2)  # more than one attribute of HDF5 holds


@pytest.fixture(scope="module", autouse=True)
def small():
    with two_stages():
        yield


@functools.cache
def compiled(model):
    return jax.jit(functools.partial(model.apply, train=False))


def answers(path):
    """Logits, or features, of IMAGES by the model file `path`, as evaluation would ask it."""
    file = model_file.load(path)
    size = (file.about.image_size,) * 2
    batch = np.stack(
        [
            cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
            for image in IMAGES.astype(np.uint8)
        ]
    )
    found = np.asarray(compiled(file.model())(file.variables, batch))
    assert np.ptp(found, axis=0).max() > 0.01 * np.abs(found).max()  # the images are told apart
    return found


def small_model(**settings):
    return made_model(**({"variant": "tiny"} | settings))


def calm(model, seed=0):
    """Variables whose signals neither die nor explode, so that answers tell much."""
    variables = made_variables(model, seed)
    flat, tree = jax.tree.flatten(variables)
    draw = np.random.default_rng(seed)
    narrow = [
        leaf if leaf.ndim == 1 else draw.normal(0, leaf[..., 0].size ** -0.5, leaf.shape)
        for leaf in flat
    ]
    return jax.tree.unflatten(tree, [np.asarray(leaf, np.float32) for leaf in narrow])


def convert(source, target, input_file, output, *flags):
    return call(
        "convert",
        [
            f"--source={source}",
            f"--target={target}",
            f"--input={input_file}",
            f"--output={output}",
            *flags,
        ],
    )


def converted(source, target, input_file, *arguments):
    if source == "hub":  # a folder, with our own file in it
        source, input_file = "fer_jax", input_file / "model.safetensors"
    arguments = source, target, input_file, *arguments
    outcome = convert(*arguments)
    assert outcome.status == 0, outcome.err
    return outcome


def ours(path, **settings):
    """A file of ours that no format's custom would guess."""
    kinds = settings.pop("labels", None)
    model = small_model(**({"scaling": ODD} | settings))
    file = made_file(model, image_size=SIZE, **({"labels": kinds} if kinds else {}))
    file = model_file.ModelFile(file.about, calm(model), HASHES)
    model_file.save(path, file)
    return file


# ---- ours, out and back --------------------------------------------------------------------------

MODELS = {
    "the notebook's": {"head": "fer"},
    "head of padding SAME": {"head": "fer same"},
    "ImageNet's": {"head": "imagenet"},
    "headless": {"head": "none"},
    "symmetric": {"head": "fer", "padding": "symmetric", "epsilon": 1e-3},
    "Lite": {"head": "fer same", "variant": "lite0"},
}


QUICK = (
    ("the notebook's", "keras"),
    ("symmetric", "timm"),
    ("symmetric", "keras"),
    ("Lite", "fer_jax"),
    ("headless", "hub"),
)


@pytest.mark.parametrize(("kind", "target"), slow_but(QUICK, itertools.product(MODELS, BACK)))
def test_our_models_come_back_with_their_answers_and_their_header(kind, target, tmp_path):
    start, out = tmp_path / "a.safetensors", tmp_path / f"b{TARGETS[target].suffix}"
    file = ours(start, **MODELS[kind])
    if kind in ("symmetric", "Lite") and target == "keras":
        assert "export it to timm" in convert("fer_jax", target, start, out).refusal()
        return
    if (kind, target) == ("headless", "hub"):
        assert "no answers to export" in convert("fer_jax", target, start, out).refusal()
        return
    converted("fer_jax", target, start, out)
    outcome = converted(target, "fer_jax", out, tmp_path / "c.safetensors")
    again = model_file.load(tmp_path / "c.safetensors")
    np.testing.assert_array_equal(answers(tmp_path / "c.safetensors"), answers(start))
    assert again.about == file.about
    np.testing.assert_array_equal(again.train_hashes, HASHES)
    assert f"{SIZE} px" in outcome.out


# ---- theirs: every source through every target ---------------------------------------------------


def theirs(folder, source, padding="same", epsilon=1e-3, head="imagenet"):
    model = small_model(head=head, padding=padding, epsilon=epsilon)
    variables = calm(model)
    if source == "keras":
        layers = keras_layers(model, variables, mean=PUBLISHED[0], variance=PUBLISHED[1])
        return write_weights(folder / "theirs.weights.h5", layers)
    path = folder / "theirs.safetensors"
    safetensors.numpy.save_file(torch_arrays(source, variables), path)
    return path


QUICKLY = ("keras", "timm"), ("timm", "keras"), ("torchvision", "keras"), ("lukemelas", "hub")


@pytest.mark.parametrize(("source", "target"), slow_but(QUICKLY, itertools.product(COLUMNS, BACK)))
def test_their_models_come_back_from_every_format(source, target, tmp_path):
    path = theirs(tmp_path, source)
    direct, back = tmp_path / "direct.safetensors", tmp_path / "back.safetensors"
    converted(source, "fer_jax", path, direct, f"--image_size={SIZE}")
    out = tmp_path / f"out{TARGETS[target].suffix}"
    outcome = convert(source, target, path, out, f"--image_size={SIZE}")
    if source == "torchvision" and target == "keras":
        assert "symmetric" in outcome.refusal()
        return
    assert outcome.status == 0, outcome.err
    converted(target, "fer_jax", out, back)
    np.testing.assert_array_equal(answers(back), answers(direct))


# ---- what a file does not say is asked for -------------------------------------------------------


def without_header(path):
    """The file as another program would write it again, without what we said in it."""
    if path.name.endswith(".h5"):
        with h5py.File(path, "a") as file:
            del file["fer_jax"]
    else:
        safetensors.numpy.save_file(safetensors.numpy.load_file(path), path)


ASKED = {
    "timm": ("padding", "image_size", "head_padding", "input_mean", "input_std"),
    "keras": ("image_size", "head_padding"),
}
TOLD = {
    "padding": "same",
    "image_size": str(SIZE),
    "head_padding": "same",
    "input_mean": "0.1,0.2,0.3",
    "input_std": "0.9,0.5,0.25",
}


@pytest.mark.parametrize("target", ["timm", "keras"])
def test_what_a_file_does_not_say_is_asked_for(target, tmp_path):
    start, out = tmp_path / "a.safetensors", tmp_path / f"b{TARGETS[target].suffix}"
    ours(start, head="fer same")
    converted("fer_jax", target, start, out)
    without_header(out)
    back = tmp_path / "c.safetensors"
    line = convert(target, "fer_jax", out, back).refusal()
    assert [name for name in TOLD if f"--{name}" in line] == list(ASKED[target])
    converted(target, "fer_jax", out, back, *(f"--{name}={TOLD[name]}" for name in ASKED[target]))
    np.testing.assert_allclose(answers(back), answers(start), rtol=1e-5)


AGAINST = (
    "--image_size=260",
    "--head_padding=valid",
    "--input_mean=0,0,0",
    "--input_std=1,1,1",
    "--bn_epsilon=0.1",
    "--variant=b0",
    f"--labels={','.join(LABELS[::-1])}",
)


@pytest.mark.parametrize("target", ["timm", "keras"])
def test_a_flag_against_our_own_header_is_refused(target, tmp_path):
    start, out = tmp_path / "a.safetensors", tmp_path / f"b{TARGETS[target].suffix}"
    ours(start, head="fer same")
    converted("fer_jax", target, start, out)
    for flag in AGAINST:
        line = convert(target, "fer_jax", out, tmp_path / "c.safetensors", flag).refusal()
        assert "its header says" in line
        assert flag.split("=")[0] in line
    right = [f"--image_size={SIZE}", "--head_padding=same", "--input_std=0.9,0.5,0.25"]
    converted(target, "fer_jax", out, tmp_path / "c.safetensors", "--variant=tiny", *right)


def test_a_header_of_another_model_is_refused(tmp_path):
    start, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    ours(start, head="fer")
    converted("fer_jax", "timm", start, out)
    with safetensors.safe_open(out, framework="numpy") as file:
        header = file.metadata()
    tensors = safetensors.numpy.load_file(out)
    fields = json.loads(header["fer_jax"])
    another = copy.deepcopy(fields)
    another["architecture"]["variant"] = "b4"
    impossible = copy.deepcopy(fields)
    impossible["architecture"]["head"]["filters"] = "x"
    for made in (another, impossible, fields | {"image_size": -1}, None):
        changed = "{" if made is None else json.dumps(made)
        safetensors.numpy.save_file(tensors, out, metadata={"fer_jax": changed})
        assert str(out) in convert("timm", "fer_jax", out, tmp_path / "c.safetensors").refusal()


@pytest.mark.parametrize("side", [96, None])
def test_a_notebooks_model_has_the_size_it_was_built_for(side, tmp_path):
    model = small_model(head="fer")
    layers = keras_layers(model, calm(model))
    config = keras_config(layers, nested=True)
    inputs = config["config"]["layers"][0]["config"]["layers"][0]["config"]
    inputs["batch_shape"] = [None, side, side, 3]
    path = write_archive(tmp_path / "m.keras", layers, config, nested=True)
    flags = [] if side else ["--image_size=96"]
    out = tmp_path / "m.safetensors"
    if not side:
        assert "--image_size" in convert("keras", "fer_jax", path, out).refusal()
    converted("keras", "fer_jax", path, out, *flags)
    assert model_file.load(out).about.image_size == 96


@pytest.mark.parametrize("size", ["32", "0", "-96", "4097", "x"])
def test_a_size_that_no_model_has_is_refused(size, tmp_path):
    model = small_model(head="fer")
    path = write_weights(tmp_path / "m.weights.h5", keras_layers(model, calm(model)))
    flags = [f"--image_size={size}", "--head_padding=valid"]
    line = convert("keras", "fer_jax", path, tmp_path / "m.safetensors", *flags).refusal()
    assert size in line


# ---- other people's classes and heads ------------------------------------------------------------


def test_seven_classes_in_another_order_are_put_into_ours(tmp_path):
    """By their names, whatever their language of emotions; the answers move with them."""
    order = ("Anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    model = small_model(head="fer")
    path = write_weights(tmp_path / "m.weights.h5", keras_layers(model, calm(model)))
    flags = [f"--image_size={SIZE}", "--head_padding=valid"]
    plain, sorted_ = tmp_path / "plain.safetensors", tmp_path / "sorted.safetensors"
    converted("keras", "fer_jax", path, plain, *flags)
    converted("keras", "fer_jax", path, sorted_, *flags, f"--labels={','.join(order)}")
    about = model_file.load(sorted_).about
    assert about.labels == list(LABELS)
    assert about.origin["labels"] == ",".join(order)
    as_theirs = {"angry": 0, "disgust": 1, "fear": 2, "happy": 3, "sad": 4, "surprise": 5}
    moved = [as_theirs.get(name, 6) for name in LABELS]
    np.testing.assert_array_equal(answers(sorted_), answers(plain)[:, moved])


@pytest.mark.parametrize("source", slow_but(("keras", "timm"), COLUMNS))
def test_a_foreign_head_can_be_left(source, tmp_path):
    """Whatever it is: the backbone serves, and answers with its features."""
    headless, path = tmp_path / "none.safetensors", theirs(tmp_path, source, head="none")
    size = f"--image_size={SIZE}"
    converted(source, "fer_jax", path, headless, size)
    if source == "keras":
        with h5py.File(path, "a") as file:
            group = file.create_group("layers/dense_7/vars")
            group.attrs["name"], group["0"] = "emotions", np.ones((3, 8), np.float32)
            for number in range(1, 6):  # more variables than any layer of ours has
                group[str(number)] = np.ones(8, np.float32)
    else:
        tensors = safetensors.numpy.load_file(path)
        tensors |= {"classifier.0.weight": np.ones((8, 3), np.float32)}
        safetensors.numpy.save_file(tensors, path)
    out = tmp_path / "dropped.safetensors"
    assert "--head=drop" in convert(source, "fer_jax", path, out).refusal()
    outcome = converted(source, "fer_jax", path, out, "--head=drop", size)
    assert "no head" in outcome.out
    np.testing.assert_array_equal(answers(out), answers(headless))


def test_a_head_of_ours_can_be_left_too(tmp_path):
    start, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    ours(start, head="fer")
    converted("fer_jax", "timm", start, out)
    converted("timm", "fer_jax", out, tmp_path / "c.safetensors", "--head=drop")
    about = model_file.load(tmp_path / "c.safetensors").about
    assert (about.architecture["head"], about.labels, about.metrics) == (None, None, None)
    assert about.image_size == SIZE
    converted("fer_jax", "fer_jax", start, tmp_path / "d.safetensors", "--head=drop")
    np.testing.assert_array_equal(
        answers(tmp_path / "d.safetensors"), answers(tmp_path / "c.safetensors")
    )


def test_a_dropped_head_excuses_no_part_of_the_backbone(tmp_path):
    path = theirs(tmp_path, "timm")
    tensors = safetensors.numpy.load_file(path)
    tensors["blocks.9.0.conv_pw.weight"] = np.ones((3, 3, 1, 1), np.float32)
    safetensors.numpy.save_file(tensors, path)
    line = convert("timm", "fer_jax", path, tmp_path / "m.safetensors", "--head=drop").refusal()
    assert "1 left over (blocks.9.0.conv_pw.weight)" in line


@pytest.mark.parametrize("source", ["keras", "timm", "fer_jax"])
def test_a_pointer_of_git_lfs_is_named_as_one(source, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n")
    line = convert(source, "fer_jax", path, tmp_path / "out.safetensors").refusal()
    assert "Git LFS pointer" in line
    assert "git lfs pull" in line
