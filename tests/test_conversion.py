"""Made files of Keras, timm and torchvision become our variables, and ours become theirs again."""

import dataclasses
import json
import math

import h5py
import jax
import numpy as np
import pytest
import safetensors.numpy
from made_models import (
    PUBLISHED,
    RESCALING,
    UNIT,
    keras_config,
    keras_layers,
    made_file,
    made_model,
    made_variables,
    torch_arrays,
    two_stages,
    wanted,
    write_archive,
    write_legacy,
    write_weights,
)
from support import arrays, assert_identical

from fer_jax import model_file
from fer_jax.conversion import layout, names
from fer_jax.conversion.exporting import export_keras, export_timm
from fer_jax.conversion.importing import import_file
from fer_jax.errors import UserError
from fer_jax.labels import LABELS
from fer_jax.models import efficientnet

RED = (AssertionError, UserError)  # what a check that fails raises


@pytest.fixture(scope="module", autouse=True)
def small():
    with two_stages():
        yield


def refusal(path, as_told):
    with pytest.raises(UserError) as caught:
        import_file(path, as_told)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def scaling(file):
    return file.about.architecture["input_mean"], file.about.architecture["input_std"]


# ---- layouts -----------------------------------------------------------------------------------

LAYOUTS = {  # name -> (suffix, writer of path, layers, nested)
    "legacy": (".h5", lambda p, x, nested: write_legacy(p, x, nested)),
    "legacy of tf.keras": (".h5", lambda p, x, nested: write_legacy(p, x, nested, tf=True)),
    "legacy in two lists": (".h5", lambda p, x, nested: write_legacy(p, x, nested, split=True)),
    "whole": (
        ".h5",
        lambda p, x, nested: write_legacy(p, x, nested, config=keras_config(x, nested)),
    ),
    "whole of tf.keras": (
        ".h5",
        lambda p, x, nested: write_legacy(p, x, nested, tf=True, config=keras_config(x, nested)),
    ),
    "weights": (".weights.h5", lambda p, x, nested: write_weights(p, x, nested)),
    "weights before 3.4": (".weights.h5", lambda p, x, nested: write_weights(p, x, nested, False)),
    "archive": (
        ".keras",
        lambda p, x, nested: write_archive(p, x, keras_config(x, nested), nested),
    ),
    "archive before 3.4": (
        ".keras",
        lambda p, x, nested: write_archive(p, x, keras_config(x, nested), nested, False),
    ),
}
CASES = [
    (kind, head, nested)
    for kind in LAYOUTS
    for head, nested in (("none", False), ("imagenet", False), ("fer", False), ("fer", True))
]


def write_keras_file(folder, kind, nested, layers):
    suffix, write = LAYOUTS[kind]
    return write(folder / f"m{suffix}", layers, nested)


@pytest.mark.parametrize(("kind", "head", "nested"), CASES)
def test_every_layout_of_keras_gives_the_same_variables(kind, head, nested, tmp_path):
    model = made_model(head=head)
    variables = made_variables(model)
    path = write_keras_file(tmp_path, kind, nested, keras_layers(model, variables))
    file = import_file(path, wanted())
    assert_identical(file.variables, variables)
    assert scaling(file) == ([0.0] * 3, [1.0] * 3)
    assert file.about.architecture["padding"] == "same"
    assert file.about.labels == (list(LABELS) if head == "fer" else None)
    assert file.about.origin["file"] == path.name


def test_weights_of_keras_3_0_have_bare_names(tmp_path):
    model = made_model()
    variables = made_variables(model)
    path = write_legacy(tmp_path / "m.h5", keras_layers(model, variables), bare=True)
    assert_identical(import_file(path, wanted()).variables, variables)


@pytest.mark.parametrize("kind", ["legacy", "weights", "weights before 3.4", "archive"])
@pytest.mark.parametrize("nested", [False, True])
def test_the_head_is_told_by_its_place_not_by_its_numbers(kind, nested, tmp_path):
    """Keras counts on through a session: the hidden layer may have the higher number."""
    model = made_model()
    variables = made_variables(model)
    layers = keras_layers(model, variables, head_names=("conv2d_41", "dense_9", "dense_8"))
    path = write_keras_file(tmp_path, kind, nested, layers)
    assert_identical(import_file(path, wanted()).variables, variables)


