"""The libraries' own answers, kept: our conversion and our model give them too.

`make parity` asks the libraries themselves; experiments/parity/golden.py writes these files.
"""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted_conversion import exchanged_blocks, exchanged_rows, transposed_kernels
from support import slow_but

from experiments.parity.random_weights import GAINS, images, random_array, relative
from fer_jax.conversion import keras, names
from fer_jax.models.classifier import Classifier, ImagenetHead
from fer_jax.models.efficientnet import EfficientNet, Style

GOLDEN = Path(__file__).resolve().parent / "golden"
LIMIT, CONTRAST = 1e-4, 0.1
STYLES = {
    "keras": ("same", 1e-3),
    "timm": ("same", 1e-3),
    "torchvision": ("symmetric", 1e-5),
    "lukemelas": ("same", 1e-3),
}


def golden(source: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The peer's variables, drawn anew by their names, and its answers."""
    stem = GOLDEN / f"parity-{source}-b0"
    table = json.loads(stem.with_suffix(".json").read_text())
    arrays = {
        name: random_array(name, tuple(shape), kind, GAINS["b0"], seed=0)
        for name, (shape, kind) in table.items()
    }
    return arrays, dict(np.load(stem.with_suffix(".npz")))


def model(source: str, arrays: dict[str, np.ndarray]) -> Classifier:
    padding, epsilon = STYLES[source]
    mean, std = keras.IMAGENET_MEAN, keras.IMAGENET_STD
    if source == "keras":
        mean = arrays["normalization/mean"].tolist()
        std = np.sqrt(arrays["normalization/variance"]).tolist()
    style = Style(padding, epsilon, 0.99, jnp.float32)
    head = ImagenetHead(1000, 0.0)
    return Classifier(EfficientNet("b0", style, 0.0, 2), head, tuple(mean), tuple(std))


@functools.partial(jax.jit, static_argnums=0)
def both(ours: Classifier, variables: Any, batch: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Feature map and logits; compiled once for all sources of one style."""
    features = ours.apply(variables, batch, False, method="features")
    return features, ours.head.apply({"params": variables["params"]["head"]}, features, train=False)


def differences(source: str) -> tuple[float, float]:
    """Largest difference of feature map and logits, of their largest magnitude."""
    arrays, expected = golden(source)
    assert relative(expected["logits"][0], expected["logits"][1]) > CONTRAST
    ours = model(source, arrays)
    weights = {k: v for k, v in arrays.items() if not k.startswith("normalization/")}
    variables = names.import_variables(ours, source, weights)
    features, logits = both(ours, variables, images(96))
    return relative(features, expected["features"]), relative(logits, expected["logits"])


@pytest.mark.parametrize("source", slow_but(("timm",), names.COLUMNS))
def test_the_same_weights_give_the_same_answers(source):
    features, logits = differences(source)
    assert features <= LIMIT
    assert logits <= LIMIT


FAULTS = [transposed_kernels, exchanged_rows(2, 3), exchanged_blocks("block6c", "block6d")]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault, monkeypatch):
    fault(monkeypatch)
    features, logits = differences("timm")
    assert not features <= 100 * LIMIT  # NaN, of a negative variance's root, is found too
    assert not logits <= 100 * LIMIT
