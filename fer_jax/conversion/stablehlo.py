"""Models as StableHLO programs of `jax.export`: they answer on CPUs, GPUs and TPUs without Flax."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from fer_jax import model_file
from fer_jax.conversion.onnx import texts_of
from fer_jax.model_file import ModelFile, calibrated
from fer_jax.models import folded

PLATFORMS = ("cpu", "cuda", "tpu")


def export_stablehlo(path: pathlib.Path, file: ModelFile) -> None:
    """uint8 [B, S, S, 3] of any B -> {"logits": ..., "probabilities": ...}, of each label [B].

    Without labels [B, K]. A program has no metadata: labels are the keys of what it returns, its
    input's shape tells the size, the temperature is in the probabilities. UserError without a head.
    Run it by `jax.export.deserialize(bytearray(pathlib.Path(FILE).read_bytes())).call(images)`.
    """
    texts_of(file)  # which refuses a model without a head
    arrays = folded.fold(file.model(), file.variables)
    (batch,) = jax.export.symbolic_shape("batch")
    side = file.about.image_size
    images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.uint8)
    program = jax.jit(functools.partial(_answers, file, arrays))
    exported = jax.export.export(program, platforms=PLATFORMS)(images)
    content = bytes(exported.serialize())
    model_file.in_one_step(path, lambda temporary: temporary.write_bytes(content))


def _answers(file: ModelFile, arrays: folded.Arrays, images: jax.Array) -> dict[str, Any]:
    logits = folded.logits(file.model(), arrays, images, plain=True)
    scaled = jax.nn.softmax(calibrated(logits, file.about, jnp))
    answers, labels = {"logits": logits, "probabilities": scaled}, file.about.labels
    if labels is None:
        return answers
    return {name: dict(zip(labels, of_all.T, strict=True)) for name, of_all in answers.items()}