def test_names_with_slashes_do_no_harm(tmp_path):
    model = made_model()
    layers = keras_layers(model, made_variables(model), head_names=("a/b", "c/d/e", "f/g"))
    path = write_weights(tmp_path / "m.weights.h5", layers)
    assert_identical(import_file(path, wanted()).variables, made_variables(model))


@pytest.mark.parametrize("variant", ["tiny", "b0"])
def test_whole_backbones(variant, tmp_path, monkeypatch):
    monkeypatch.setattr(efficientnet, "STAGES", STAGES)
    model = made_model(variant)
    variables = made_variables(model)
    layers = keras_layers(model, variables)
    config = keras_config(layers, nested=True)
    kinds = (
        write_weights(tmp_path / "a.weights.h5", layers, nested=True, named=False),
        write_legacy(tmp_path / "b.h5", layers, nested=True, tf=True, config=config),
    )
    for path in kinds if variant == "tiny" else kinds[:1]:
        assert_identical(import_file(path, wanted(variant=variant)).variables, variables)


STAGES = efficientnet.STAGES  # all of them


# ---- scaling of the input ------------------------------------------------------------------------

STD = np.array(PUBLISHED[1])


def keras_file(folder, whole=False, before=(RESCALING,), extra=None, change=None, **statistics):
    """A legacy .h5, weights alone or a whole model, whose Normalization holds `statistics`."""
    model = made_model(head="none")
    layers = keras_layers(model, made_variables(model), **statistics)
    if change is not None:
        layers = [change(layer) for layer in layers]
    layers = [layer for layer in layers if layer is not None]
    config = keras_config(layers, before=before, extra=extra) if whole else None
    return write_legacy(folder / "m.h5", layers, config=config)


def rescaling(scale, offset=0.0):
    return {"class_name": "Rescaling", "config": {"name": "r", "scale": scale, "offset": offset}}


ADAPTED = {"mean": (0.5, 0.4, 0.3), "variance": (0.06, 0.05, 0.04)}
IMAGENET = {"mean": PUBLISHED[0], "variance": PUBLISHED[1]}
EXTRA = (1 / np.sqrt(STD)).tolist()


@pytest.mark.parametrize(
    ("made", "mean", "std"),
    [
        ({}, *UNIT),
        ({"whole": True}, *UNIT),
        (IMAGENET, *PUBLISHED),
        (IMAGENET | {"whole": True, "extra": EXTRA}, *PUBLISHED),
        (IMAGENET | {"whole": True}, PUBLISHED[0], np.sqrt(STD)),
        (ADAPTED, ADAPTED["mean"], np.sqrt(ADAPTED["variance"])),
        (ADAPTED | {"whole": True}, ADAPTED["mean"], np.sqrt(ADAPTED["variance"])),
        ({"whole": True, "before": [rescaling(1 / 127.5, -1.0)]}, [0.5] * 3, [0.5] * 3),
        ({"whole": True, "before": [rescaling([1 / 255] * 3, 0.5)]}, [-0.5] * 3, [1.0] * 3),
        ({"whole": True, "before": [RESCALING, RESCALING]}, [0.0] * 3, [255.0] * 3),
    ],
)
def test_the_scaling_of_the_input(made, mean, std, tmp_path):
    found = scaling(import_file(keras_file(tmp_path, **made), wanted()))
    np.testing.assert_allclose(found[0], mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found[1], std, rtol=1e-6)


def test_the_scaling_is_that_of_the_layers_themselves(tmp_path):
    """Any Rescaling and Normalization, applied one after the other to a pixel."""
    before = [rescaling(1 / 100, 0.25), rescaling([1.5, 2.0, 0.7], -0.1)]
    path = keras_file(tmp_path, whole=True, before=before, extra=[3.0, 2.0, 1.5], **ADAPTED)
    mean, std = scaling(import_file(path, wanted()))
    pixel = np.array([10.0, 100.0, 200.0])
    x = (pixel / 100 + 0.25) * np.array([1.5, 2.0, 0.7]) - 0.1
    x = (x - ADAPTED["mean"]) / np.sqrt(ADAPTED["variance"]) * np.array([3.0, 2.0, 1.5])
    np.testing.assert_allclose((pixel / 255 - mean) / std, x, rtol=1e-6)


