"""Our models as files of timm and of Keras: as these write them, and back without a change."""

import json

import h5py
import numpy as np
import pytest
import safetensors.numpy
from made_models import (
    PUBLISHED,
    UNIT,
    keras_layers,
    made_file,
    made_model,
    scaling,
    torch_arrays,
    two_stages,
    wanted,
    write_weights,
)
from support import assert_identical

from fer_jax.conversion.exporting import export_keras, export_timm
from fer_jax.conversion.importing import import_file
from fer_jax.errors import UserError
from fer_jax.labels import LABELS


@pytest.fixture(scope="module", autouse=True)
def small():
    with two_stages():
        yield


@pytest.mark.parametrize("head", ["none", "imagenet", "fer"])
@pytest.mark.parametrize("scale", [UNIT, PUBLISHED, ((0.1, 0.2, 0.3), (0.9, 0.5, 0.25))])
def test_keras_and_back(head, scale, tmp_path):
    file = made_file(made_model(head=head, scaling=scale))
    export_keras(tmp_path / "m.weights.h5", file)
    again = import_file(tmp_path / "m.weights.h5", wanted())
    assert_identical(again.variables, file.variables)
    np.testing.assert_allclose(scaling(again), scale, rtol=1e-6)


@pytest.mark.parametrize("head", ["none", "imagenet", "fer"])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_timm_and_back(head, padding, tmp_path):
    epsilon = {"same": 1e-3, "symmetric": 1e-5}[padding]
    file = made_file(made_model(head=head, padding=padding, epsilon=epsilon, scaling=PUBLISHED))
    export_timm(tmp_path / "m.safetensors", file)
    again = import_file(tmp_path / "m.safetensors", wanted("timm", padding=padding))
    assert_identical(again.variables, file.variables)
    assert again.about == file.about


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
def test_exported_weights_h5_lie_as_keras_3_writes_them(head, tmp_path):
    file = made_file(made_model(head=head))
    export_keras(tmp_path / "ours.weights.h5", file)
    layers = keras_layers(made_model(head=head), file.variables)
    write_weights(tmp_path / "theirs.weights.h5", layers, nested=head == "fer")
    ours, theirs = tree(tmp_path / "ours.weights.h5"), tree(tmp_path / "theirs.weights.h5")
    absent = {name for name in theirs.keys() - ours.keys() if theirs[name] is not None}
    assert not {name for name in absent if "seed_generator" not in name and "optim" not in name}
    assert {name for name in ours if not name.startswith("fer_jax")} <= theirs.keys()
    assert {"vars"} | ({"layers/functional/vars"} if head == "fer" else set()) <= ours.keys()
    for name in ours.keys() & theirs.keys():
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def tree(path):
    """Path of every group and array -> None, or the values."""
    found = {}

    def visit(name, item):
        found[name] = item[()] if isinstance(item, h5py.Dataset) else None

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def test_the_header_for_timm_says_what_its_user_must_do(tmp_path):
    file = made_file(made_model(scaling=PUBLISHED))
    export_timm(tmp_path / "m.safetensors", file)
    with safetensors.safe_open(tmp_path / "m.safetensors", framework="numpy") as tensors:
        header = tensors.metadata()
    assert header["architecture"] == "tf_efficientnet_b2"
    about = json.loads(header["fer_jax"])
    assert about["image_size"] == file.about.image_size
    assert about["labels"] == list(LABELS)
    assert about["architecture"]["bn_epsilon"] == 1e-3
    assert about["architecture"]["input_mean"] == list(PUBLISHED[0])
    assert about["architecture"]["input_std"] == list(PUBLISHED[1])
    assert about["architecture"]["head"]["padding"] == "VALID"


@pytest.mark.parametrize("export", [export_timm, export_keras])
def test_a_stem_of_stride_1_is_not_for_other_libraries(export, tmp_path):
    """Its weights would be taken without a word and answer something else."""
    file = made_file(made_model(stem_stride=1))
    with pytest.raises(UserError, match="stem has stride 1, other libraries' 2"):
        export(tmp_path / "m.weights.h5", file)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("padding", "epsilon", "word"), [("symmetric", 1e-3, "symmetric"), ("same", 1e-5, "1e-05")]
)
def test_keras_has_one_padding_and_one_epsilon(padding, epsilon, word, tmp_path):
    file = made_file(made_model(padding=padding, epsilon=epsilon))
    with pytest.raises(UserError, match="export it to timm") as caught:
        export_keras(tmp_path / "m.weights.h5", file)
    assert word in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("export", [export_timm, export_keras])
def test_an_export_that_fails_leaves_what_was_there(export, tmp_path, monkeypatch):
    (tmp_path / "m.weights.h5").write_text("mine")

    def fails(path, *_):
        path.write_text("half")
        raise safetensors.SafetensorError("no space left")

    monkeypatch.setattr("fer_jax.conversion.exporting.write_torch", fails)
    monkeypatch.setattr("fer_jax.conversion.exporting.write_weights", fails)
    with pytest.raises(UserError, match="no space left"):
        export(tmp_path / "m.weights.h5", made_file(made_model()))
    assert [path.name for path in tmp_path.iterdir()] == ["m.weights.h5"]
    assert (tmp_path / "m.weights.h5").read_text() == "mine"
