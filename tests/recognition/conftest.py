"""A model that is soon compiled, a photograph of a face, and drawn faces in a picture."""

import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_models import made_file, made_model
from support import small_config

import fer_jax
from fer_jax import model_file
from fer_jax.models.classifier import describe, make_model
from fer_jax.recognition.recognizer import Recognizer

SIZE = 32


@pytest.fixture(scope="session")
def model_path(tmp_path_factory) -> Path:
    """A model file whose answers differ from image to image."""
    model = make_model(small_config("unused").model)
    images = jnp.zeros((1, SIZE, SIZE, 3), jnp.uint8)
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(1), images)
    variables = jax.tree.map(np.array, variables)
    variables["params"]["head"]["logits"]["kernel"] *= 60
    file = made_file(made_model(), architecture=describe(model), image_size=SIZE)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model_file.save(path, model_file.ModelFile(file.about, variables))
    return path


@pytest.fixture(scope="session")
def model(model_path) -> Recognizer:
    return fer_jax.load(os.fspath(model_path))


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """uint8 [512, 512, 3]: one face, whose eyes are at (205, 101) and (248, 104)."""
    from skimage import data

    return data.astronaut()