def test_a_normalization_that_was_told_its_statistics_has_no_weights(tmp_path):
    def told(layer):
        if layer.kind != "normalization":
            return layer
        return dataclasses.replace(layer, arrays={}, settings=ADAPTED)

    mean, std = scaling(import_file(keras_file(tmp_path, whole=True, change=told), wanted()))
    np.testing.assert_allclose(mean, ADAPTED["mean"])
    np.testing.assert_allclose(std, np.sqrt(ADAPTED["variance"]))


def without_normalization(layer):
    return None if layer.kind == "normalization" else layer


def inverted(layer):
    settings = layer.settings | ({"invert": True} if layer.kind == "normalization" else {})
    return dataclasses.replace(layer, settings=settings)


@pytest.mark.parametrize(
    "made",
    [
        {"change": without_normalization},
        {"whole": True, "before": []},
        {"whole": True, "change": inverted},
        {"whole": True, "before": [rescaling(0.0)]},
        {"variance": (1.0, 0.0, 1.0)},
        {"variance": (1.0, -1.0, 1.0)},
        {"variance": (1.0, math.nan, 1.0)},
    ],
)
def test_a_scaling_that_cannot_be_told_must_be_given(made, tmp_path):
    path = keras_file(tmp_path, **made)
    line = refusal(path, wanted())
    assert "--input_mean" in line
    assert "--input_std" in line
    refusal(path, wanted(input_mean=PUBLISHED[0]))  # one is not enough
    given = wanted(input_mean=PUBLISHED[0], input_std=PUBLISHED[1])
    assert scaling(import_file(path, given)) == (list(PUBLISHED[0]), list(PUBLISHED[1]))


# ---- what the config of a whole model says -------------------------------------------------------


def whole(folder, change=lambda config: None, padding="valid", nested=True):
    model = made_model()
    layers = keras_layers(model, made_variables(model), head_padding=padding)
    config = keras_config(layers, nested)
    change(config)
    return write_archive(folder / "m.keras", layers, config, nested)


def every(config):
    """All layers of a config, nested ones too."""
    for layer in config["config"]["layers"]:
        yield from every(layer) if "layers" in layer["config"] else [layer]


def setting(name, **settings):
    def change(config):
        for layer in every(config):
            if layer["config"]["name"] == name:
                layer["config"].update(settings)

    return change


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("nested", [True, False])
def test_the_heads_padding_is_the_configs(padding, nested, tmp_path):
    path = whole(tmp_path, padding=padding, nested=nested)
    head = import_file(path, wanted()).about.architecture["head"]
    assert head["padding"] == padding.upper()


def test_the_epsilon_is_the_configs(tmp_path):
    file = import_file(whole(tmp_path, setting("stem_bn", epsilon=0.01)), wanted())
    assert file.about.architecture["bn_epsilon"] == 0.01


LAMBDA = {  # as Keras writes one: Python's byte code, which loading it in Keras would run
    "class_name": "Lambda",
    "config": {"name": "lambda", "function": ["4wEAAAAAAAAA", None, None]},
}


def with_layer(layer):
    return lambda config: config["config"]["layers"].append(layer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_layer(LAMBDA), ["'lambda'", "Lambda", "save the weights alone"]),
        (with_layer({"class_name": "os.system", "config": {"name": "x"}}), ["os.system"]),
        (setting("stem_activation", activation="relu"), ["stem_activation", "'relu'", "swish"]),
        (setting("block2a_se_reduce", activation="relu"), ["block2a_se_reduce", "silu"]),
        (setting("dense", activation="tanh"), ["dense", "'tanh'", "relu"]),
        (setting("dense_1", activation="sigmoid"), ["dense_1", "'sigmoid'", "softmax"]),
        (setting("conv2d", activation="linear"), ["conv2d", "'linear'", "relu"]),
    ],
)
def test_a_model_that_is_no_efficientnet_is_refused(change, words, tmp_path):
    line = refusal(whole(tmp_path, change), wanted())
    assert all(word in line for word in words), line


def test_augmentation_and_a_linear_end_are_taken(tmp_path):
    def change(config):
        setting("dense_1", activation="linear")(config)
        flip = {"class_name": "RandomFlip", "config": {"name": "random_flip"}}
        config["config"]["layers"].insert(0, flip)

    assert_identical(
        import_file(whole(tmp_path, change), wanted()).variables, made_variables(made_model())
    )


