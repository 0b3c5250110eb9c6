"""The converter's front door: what it makes and says, and its one line where it will not."""

import json

import h5py
import jax
import numpy as np
import pytest
import safetensors.numpy
from made_models import (
    PUBLISHED,
    keras_layers,
    made_file,
    made_model,
    made_variables,
    torch_arrays,
    two_stages,
    write_legacy,
    write_weights,
)
from support import _front_door, assert_identical, call, contents, run

from fer_jax import model_file
from fer_jax.conversion import exporting, names, onnx
from fer_jax.models import efficientnet

STAGES = efficientnet.STAGES  # all of them


def test_the_flags_offer_what_there_is():
    """They are written out, so that --help needs no JAX."""
    with _front_door("fer_jax.convert") as door:
        assert [*names.COLUMNS, "fer_jax"] == door.SOURCES
        assert list(exporting.TARGETS) == door.TARGETS
        assert list(onnx.PRECISIONS) == door.PRECISIONS
        assert [v for v in efficientnet.VARIANTS if v != "mini"] == door.VARIANTS  # the tests' own


TOLD = ("--image_size=96", "--head_padding=valid")  # what weights with a notebook's head do not say


@pytest.fixture(scope="module", autouse=True)
def small():
    with two_stages():
        yield


@pytest.fixture
def place(tmp_path):
    """A model of each kind, and an older output that no refusal may touch."""
    model = made_model()
    variables, headless = made_variables(model), made_model(head="none")
    write_weights(tmp_path / "keras.weights.h5", keras_layers(model, variables))
    timm = torch_arrays("timm", made_variables(headless))
    safetensors.numpy.save_file(timm, tmp_path / "timm.safetensors")
    model_file.save(tmp_path / "ours.safetensors", made_file(model))
    symmetric = made_model(padding="symmetric", epsilon=1e-5)
    model_file.save(tmp_path / "symmetric.safetensors", made_file(symmetric))
    (tmp_path / "out.safetensors").write_text("mine")
    (tmp_path / "out.h5").write_text("mine")
    return tmp_path


@pytest.mark.slow
def test_as_a_process(tmp_path):
    """From the start: Keras' weights of the smallest variant, and a file that is not there."""
    model = made_model("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "STAGES", STAGES)
        variables = made_variables(model)
        write_legacy(tmp_path / "k.h5", keras_layers(model, variables), nested=True)
    told = ["--image_size=96", "--head_padding=valid"]
    flags = ["--source=keras", *told, f"--output={tmp_path / 'm.safetensors'}"]
    outcome = run("convert", [*flags, f"--input={tmp_path / 'k.h5'}"])
    assert outcome.status == 0, outcome.err
    assert "EfficientNet-TINY" in outcome.out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "STAGES", STAGES)
        assert_identical(model_file.load(tmp_path / "m.safetensors").variables, variables)
    before = contents(tmp_path)
    outcome = run("convert", [*flags, f"--input={tmp_path / 'none.h5'}"])
    assert outcome.refusal() == f"no file {tmp_path / 'none.h5'}"
    assert not outcome.out
    assert contents(tmp_path) == before


def test_keras_to_ours(place):
    flags = ["--source=keras", f"--input={place / 'keras.weights.h5'}", "--licence=MIT", *TOLD]
    outcome = call("convert", [*flags, f"--output={place / 'new' / 'm.safetensors'}"])
    assert outcome.status == 0, outcome.err
    file = model_file.load(place / "new" / "m.safetensors")
    assert_identical(file.variables, made_variables(made_model()))
    assert file.about.licence == "MIT"
    assert "EfficientNet-B2, fer head of 7 classes (padding VALID)" in outcome.out
    assert "images of 96 px, (x / 255 - [0, 0, 0]) / [1, 1, 1]" in outcome.out
    assert not outcome.err


def test_timm_to_keras(place):
    """From one library to the other, by way of ours."""
    flags = ["--source=timm", f"--input={place / 'timm.safetensors'}", "--target=keras"]
    outcome = call("convert", [*flags, f"--output={place / 'new.weights.h5'}"])
    assert outcome.status == 0, outcome.err
    model, scaling = made_model(head="none"), {"mean": PUBLISHED[0]}
    scaling["variance"] = np.square(PUBLISHED[1])
    with h5py.File(place / "new.weights.h5") as file:
        groups = (layer["vars"] for layer in file["layers"].values())
        stored = {group.attrs["name"]: group for group in groups}
        for layer in keras_layers(model, made_variables(model), **scaling):
            for number, array in enumerate(layer.arrays.values()):
                np.testing.assert_array_equal(stored[layer.name][str(number)], array, layer.name)


def test_ours_to_timm_with_another_licence(place):
    flags = ["--source=fer_jax", f"--input={place / 'ours.safetensors'}"]
    target = place / "again.safetensors"
    assert call("convert", [*flags, f"--output={target}", "--licence=MIT"]).status == 0
    assert model_file.load(target).about.licence == "MIT"
    assert call("convert", [*flags, f"--output={target}"]).status == 0
    assert model_file.load(target).about.licence == "CC0-1.0"
    outcome = call("convert", [*flags, "--target=timm", f"--output={target}"])
    assert outcome.status == 0, outcome.err
    assert "conv_stem.weight" in safetensors.numpy.load_file(target)


def test_ours_in_half_the_bytes(place):
    source, target = place / "ours.safetensors", place / "half.safetensors"
    flags = ["--source=fer_jax", f"--input={source}", f"--output={target}", "--dtype=bfloat16"]
    assert call("convert", flags).status == 0
    assert_identical(
        model_file.load(target).variables,
        jax.tree.map(
            lambda leaf: np.asarray(leaf, np.float32),
            model_file.rounded(model_file.load(source)).variables,
        ),
    )
    assert target.stat().st_size < 0.6 * source.stat().st_size


