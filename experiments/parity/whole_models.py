"""Keras' published files, the notebook's whole model in every format, the way back to the peers."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import keras
import numpy as np
import torch
from keras import layers
from keras.src.legacy.saving import legacy_h5_format

from experiments.parity.compare import LIMITS, Row, wanted
from experiments.parity.peers import KerasPeer, keras_answer, published_weights, undrawn
from experiments.parity.random_weights import images, random_array, relative
from experiments.parity.torch_head import load
from fer_jax import model_file
from fer_jax.conversion.exporting import export_keras, export_timm
from fer_jax.conversion.importing import import_file
from fer_jax.conversion.keras import IMAGENET_MEAN, IMAGENET_STD
from fer_jax.models.efficientnet import VARIANTS

SIZE = 96
HEAD_GAIN = 1.4  # of the notebook's head, after ReLU
HEAD_DRAW = 4  # of five the one whose answers to two images differ most, with either padding


def rows(folder: pathlib.Path, variant: str, seed: int) -> Iterator[Row]:
    """Everything about one variant."""
    for top in (True, False):
        yield published(folder, variant, seed, top)
    peer = random_peer(variant, seed, top=False)
    model = seed_model(peer)
    files = {suffix: folder / f"seed{suffix}" for suffix in (".keras", ".h5", ".weights.h5")}
    for suffix, path in files.items():
        model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
    answer = seed_answer(model)
    for suffix, path in files.items():
        says = suffix != ".weights.h5"  # whole models do, weights alone do not
        told = {} if says else {"image_size": SIZE, "head_padding": "VALID"}
        file = import_file(path, dataclasses.replace(wanted(peer), **told))
        assert file.about.image_size == SIZE
        yield compare(peer, file, f"seed {suffix}", answer)
    for padding in ("VALID", "SAME"):
        yield from back(folder, peer, file, padding)


def published(folder: pathlib.Path, variant: str, seed: int, top: bool) -> Row:
    """A file as Keras publishes them, loaded by Keras' own weights='imagenet'."""
    path = folder / f"published-{variant}-{top}.h5"
    size = VARIANTS[variant].image_size if top else SIZE  # Keras insists
    peer = random_peer(variant, seed, top, size)
    normalization = next(x for x in peer.model.layers if isinstance(x, layers.Normalization))
    normalization.set_weights([np.array(IMAGENET_MEAN), np.array(IMAGENET_STD), np.array(0)])
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, peer.model)
    build = getattr(keras.applications, f"EfficientNet{variant.upper()}")
    options: dict[str, Any] = {"classifier_activation": None} if top else {}
    with published_weights(path), undrawn():
        model = build(include_top=top, input_shape=(size, size, 3), **options)
    file = import_file(path, wanted(peer))
    what = f"published {'with' if top else 'without'} top"
    return compare(peer, file, what, model_answer(model), size)


def random_peer(variant: str, seed: int, top: bool, size: int = SIZE) -> KerasPeer:
    """A Keras model with random weights, its input scaling as weights=None has it."""
    peer = KerasPeer(variant, size, top=top)
    peer.randomize(seed)
    normalization = next(x for x in peer.model.layers if isinstance(x, layers.Normalization))
    normalization.set_weights([np.zeros(3), np.ones(3), np.array(0)])
    normalization.finalize_state()
    return peer


def seed_model(peer: KerasPeer, padding: str = "valid") -> Any:
    """The notebook's Sequential around the peer's backbone, its head drawn by name too."""
    head = [
        layers.Conv2D(128, 3, padding=padding, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(128, activation="relu"),
        layers.Dropout(0.3),
        layers.Dense(7, activation="softmax"),
    ]
    model = keras.Sequential([peer.model, *head])
    for place, layer in enumerate(head):
        for w in layer.weights:
            kind = "kernel" if w.name == "kernel" else "bias"
            w.assign(random_array(f"head/{place}/{w.name}", w.shape, kind, HEAD_GAIN, HEAD_DRAW))
    return model


def back(
    folder: pathlib.Path, peer: KerasPeer, file: model_file.ModelFile, padding: str
) -> Iterator[Row]:
    """Our model into a fresh Keras model, and into timm's backbone with our head."""
    settings = file.about.architecture
    settings = {**settings, "head": {**settings["head"], "padding": padding}}
    about = dataclasses.replace(file.about, architecture=settings)
    file, path = dataclasses.replace(file, about=about), folder / "back.weights.h5"
    export_keras(path, file)
    keras.backend.clear_session()
    fresh = seed_model(KerasPeer(peer.variant, SIZE, top=False), padding.lower())
    fresh.load_weights(path)
    yield compare(peer, file, f"back to Keras, {padding}", seed_answer(fresh))
    path = folder / "back.safetensors"
    export_timm(path, file)
    net, header = load(path)
    scaling = (header["architecture"][name] for name in ("input_mean", "input_std"))
    yield compare(peer, file, f"back to timm, {padding}", torch_answer(net, *scaling))


def model_answer(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 images to Keras' output."""
    return lambda batch: keras_answer(model, batch.astype(np.float32))


def seed_answer(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 images to the logits of the notebook's model; its softmax is taken off: save before."""
    model.layers[-1].activation = keras.activations.linear
    return model_answer(model)


def torch_answer(net: torch.nn.Module, mean: Any, std: Any) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 images to PyTorch's logits."""

    def answer(batch: np.ndarray) -> np.ndarray:
        x = (batch / 255 - np.asarray(mean)) / np.asarray(std)
        with torch.no_grad():
            return net(torch.from_numpy(x.transpose(0, 3, 1, 2)).float()).numpy()

    return answer


def compare(
    peer: KerasPeer,
    file: model_file.ModelFile,
    what: str,
    theirs: Callable[[np.ndarray], np.ndarray],
    size: int = SIZE,
) -> Row:
    """Two uint8 images to both: logits, or the feature map where there is no head."""
    batch, model = images(size), file.model()
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), file.variables)
    ours = np.asarray(model.apply(variables, batch, train=False))
    other = theirs(batch)
    where = (peer.source, peer.variant, peer.padding, size, "float32")
    contrast = relative(other[0], other[1])
    return Row(*where, what, relative(ours, other), LIMITS["float32"], contrast)