@pytest.mark.parametrize(
    "config",
    [
        {},
        [],
        7,
        {"config": 7},
        {"config": {"layers": 7}},
        {"config": {"layers": [7]}},
        {"config": {"layers": [{"config": "layers"}]}},
        {"config": {"layers": [{"class_name": 7, "config": {"name": "x"}}]}},
        {"config": {"layers": [{"class_name": "Conv2D", "config": {}}]}},
        {"config": {"layers": [rescaling("wide")]}},
        {"config": {"layers": [rescaling({"a": 1})]}},
        {"config": {"layers": [rescaling([1.0, 2.0])]}},
        {"config": {"layers": [{"class_name": "Rescaling", "config": {"name": "x"}}]}},
    ],
)
def test_a_made_up_config_is_refused_in_one_line(config, tmp_path):
    layers = keras_layers(made_model(), made_variables(made_model()))
    line = refusal(write_archive(tmp_path / "m.keras", layers, config), wanted())
    assert "m.keras" in line


# ---- PyTorch -------------------------------------------------------------------------------------


def torch_file(folder, source, model, change=lambda tensors: tensors):
    path = folder / f"{source}.safetensors"
    safetensors.numpy.save_file(change(torch_arrays(source, made_variables(model))), path)
    return path


@pytest.mark.parametrize("source", ["timm", "torchvision"])
@pytest.mark.parametrize("head", ["none", "imagenet"])
def test_state_dicts_give_the_same_variables(source, head, tmp_path):
    model = made_model(head=head)
    file = import_file(torch_file(tmp_path, source, model), wanted(source))
    assert_identical(file.variables, made_variables(model))
    assert scaling(file) == (list(PUBLISHED[0]), list(PUBLISHED[1]))


@pytest.mark.parametrize(
    ("source", "variant", "padding", "expected"),
    [
        ("timm", "b2", None, ("same", 1e-3)),
        ("timm", "b2", "symmetric", ("symmetric", 1e-5)),
        ("torchvision", "b2", None, ("symmetric", 1e-5)),
        ("torchvision", "b5", None, ("symmetric", 1e-3)),
    ],
)
def test_padding_and_epsilon_of_each_library(source, variant, padding, expected, tmp_path):
    path = torch_file(tmp_path, source, made_model(variant, head="none"))
    told = import_file(path, wanted(source, variant, padding=padding)).about.architecture
    assert (told["padding"], told["bn_epsilon"]) == expected


def test_given_scaling_is_taken(tmp_path):
    path = torch_file(tmp_path, "timm", made_model(head="none"))
    half = (0.5, 0.5, 0.5)
    assert scaling(import_file(path, wanted("timm", input_mean=half, input_std=half))) == (
        list(half),
        list(half),
    )


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_prefixes_of_wrappers_are_taken_off(prefix, tmp_path):
    def wrapped(tensors):
        return {prefix + name: tensor for name, tensor in tensors.items()}

    model = made_model(head="none")
    file = import_file(torch_file(tmp_path, "timm", model, wrapped), wanted("timm"))
    assert_identical(file.variables, made_variables(model))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_precisions_become_float32(kind, tmp_path):
    def narrow(tensors):
        return {n: t.astype(kind) if t.dtype == np.float32 else t for n, t in tensors.items()}

    model = made_model(head="none")
    file = import_file(torch_file(tmp_path, "timm", model, narrow), wanted("timm"))
    expected = jax.tree.map(lambda x: x.astype(kind).astype(np.float32), made_variables(model))
    assert_identical(file.variables, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(file.variables)} == {np.dtype("float32")}


STEM = "conv_stem.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t | {f"module.{STEM}": t[STEM]}, ["differ only by"]),
        (lambda t: t | {STEM: t[STEM].astype(np.int64)}, ["1 arrays are not of finite", STEM]),
        (lambda t: t | {STEM: t[STEM].astype(np.uint8)}, [STEM, "U8"]),
        (lambda t: t | {STEM: t[STEM] * np.float32("nan")}, ["not of finite floats", STEM]),
        (lambda t: t | {STEM: t[STEM] * np.float64(1e300)}, ["not of finite floats", STEM]),
        (lambda t: t | {"classifier.bias": np.array(1, np.float32)}, ["classifier.bias", "[]"]),
        (lambda t: t | {"classifier.bias": np.zeros(0, np.float32)}, ["classifier.bias", "[0]"]),
    ],
)  # fmt: skip
def test_state_dicts_that_are_no_model(change, words, tmp_path):
    line = refusal(torch_file(tmp_path, "timm", made_model(head="none"), change), wanted("timm"))
    assert all(word in line for word in words), line


