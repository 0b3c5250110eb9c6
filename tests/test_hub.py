"""A folder for the Hub: the Hub's library reads its card, and we load it as a model again."""

import json
import shutil
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import onnxruntime
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from made_models import made_file, made_images, made_model, trained_variables
from support import call

import fer_jax
from fer_jax import model_file
from fer_jax.conversion.hub import export_hub
from fer_jax.errors import UserError
from fer_jax.labels import LABELS
from fer_jax.model_file import ModelFile

SIDE = 33


def file_of(head: str, **changes) -> ModelFile:
    model = made_model("mini", head)
    about = made_file(model, image_size=SIDE, **changes).about
    return ModelFile(about, trained_variables(model))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As the command writes it."""
    place = tmp_path_factory.mktemp("hub")
    origin = {"source": "fer_jax", "selected_on": "validation"}
    model_file.save(place / "m.safetensors", file_of("fer same", origin=origin, temperature=2.5))
    flags = ["--source=fer_jax", f"--input={place / 'm.safetensors'}", "--target=hub"]
    outcome = call("convert", [*flags, f"--output={place / 'my-model'}"])
    assert outcome.status == 0, outcome.err
    return place / "my-model"


def test_the_folder_is_a_model_again(folder):
    model, images = fer_jax.load(folder, detector="none"), made_images(2, SIDE)
    answers = model.predict(images)
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    logits, probabilities = session.run(None, {"images": images})
    for (face,), row, scaled in zip(answers, logits, probabilities, strict=True):
        np.testing.assert_allclose(face.logits, row, rtol=0, atol=1e-5 * np.abs(logits).max())
        np.testing.assert_allclose(list(face.probabilities.values()), scaled, atol=1e-5)


def test_a_repository_is_loaded_by_its_name(folder, tmp_path, monkeypatch):
    """From the Hub's own cache, as a download has left it; what is not there is one line."""
    commit = "0" * 40
    place = tmp_path / "models--somebody--faces"
    shutil.copytree(folder, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    found, images = fer_jax.load("hf://somebody/faces", detector="none"), made_images(1, SIDE)
    here = fer_jax.load(folder, detector="none")
    assert found.predict(images) == here.predict(images)
    with pytest.raises(UserError, match=r"no model\.safetensors of somebody"):
        fer_jax.load("hf://somebody/others")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"fetching runs/b2 .*fer_jax\[hub\]"):
        fer_jax.load("hf://runs/b2")


def test_a_mistyped_folder_asks_nobody(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # importing it would raise
    with pytest.raises(UserError, match="runs/b3"):
        fer_jax.load("runs/b3", detector="none")


def test_what_lies_in_it(folder):
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    onnx = {f"onnx/{name}.onnx" for name in ("model", "model_fp16", "model_int8")}
    assert found == onnx | {"README.md", "config.json", "model.safetensors"}
    config = json.loads((folder / "config.json").read_text())
    assert [config["id2label"][str(i)] for i in range(7)] == list(LABELS)
    assert config["label2id"]["surprise"] == 6
    assert (config["temperature"], config["label_smoothing"]) == (2.5, 0.0)
    assert config["image_size"] == SIDE
    assert config["preprocessing"] == model_file.PREPROCESSING


def test_the_hub_s_library_reads_the_card(folder):
    card = ModelCard.load(folder / "README.md", ignore_metadata_errors=False)
    assert (card.data.license, card.data.library_name) == ("cc0-1.0", "fer_jax")
    assert card.data.pipeline_tag == "image-classification"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.25)
    assert result.dataset_name == "validation part of its data"
    assert "session.disable_quant_qdq=1" in card.text
    assert ", ".join(LABELS) in card.text
    assert "where s is 0, softmax(logits / t)" in card.text
    name, results = model_index_to_eval_results(metadata_load(folder / "README.md")["model-index"])
    assert (name, len(results)) == ("my-model", 1)


def test_a_folder_is_called_by_its_own_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export_hub(Path(), file_of("imagenet"))
    assert f"\n# {tmp_path.name}\n" in (tmp_path / "README.md").read_text()


def test_other_classes_and_no_metrics(tmp_path):
    export_hub(tmp_path / "m", file_of("imagenet", metrics=None))
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert len(config["id2label"]) == 10
    card = ModelCard.load(tmp_path / "m" / "README.md", ignore_metadata_errors=False)
    assert not card.data.eval_results


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(UserError, match="without a head"):
        export_hub(tmp_path / "m", file_of("none"))
    (tmp_path / "m").write_text("mine")
    with pytest.raises(UserError, match="cannot write"):
        export_hub(tmp_path / "m", file_of("fer same"))
    assert (tmp_path / "m").read_text() == "mine"
