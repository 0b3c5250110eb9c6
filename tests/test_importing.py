"""State dicts of timm and torchvision become our variables; what does not fit is listed."""

import jax
import numpy as np
import pytest
import safetensors.numpy
from made_models import (
    PUBLISHED,
    keras_layers,
    made_model,
    made_variables,
    refused_import,
    scaling,
    torch_arrays,
    two_stages,
    wanted,
    write_legacy,
)
from planted_conversion import exchanged_blocks, exchanged_rows, transposed_kernels
from support import arrays, assert_identical, slow_but

from fer_jax import model_file
from fer_jax.conversion import importing, names
from fer_jax.conversion.importing import import_file
from fer_jax.errors import UserError
from fer_jax.models import efficientnet
from fer_jax.models.classifier import variable_shapes


@pytest.fixture(scope="module", autouse=True)
def small():
    with two_stages():
        yield


STAGES = efficientnet.STAGES  # all of them
RED = (AssertionError, UserError)  # what a check that fails raises


def torch_file(folder, source, model, change=lambda tensors: tensors):
    path = folder / f"{source}.safetensors"
    safetensors.numpy.save_file(change(torch_arrays(source, made_variables(model))), path)
    return path


@pytest.mark.parametrize("source", ["timm", "torchvision", "lukemelas"])
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


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "state_dict.", "model.net.0."])
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
    line = refused_import(
        torch_file(tmp_path, "timm", made_model(head="none"), change), wanted("timm")
    )
    assert all(word in line for word in words), line


def test_a_converted_model_is_a_model_file(tmp_path):
    model = made_model(head="imagenet")
    file = import_file(torch_file(tmp_path, "timm", model), wanted("timm", licence="Apache-2.0"))
    model_file.save(tmp_path / "ours.safetensors", file)
    again = model_file.load(tmp_path / "ours.safetensors")
    assert again.about == file.about
    assert again.about.licence == "Apache-2.0"
    assert len(again.about.origin["sha256"]) == 64
    assert arrays(again.variables).keys() == arrays(made_variables(model)).keys()


# ---- what does not fit ---------------------------------------------------------------------------


def test_a_mismatch_lists_both_sides(tmp_path):
    def change(tensors):
        del tensors["bn1.weight"], tensors["bn1.bias"]
        tensors["extra.weight"] = np.zeros(3, np.float32)
        return tensors | {STEM: tensors[STEM][:-1].copy()}

    line = refused_import(
        torch_file(tmp_path, "timm", made_model(head="none"), change), wanted("timm")
    )
    assert "2 missing (bn1.bias, bn1.weight)" in line
    assert "1 left over (extra.weight)" in line
    assert "1 misshapen (conv_stem.weight [31, 3, 3, 3] for [32, 3, 3, 3])" in line
    assert "looks like" not in line


@pytest.mark.parametrize(
    ("source", "found", "told"),
    [
        ("timm", "b0", "b2"),
        ("torchvision", "b1", "b0"),
        pytest.param("torchvision", "b2", "b0", marks=pytest.mark.slow),
    ],
)
def test_the_right_variant_is_named_for_pytorch(source, found, told, tmp_path, monkeypatch):
    monkeypatch.setattr(efficientnet, "STAGES", STAGES[:4])
    path = torch_file(tmp_path, source, made_model(found, head="imagenet"))
    assert f"looks like --variant={found}" in refused_import(path, wanted(source, told))


def test_the_wrong_library_is_refused(tmp_path):
    path = torch_file(tmp_path, "timm", made_model(head="none"))
    line = refused_import(path, wanted("torchvision"))
    assert "95 missing (features." in line
    assert "95 left over (blocks." in line


@pytest.mark.parametrize(
    "variant", slow_but(["tiny"], ["tiny", "b0", "b2", "lite0", "lite1", "lite2"])
)
def test_a_variant_is_recognised_by_its_shapes(variant, monkeypatch):
    monkeypatch.setattr(efficientnet, "STAGES", STAGES)
    model = made_model(variant)
    foreign, shapes = names.foreign_names(model, "lukemelas"), variable_shapes(model)
    arrays = {foreign[ours]: np.broadcast_to(np.float32(1), shapes[ours]) for ours in shapes}
    assert importing._looks_like(arrays) == variant


def test_labels(tmp_path):
    path = torch_file(tmp_path, "timm", made_model(head="imagenet"))
    ten = tuple("abcdefghij")
    assert import_file(path, wanted("timm", labels=ten)).about.labels == list(ten)
    assert import_file(path, wanted("timm")).about.labels is None
    assert "10" in refused_import(path, wanted("timm", labels=ten[:9]))
    assert "twice" in refused_import(path, wanted("timm", labels=(*ten[:9], "a")))
    headless = torch_file(tmp_path, "torchvision", made_model(head="none"))
    assert "0" in refused_import(headless, wanted("torchvision", labels=ten))
    assert import_file(headless, wanted("torchvision", labels=())).about.labels is None


@pytest.mark.parametrize("source", ["torchvision", "lukemelas"])
def test_a_notebook_s_head_on_a_library_s_backbone(source, tmp_path):
    """Whose padding is known: it is not asked for."""
    model = made_model(head="fer")
    told = {"input_mean": (0.0,) * 3, "input_std": (1.0,) * 3}
    path = tmp_path / "m.safetensors"
    arrays = names.export_variables(model, source, made_variables(model))
    safetensors.numpy.save_file(arrays, path)
    file = import_file(path, wanted(source, **told))
    assert_identical(file.variables, made_variables(model))
    assert file.about.architecture["padding"] == (
        "symmetric" if source == "torchvision" else "same"
    )


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


def untransposed_dense(patch):
    """Rows read as columns, in the right shape."""
    original = names._to_ours

    def planted(ours, array, column):
        right = original(ours, array, column)
        return array.reshape(right.shape) if array.ndim == 2 else right

    patch.setattr(names, "_to_ours", planted)


def stages_off_by_one(patch):
    prefixes = list(names.BLOCK_PREFIXES)
    prefixes[1:3] = "blocks.{feature}.{index}", "features.{stage}.{index}"
    patch.setattr(names, "BLOCK_PREFIXES", prefixes)


ALL = set(names.COLUMNS)


@pytest.mark.parametrize(
    ("fault", "red"),
    [
        (transposed_kernels, ALL),
        (untransposed_dense, ALL - {"keras"}),
        (exchanged_rows(2, 3), ALL),  # mean and variance
        (exchanged_rows(0, 1), ALL),  # scale and bias
        (exchanged_blocks("block2b", "block2c"), ALL),
        (stages_off_by_one, {"timm", "torchvision"}),
    ],
)
def test_a_planted_fault_is_found(fault, red, tmp_path):
    assert set(check_all(tmp_path)) == set()
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        assert set(check_all(tmp_path)) == red
