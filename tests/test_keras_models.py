"""Which model a Keras file holds, whatever the format: its names, its scaling, its config."""

import dataclasses
import math

import numpy as np
import pytest
from made_models import (
    PUBLISHED,
    RESCALING,
    UNIT,
    keras_config,
    keras_layers,
    made_model,
    made_variables,
    refused_import,
    scaling,
    two_stages,
    wanted,
    write_archive,
    write_legacy,
    write_weights,
)
from support import assert_identical, slow_but

from fer_jax.conversion.importing import import_file
from fer_jax.labels import LABELS
from fer_jax.models import efficientnet


@pytest.fixture(scope="module", autouse=True)
def small():
    with two_stages():
        yield


STAGES = efficientnet.STAGES  # all of them

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


@pytest.mark.parametrize(
    ("kind", "head", "nested"),
    slow_but([(kind, "fer", True) for kind in LAYOUTS] + [("legacy", "none", False)], CASES),
)
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


@pytest.mark.parametrize(
    ("kind", "nested"),
    [("legacy", False), ("weights", True), ("weights before 3.4", False), ("archive", True)],
)
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


@pytest.mark.parametrize("variant", slow_but(["tiny"], ["tiny", "b0"]))
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


@pytest.mark.parametrize(
    ("kind", "found", "told"),
    [
        ("legacy", "b0", "b2"),
        pytest.param("weights", "b4", "b3", marks=pytest.mark.slow),
        pytest.param("weights before 3.4", "b0", "b2", marks=pytest.mark.slow),
        pytest.param("weights before 3.4", "b2", "b0", marks=pytest.mark.slow),
        pytest.param("archive", "b1", "b0", marks=pytest.mark.slow),
    ],
)
def test_the_right_variant_is_named_for_keras(kind, found, told, tmp_path, monkeypatch):
    monkeypatch.setattr(efficientnet, "STAGES", STAGES[:4])
    model = made_model(found)
    layers = keras_layers(model, made_variables(model))
    line = refused_import(write_keras_file(tmp_path, kind, False, layers), wanted(variant=told))
    assert f"looks like --variant={found}" in line


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
    line = refused_import(path, wanted())
    assert "--input_mean" in line
    assert "--input_std" in line
    refused_import(path, wanted(input_mean=PUBLISHED[0]))  # one is not enough
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


@pytest.mark.parametrize(("padding", "nested"), [("valid", True), ("same", False)])
def test_the_heads_padding_is_the_configs(padding, nested, tmp_path):
    path = whole(tmp_path, padding=padding, nested=nested)
    head = import_file(path, wanted(head_padding=None)).about.architecture["head"]
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
    line = refused_import(whole(tmp_path, change), wanted())
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
    line = refused_import(write_archive(tmp_path / "m.keras", layers, config), wanted())
    assert "m.keras" in line


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (setting("input_layer", batch_shape=[None, "a", "a", 3]), "'str'"),
        (setting("input_layer", batch_shape=[None, 96.0, 96.0, 3]), "image_size"),
        (setting("conv2d", padding="causal"), "padding"),
        (setting("stem_bn", epsilon=0.0), "bn_epsilon"),
        (setting("stem_bn", epsilon=math.nan), "bn_epsilon"),
    ],
)
def test_a_config_of_no_model_is_refused_before_it_is_written(change, word, tmp_path):
    size = None if word in ("'str'", "image_size") else 96
    line = refused_import(whole(tmp_path, change), wanted(image_size=size, head_padding=None))
    assert "m.keras" in line
    assert word in line