# ---- what does not fit ---------------------------------------------------------------------------


def test_a_mismatch_lists_both_sides(tmp_path):
    def change(tensors):
        del tensors["bn1.weight"], tensors["bn1.bias"]
        tensors["extra.weight"] = np.zeros(3, np.float32)
        return tensors | {STEM: tensors[STEM][:-1].copy()}

    line = refusal(torch_file(tmp_path, "timm", made_model(head="none"), change), wanted("timm"))
    assert "2 missing (bn1.bias, bn1.weight)" in line
    assert "1 left over (extra.weight)" in line
    assert "1 misshapen (conv_stem.weight [31, 3, 3, 3] for [32, 3, 3, 3])" in line
    assert "looks like" not in line


@pytest.mark.parametrize(
    ("kind", "found", "told"),
    [
        ("legacy", "b0", "b2"),
        ("weights", "b4", "b3"),
        ("weights before 3.4", "b0", "b2"),
        ("weights before 3.4", "b2", "b0"),
        ("archive", "b1", "b0"),
    ],
)
def test_the_right_variant_is_named_for_keras(kind, found, told, tmp_path, monkeypatch):
    monkeypatch.setattr(efficientnet, "STAGES", STAGES[:4])
    model = made_model(found)
    layers = keras_layers(model, made_variables(model))
    line = refusal(write_keras_file(tmp_path, kind, False, layers), wanted(variant=told))
    assert f"looks like --variant={found}" in line


@pytest.mark.parametrize("source", ["timm", "torchvision"])
@pytest.mark.parametrize(("found", "told"), [("b0", "b2"), ("b2", "b0"), ("b1", "b0")])
def test_the_right_variant_is_named_for_pytorch(source, found, told, tmp_path, monkeypatch):
    monkeypatch.setattr(efficientnet, "STAGES", STAGES[:4])
    path = torch_file(tmp_path, source, made_model(found, head="imagenet"))
    assert f"looks like --variant={found}" in refusal(path, wanted(source, told))


def test_the_wrong_library_is_refused(tmp_path):
    path = torch_file(tmp_path, "timm", made_model(head="none"))
    line = refusal(path, wanted("torchvision"))
    assert "95 missing (features." in line
    assert "95 left over (blocks." in line


def test_labels(tmp_path):
    path = torch_file(tmp_path, "timm", made_model(head="imagenet"))
    ten = tuple("abcdefghij")
    assert import_file(path, wanted("timm", labels=ten)).about.labels == list(ten)
    assert import_file(path, wanted("timm")).about.labels is None
    assert "10" in refusal(path, wanted("timm", labels=ten[:9]))
    assert "twice" in refusal(path, wanted("timm", labels=(*ten[:9], "a")))
    headless = torch_file(tmp_path, "torchvision", made_model(head="none"))
    assert "0" in refusal(headless, wanted("torchvision", labels=ten))


# ---- faults that a check of equality must find ---------------------------------------------------


def check_all(folder):
    """The equality that the tests above rest on, for each library."""
    model = made_model(head="imagenet")
    variables = made_variables(model)
    keras = write_legacy(folder / "m.h5", keras_layers(model, variables))
    for source in names.COLUMNS:
        path = keras if source == "keras" else torch_file(folder, source, model)
        try:
            file = import_file(path, wanted(source))
            assert_identical(file.variables, variables)
        except RED:
            yield source


def transposed_kernels(patch):
    """Height and width exchanged."""
    axes = layout._axes

    def planted(ours, column):
        first, second, *rest = axes(ours, column)
        return (second, first, *rest)

    patch.setattr(layout, "_axes", planted)


def untransposed_dense(patch):
    """Rows read as columns, in the right shape."""
    original = layout._to_ours

    def planted(ours, array, column):
        right = original(ours, array, column)
        return array.reshape(right.shape) if array.ndim == 2 else right

    patch.setattr(layout, "_to_ours", planted)


