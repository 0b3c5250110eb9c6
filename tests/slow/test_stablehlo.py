"""StableHLO programs answer as our model does, in a process that knows neither us nor Flax."""

import functools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from made_models import PUBLISHED, made_file, made_images, made_model, trained_variables
from scipy.special import softmax
from support import compile_cache

from fer_jax.conversion.exporting import TARGETS
from fer_jax.errors import UserError
from fer_jax.labels import LABELS
from fer_jax.model_file import ModelFile, calibrated

SIDE = 33
ALONE = """
import pathlib, sys
sys.modules["flax"] = sys.modules["fer_jax"] = None
import jax.export, numpy
program = jax.export.deserialize(bytearray(pathlib.Path(sys.argv[1]).read_bytes()))
images = numpy.load(sys.argv[2])
assert program.platforms == ("cpu", "cuda", "tpu")
answers = program.call(images)
found = {f"{kind} {label}": x for kind, named in answers.items() for label, x in named.items()}
numpy.savez(sys.argv[3], **found)
"""


def file_of(head: str) -> ModelFile:
    model = made_model("mini", head, scaling=PUBLISHED)
    return ModelFile(
        made_file(model, image_size=SIDE, temperature=2.5, label_smoothing=0.1).about,
        trained_variables(model),
    )


def test_a_process_without_flax_gets_our_answers(tmp_path):
    file, images = file_of("fer"), made_images(3, SIDE)
    TARGETS["stablehlo"].write(tmp_path / "m.stablehlo", file)
    np.save(tmp_path / "images.npy", images)
    places = [tmp_path / name for name in ("m.stablehlo", "images.npy", "answers.npz")]
    command = [sys.executable, "-W", "error", "-c", ALONE, *map(str, places)]
    done = subprocess.run(
        command, env=os.environ | compile_cache(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

    infer = jax.jit(functools.partial(file.model().apply, train=False))
    expected, found = np.asarray(infer(file.variables, images)), np.load(places[2])
    logits, probabilities = (
        np.stack([found[f"{kind} {label}"] for label in LABELS], axis=1)
        for kind in ("logits", "probabilities")
    )
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    expected = softmax(calibrated(logits, file.about), axis=1)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_any_number_of_images_and_without_labels_arrays(tmp_path):
    TARGETS["stablehlo"].write(tmp_path / "m.stablehlo", file_of("imagenet"))
    program = jax.export.deserialize(bytearray((tmp_path / "m.stablehlo").read_bytes()))
    assert [str(out.shape) for out in program.out_avals] == ["(batch, 10)"] * 2
    assert "feature_group_count" in program.mlir_module()  # not our slices for CPUs


def test_a_model_without_a_head_is_refused(tmp_path):
    with pytest.raises(UserError, match="without a head"):
        TARGETS["stablehlo"].write(tmp_path / "m.stablehlo", file_of("none"))
    assert not list(tmp_path.iterdir())