@pytest.mark.parametrize(
    ("named", "said"), [(["ours.safetensors"], ""), (["b.safetensors"], "b.safetensors"), ([], "")]
)
def test_a_report_calibrates_the_model_that_it_is_of(named, said, place):
    fitted = {"temperature": 1.5, "label_smoothing": 0.1}
    report = {"tta": "none", "temperature": 1, "split": "validation", "temperature_scaling": fitted}
    report["members"] = [{"checkpoint": str(place / name)} for name in named]
    (place / "report.json").write_text(json.dumps(report))
    flags = ["--source=fer_jax", f"--input={place / 'ours.safetensors'}", f"--report={place}"]
    outcome = call("convert", [*flags, f"--output={place / 'm.safetensors'}"])
    if named == ["ours.safetensors"]:
        assert outcome.status == 0, outcome.err
        about = model_file.load(place / "m.safetensors").about
        assert (about.temperature, about.temperature_split) == (1.5, "validation")
    else:
        line = outcome.refusal()
        assert "ours.safetensors alone" in line
        assert said in line


def test_given_scaling_and_labels(place):
    flags = ["--source=keras", f"--input={place / 'keras.weights.h5'}", *TOLD]
    given = ["--input_mean=0.5,0.5,0.25", "--input_std=1,2,4", "--labels=a,b,c,d,e,f,g"]
    target = place / "m.safetensors"
    assert call("convert", [*flags, *given, f"--output={target}"]).status == 0
    about = model_file.load(target).about
    assert about.architecture["input_mean"] == [0.5, 0.5, 0.25]
    assert about.architecture["input_std"] == [1.0, 2.0, 4.0]
    assert about.labels == list("abcdefg")


KERAS, TIMM = (
    ("--source=keras", "--input=keras.weights.h5"),
    ("--source=timm", "--input=timm.safetensors"),
)
OURS = ("--source=fer_jax", "--input=ours.safetensors")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--source=keras", "--input=none.h5"], ["no file", "none.h5"]),
        (["--source=keras", "--input=."], ["no file"]),
        (["--source=keras", f"--input={'a' * 300}"], ["no file"]),
        (["--source=keras"], ["no --input", "--download"]),
        (["--source=fer_jax"], ["no --input"]),
        (["--source=fer_jax", "--input=none"], ["none: no such file or folder"]),
        (["--source=onnx", "--input=x"], ["onnx", "keras"]),
        (["--source=timm", "--input=keras.weights.h5"], ["keras.weights.h5", "safetensors"]),
        (["--source=keras", "--input=timm.safetensors"], ["timm.safetensors", "Keras"]),
        (["--source=timm", "--input=ours.safetensors"], ["missing", "left over"]),
        ([*TIMM, "--variant=b0"], ["not a b0"]),
        ([*TIMM, "--variant=b9"], ["b9", "b7"]),
        ([*TIMM, "--output=out.h5"], ["out.h5", ".safetensors"]),
        ([*TIMM, "--output="], [".safetensors"]),
        ([*TIMM, "--target=keras"], ["out.safetensors", ".h5"]),
        ([*TIMM, "--output=out.h5/new.safetensors"], ["cannot write", "out.h5"]),
        ([*TIMM, f"--output={'a' * 300}.safetensors"], ["cannot write"]),
        ([*TIMM, "--input_mean=0.5,0.5"], ["--input_mean=0.5,0.5", "three numbers"]),
        ([*TIMM, "--input_mean=a,b,c"], ["--input_mean=a,b,c", "three numbers"]),
        ([*TIMM, "--input_mean=nan,0,0"], ["nan", "three numbers"]),
        ([*TIMM, "--input_std=1,0,1"], ["--input_std=1,0,1", "above 0"]),
        ([*TIMM, "--input_std=1,inf,1"], ["inf"]),
        ([*TIMM, "--labels=a,b"], ["2", "0"]),
        ([*KERAS, *TOLD, "--labels=a,b"], ["2", "7"]),
        ([*KERAS, *TOLD, "--labels=a,b,c,d,e,f,a"], ["twice"]),
        ([*KERAS, "--bn_epsilon=0"], ["--bn_epsilon", "0"]),
        ([*KERAS, "--download"], ["--download", "no --input"]),
        (["--source=timm", "--download"], ["--download", "--source=keras"]),
        ([*KERAS, "--top"], ["--top", "--download"]),
        ([*KERAS, "--padding=same"], ["--padding=same is for --source=timm"]),
        ([*OURS, "--padding=same"], ["--padding"]),
        ([*OURS, "--labels=a,b,c,d,e,f,g"], ["--labels"]),
        ([*OURS, "--variant=b2"], ["--variant"]),
        ([*OURS, "--target=timm", "--dtype=bfloat16"], ["--dtype=bfloat16 is for", "fer_jax"]),
        ([*OURS, "--dtype=float16"], ["float16", "bfloat16"]),
        (
            [OURS[0], "--input=symmetric.safetensors", "--target=keras", "--output=out.weights.h5"],
            ["symmetric", "export it to timm"],
        ),
        ([*TIMM, "--target=keras", "--output=out.h5"], ["out.h5", "ends in .weights.h5"]),
        (["--source=keras", "--download", "--variant=tiny"], ["tiny", "b0"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_touches_nothing(flags, words, place, monkeypatch):
    monkeypatch.chdir(place)
    before = contents(place)
    line = call("convert", ["--output=out.safetensors", *flags]).refusal()
    assert all(word in line for word in words), line
    assert "Traceback" not in line
    assert contents(place) == before