def rows_exchanged(first, second):
    def plant(patch):
        rows = list(names.NORMALIZATION)
        a, b = rows[first], rows[second]
        rows[first], rows[second] = (a[0], *b[1:]), (b[0], *a[1:])
        patch.setattr(names, "NORMALIZATION", tuple(rows))

    return plant


def blocks_off_by_one(patch):
    """Of block2a, 2b, 2c the last two have the same shapes: nothing but the values tells."""
    original = names._block

    def planted(block, column):
        name = {"block2b": "block2c", "block2c": "block2b"}.get(block.name, block.name)
        for ours, foreign in original(block, column):
            yield ours.replace(block.name, name), foreign

    patch.setattr(names, "_block", planted)


def stages_off_by_one(patch):
    prefixes = ("", "blocks.{feature}.{index}", "features.{stage}.{index}")
    patch.setattr(names, "BLOCK_PREFIXES", prefixes)


ALL = {"keras", "timm", "torchvision"}


@pytest.mark.parametrize(
    ("fault", "red"),
    [
        (transposed_kernels, ALL),
        (untransposed_dense, {"timm", "torchvision"}),
        (rows_exchanged(2, 3), ALL),  # mean and variance
        (rows_exchanged(0, 1), ALL),  # scale and bias
        (blocks_off_by_one, ALL),
        (stages_off_by_one, {"timm", "torchvision"}),
    ],
)
def test_a_planted_fault_is_found(fault, red, tmp_path):
    assert set(check_all(tmp_path)) == set()
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        assert set(check_all(tmp_path)) == red


# ---- and back ------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["none", "imagenet", "fer"])
@pytest.mark.parametrize("scale", [UNIT, PUBLISHED, ((0.1, 0.2, 0.3), (0.9, 0.5, 0.25))])
def test_keras_and_back(head, scale, tmp_path):
    file = made_file(made_model(head=head, scaling=scale))
    for name in ("m.weights.h5", "m.h5") if scale == UNIT else ("m.weights.h5",):
        export_keras(tmp_path / name, file)
        again = import_file(tmp_path / name, wanted())
        assert_identical(again.variables, file.variables)
        np.testing.assert_allclose(scaling(again), scale, rtol=1e-6)


@pytest.mark.parametrize("head", ["none", "fer"])
def test_keras_would_overlook_the_scaling_of_an_old_file(head, tmp_path):
    """Seen with a nested model in 3.15.1 and with any in 3.3.3: answers are silently others."""
    file = made_file(made_model(head=head, scaling=((0.0, 0.0, 0.0), (1.0, 0.5, 1.0))))
    with pytest.raises(UserError, match=r"name it \.weights\.h5"):
        export_keras(tmp_path / "m.h5", file)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("head", ["none", "imagenet", "fer"])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_timm_and_back(head, padding, tmp_path):
    epsilon = {"same": 1e-3, "symmetric": 1e-5}[padding]
    file = made_file(made_model(head=head, padding=padding, epsilon=epsilon, scaling=PUBLISHED))
    export_timm(tmp_path / "m.safetensors", file)
    again = import_file(tmp_path / "m.safetensors", wanted("timm", padding=padding))
    assert_identical(again.variables, file.variables)
    if head != "fer":
        assert again.about.architecture == file.about.architecture


@pytest.mark.parametrize("head", ["none", "imagenet"])
def test_what_is_exported_is_what_the_libraries_have(head, tmp_path):
    """Names, shapes and values of the rules in made_models, not only of our own way back."""
    file = made_file(made_model(head=head))
    export_timm(tmp_path / "m.safetensors", file)
    found = safetensors.numpy.load_file(tmp_path / "m.safetensors")
    expected = torch_arrays("timm", file.variables)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        if name.endswith("num_batches_tracked"):
            assert (found[name], found[name].dtype) == (0, np.int64)
        else:
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("head", ["imagenet", "fer"])
def test_exported_weights_lie_as_keras_writes_them(head, tmp_path):
    file = made_file(made_model(head=head))
    export_keras(tmp_path / "ours.h5", file)
    layers = [x for x in keras_layers(made_model(head=head), file.variables) if x.arrays]
    write_legacy(tmp_path / "theirs.h5", layers, nested=head == "fer")
    ours, theirs = listing(tmp_path / "ours.h5"), listing(tmp_path / "theirs.h5")
    assert list(ours) == list(theirs)  # layers in their order
    for layer in theirs:
        assert [name.split("/")[-2:] for name, _ in ours[layer]] == [
            name.split("/")[-2:] for name, _ in theirs[layer]
        ]
        for (name, found), (_, expected) in zip(ours[layer], theirs[layer], strict=True):
            np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.parametrize("head", ["imagenet", "fer"])
