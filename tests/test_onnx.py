"""ONNX files answer as our model does, in ONNX Runtime and in OpenCV, and say what they are."""

import functools
import json
import sys

import cv2
import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from made_models import PUBLISHED, UNIT, made_file, made_images, made_model, trained_variables
from scipy.special import softmax
from support import call

from fer_jax import model_file
from fer_jax.conversion import onnx as writer
from fer_jax.conversion.onnx import export_onnx
from fer_jax.errors import UserError
from fer_jax.labels import LABELS
from fer_jax.model_file import ModelFile
from fer_jax.models import efficientnet

SIDE = 33  # odd: SAME pads both sides of some layers, one of others


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "STAGES", efficientnet.STAGES[:2])
        yield


def file_of(*settings, about=None, **changes) -> ModelFile:
    model = made_model(*settings, **changes)
    said = made_file(model, image_size=SIDE, **(about or {})).about
    return ModelFile(said, trained_variables(model))


def session_of(path, option=False):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if option:
        options.add_session_config_entry(writer.SESSION_OPTION, "1")
    return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])


def stored_in(path):
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def answers_of(file: ModelFile, images):
    model = file.model()
    return np.asarray(jax.jit(functools.partial(model.apply, train=False))(file.variables, images))


@pytest.mark.parametrize(
    ("variant", "head", "padding", "scaling", "stem_stride"),
    [
        ("tiny", "fer", "same", PUBLISHED, 1),
        ("tiny", "fer same", "symmetric", UNIT, 2),
        ("lite0", "imagenet", "symmetric", PUBLISHED, 2),
        ("lite0", "fer same", "same", PUBLISHED, 2),
    ],
)
def test_runtimes_answer_as_we_do(variant, head, padding, scaling, stem_stride, tmp_path):
    file = file_of(variant, head, padding, scaling=scaling, stem_stride=stem_stride)
    export_onnx(tmp_path / "m.onnx", file)
    images = made_images(3, SIDE)
    expected = answers_of(file, images)
    within = {"rtol": 0, "atol": 1e-5 * np.abs(expected).max()}
    session = session_of(tmp_path / "m.onnx")
    for some in (slice(0, 1), slice(0, 3)):  # any batch
        logits, probabilities = session.run(None, {"images": images[some]})
        np.testing.assert_allclose(logits, expected[some], **within)
        np.testing.assert_allclose(probabilities, softmax(logits, axis=1), atol=1e-6)

    net = cv2.dnn.readNetFromONNX(str(tmp_path / "m.onnx"))
    net.setInput(images[:1])
    np.testing.assert_allclose(net.forward("logits"), expected[:1], **within)


@pytest.mark.parametrize(("precision", "within", "size"), [("float16", 1e-3, 2), ("int8", 0.1, 1)])
def test_smaller_files_answer_nearly_the_same(precision, within, size, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SMALL", 500)
    file, images = file_of("tiny", "fer"), made_images(8, SIDE)
    export_onnx(tmp_path / "m.onnx", file, precision)
    expected = answers_of(file, images)
    session = session_of(tmp_path / "m.onnx", option=precision == "int8")
    logits, _ = session.run(None, {"images": images})
    assert np.abs(logits - expected).max() <= within * np.abs(expected).max()
    widths = set()
    for stored in onnx.load(tmp_path / "m.onnx").graph.initializer:
        if len(stored.dims) == 4:
            wider = 2 if np.prod(stored.dims) <= writer.SMALL else 1
            assert len(stored.raw_data) == wider * size * np.prod(stored.dims)
            widths.add(wider)
    assert widths == {1, 2}
    texts = session.get_modelmeta().custom_metadata_map
    assert texts.get(writer.SESSION_OPTION) == ("1" if precision == "int8" else None)


def test_int8_rounds_each_output_channel_by_its_own_largest_weight(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SMALL", 500)
    file = file_of("tiny", "fer")
    export_onnx(tmp_path / "m.onnx", file, "int8")
    export_onnx(tmp_path / "exact.onnx", file)
    stored, exact = (
        {
            t.name: onnx.numpy_helper.to_array(t)
            for t in onnx.load(tmp_path / name).graph.initializer
        }
        for name in ("m.onnx", "exact.onnx")
    )
    for name, kernel in exact.items():
        if kernel.ndim == 4 and kernel.size > writer.SMALL:
            scale = stored[f"{name}/scale"][:, None, None, None]
            assert (np.abs(stored[name]).max(axis=(1, 2, 3)) == 127).all()
            assert (np.abs(stored[name] * scale - kernel) <= 0.501 * scale).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_metadata_say_labels_and_calibration(smoothing, tmp_path):
    file = file_of("tiny", "fer", about={"temperature": 2.5, "label_smoothing": smoothing})
    export_onnx(tmp_path / "m.onnx", file)
    session, images = session_of(tmp_path / "m.onnx"), made_images(2, SIDE)
    texts = session.get_modelmeta().custom_metadata_map
    assert json.loads(texts["labels"]) == list(LABELS)
    assert (texts["temperature"], texts["image_size"]) == ("2.5", str(SIDE))
    assert model_file.KEY in texts
    assert not texts.keys() & set(model_file.HASHES_KEYS)
    logits, probabilities = session.run(None, {"images": images})
    expected = softmax(model_file.calibrated(logits, file.about), axis=1)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_the_command(tmp_path):
    model_file.save(tmp_path / "m.safetensors", file_of("tiny", "fer same"))
    flags = ["--source=fer_jax", f"--input={tmp_path / 'm.safetensors'}"]
    onnx_flags = [*flags, "--target=onnx", f"--output={tmp_path / 'm.onnx'}", "--precision=int8"]
    assert call("convert", onnx_flags).status == 0
    assert session_of(tmp_path / "m.onnx").get_inputs()[0].shape == ["batch", SIDE, SIDE, 3]
    ours = [*flags, f"--output={tmp_path / 'n.safetensors'}", "--precision=int8"]
    assert "--precision=int8 is for --target=onnx" in call("convert", ours).refusal()


def test_what_cannot_be_exported_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SMALL", 0)
    with pytest.raises(UserError, match="without a head"):
        export_onnx(tmp_path / "m.onnx", file_of("tiny", "none"))
    file = file_of("tiny", "fer")
    file.variables["params"]["head"]["hidden"]["kernel"][0, 0] = 1e5
    with pytest.raises(UserError, match="head/hidden/kernel holds 100000"):
        export_onnx(tmp_path / "m.onnx", file, "float16")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"fer_jax\[export\]"):
        export_onnx(tmp_path / "m.onnx", file)
    assert not list(tmp_path.iterdir())