def test_exported_weights_h5_lie_as_keras_3_writes_them(head, tmp_path):
    file = made_file(made_model(head=head))
    export_keras(tmp_path / "ours.weights.h5", file)
    layers = keras_layers(made_model(head=head), file.variables)
    write_weights(tmp_path / "theirs.weights.h5", layers, nested=head == "fer")
    ours, theirs = tree(tmp_path / "ours.weights.h5"), tree(tmp_path / "theirs.weights.h5")
    absent = {name for name in theirs.keys() - ours.keys() if theirs[name] is not None}
    assert not {name for name in absent if "seed_generator" not in name and "optim" not in name}
    assert ours.keys() <= theirs.keys()
    assert {"vars"} | ({"layers/functional/vars"} if head == "fer" else set()) <= ours.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def tree(path):
    """Path of every group and array -> None, or the values."""
    found = {}

    def visit(name, item):
        found[name] = item[()] if isinstance(item, h5py.Dataset) else None

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def listing(path):
    """Layer -> its weights in the order of the file's lists."""
    with h5py.File(path) as file:
        return {
            layer: [
                (name, file[layer][name][()])
                for name in (n.decode() for n in file[layer].attrs["weight_names"])
            ]
            for layer in (n.decode() for n in file.attrs["layer_names"])
        }


def test_the_header_for_timm_says_what_its_user_must_do(tmp_path):
    file = made_file(made_model(scaling=PUBLISHED))
    export_timm(tmp_path / "m.safetensors", file)
    with safetensors.safe_open(tmp_path / "m.safetensors", framework="numpy") as tensors:
        header = tensors.metadata()
    assert header["architecture"] == "tf_efficientnet_b2"
    assert header["bn_eps"] == "0.001"
    assert json.loads(header["input_mean"]) == list(PUBLISHED[0])
    assert json.loads(header["input_std"]) == list(PUBLISHED[1])
    assert header["labels"].split(",") == list(LABELS)


@pytest.mark.parametrize(
    ("padding", "epsilon", "word"), [("symmetric", 1e-3, "symmetric"), ("same", 1e-5, "1e-05")]
)
def test_keras_has_one_padding_and_one_epsilon(padding, epsilon, word, tmp_path):
    file = made_file(made_model(padding=padding, epsilon=epsilon))
    with pytest.raises(UserError, match="export it to timm") as caught:
        export_keras(tmp_path / "m.h5", file)
    assert word in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("export", [export_timm, export_keras])
def test_an_export_that_fails_leaves_what_was_there(export, tmp_path, monkeypatch):
    (tmp_path / "m.h5").write_text("mine")

    def fails(path, *_):
        path.write_text("half")
        raise safetensors.SafetensorError("no space left")

    monkeypatch.setattr("fer_jax.conversion.exporting.write_torch", fails)
    monkeypatch.setattr("fer_jax.conversion.exporting.write_keras", fails)
    with pytest.raises(UserError, match="no space left"):
        export(tmp_path / "m.h5", made_file(made_model()))
    assert [path.name for path in tmp_path.iterdir()] == ["m.h5"]
    assert (tmp_path / "m.h5").read_text() == "mine"


def test_a_converted_model_is_a_model_file(tmp_path):
    model = made_model(head="imagenet")
    file = import_file(torch_file(tmp_path, "timm", model), wanted("timm", licence="Apache-2.0"))
    model_file.save(tmp_path / "ours.safetensors", file)
    again = model_file.load(tmp_path / "ours.safetensors")
    assert again.about == file.about
    assert again.about.licence == "Apache-2.0"
    assert len(again.about.origin["sha256"]) == 64
    assert arrays(again.variables).keys() == arrays(made_variables(model)).keys()
