"""The real libraries' EfficientNets with random weights and statistics, saved as they save them."""

import contextlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any
from unittest import mock

os.environ.setdefault("KERAS_BACKEND", "jax")

import efficientnet_pytorch
import jax
import jax.numpy as jnp
import keras
import numpy as np
import safetensors.torch
import torch

from experiments import QUICK
from experiments.parity.random_weights import gain, random_array
from experiments.parity.torch_head import torchvision_without_operators

with torchvision_without_operators():
    import timm
    import torchvision

Variables = dict[str, tuple[tuple[int, ...], str]]  # name -> shape, kind
Answers = tuple[np.ndarray, np.ndarray]  # final feature map [B, h, w, C], logits [B, K]


class TorchPeer:
    """timm's (`same`: tf_efficientnet_*, else efficientnet_*), lukemelas' or torchvision's model.

    lukemelas is the package efficientnet_pytorch, which pads as its images' size asks.
    """

    def __init__(self, source: str, variant: str, padding: str) -> None:
        self.source, self.variant, self.padding = source, variant, padding
        if source == "timm":
            name = f"{'tf_' if padding == 'same' else ''}efficientnet_{variant}"
            self.model = timm.create_model(name, drop_rate=0.0, drop_path_rate=0.0)
        elif source == "lukemelas":
            self.model = efficientnet_pytorch.EfficientNet.from_name(
                f"efficientnet-{variant}", image_size=None, dropout_rate=0.0, drop_connect_rate=0.0
            )
        else:
            build = getattr(torchvision.models, f"efficientnet_{variant}")
            self.model = build(stochastic_depth_prob=0.0, dropout=0.0)

    def variables(self) -> Variables:
        """Name, shape and kind of every parameter and statistic."""
        state = self.model.state_dict()
        return {n: (tuple(t.shape), _torch_kind(n, t)) for n, t in state.items() if t.ndim}

    def randomize(self, seed: int) -> None:
        """Fill every parameter and statistic."""
        state = self.model.state_dict()
        with torch.no_grad():
            for name, (shape, kind) in self.variables().items():
                values = random_array(name, shape, kind, gain(self.source, self.variant), seed)
                state[name].copy_(torch.from_numpy(values))

    def save(self, folder: pathlib.Path) -> pathlib.Path:
        """The state dict: timm's as safetensors, the others' as .pth, the usual form of each."""
        path = folder / f"{self.source}-{self.variant}"
        if self.source == "timm":
            path = path.with_suffix(".safetensors")
            safetensors.torch.save_file(self.model.state_dict(), path)
        else:
            path = path.with_suffix(".pth")
            torch.save(self.model.state_dict(), path)
        return path

    def answer(self, images: np.ndarray, mean: Any, std: Any, double: bool) -> Answers:
        """Feature map and logits in inference mode."""
        model = self.model.double() if double else self.model.float()
        model.eval()
        with torch.no_grad():
            features = self.features(_torch_input(images, mean, std, double))
            logits = self.head(features)
        return features.permute(0, 2, 3, 1).numpy(), logits.numpy()

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] -> [B, C, h, w]."""
        names = {"timm": "forward_features", "lukemelas": "extract_features"}
        return getattr(self.model, names.get(self.source, "features"))(x)

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] -> [B, K]."""
        if self.source == "timm":
            return self.model.forward_head(features)
        if self.source == "lukemelas":
            return self.model._fc(self.model._avg_pooling(features).flatten(1))
        return self.model.classifier(torch.flatten(self.model.avgpool(features), 1))

    def train_once(self, images: np.ndarray, labels: np.ndarray, mean: Any, std: Any) -> Any:
        """Gradients and updated state by PyTorch's names, and n of each BatchNorm, float64."""
        model, counts = self.model.double().train(), {}
        hooks = [
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: counts.update(
                    {name: inputs[0].numel() // inputs[0].shape[1]}
                )
            )
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.BatchNorm2d)
        ]
        logits = self.head(self.features(_torch_input(images, mean, std, True)))
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels).long()).backward()
        for hook in hooks:
            hook.remove()
        gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
        state = {name: t.numpy() for name, t in model.state_dict().items() if t.ndim}
        momentum = next(1 - m.momentum for m in model.modules() if hasattr(m, "momentum"))
        return gradients, state, counts, momentum


class KerasPeer:
    """Keras' model for images of one size.

    In float32 alone: under a float64 policy Keras 3.15 still normalises and averages in float32.
    """

    source, padding = "keras", "same"

    def __init__(self, variant: str, size: int, top: bool = True) -> None:
        self.variant = variant
        keras.backend.clear_session()
        build = getattr(keras.applications, f"EfficientNet{variant.upper()}")
        options = {"classifier_activation": None} if top else {}
        with undrawn():
            self.model = build(
                weights=None, include_top=top, input_shape=(size, size, 3), **options
            )
        top_activation = self.model.get_layer("top_activation").output
        self.both = keras.Model(self.model.inputs, [top_activation, self.model.output])

    def variables(self) -> Variables:
        """Name, shape and kind of every parameter and statistic, the input's too."""
        return {
            f"{layer.name}/{w.name}": (tuple(w.shape), _keras_kind(w))
            for layer in self.model.layers
            for w in layer.weights
        }

    def randomize(self, seed: int) -> None:
        """Fill every parameter and statistic."""
        drawn = {
            name: random_array(name, shape, kind, gain("keras", self.variant), seed)
            for name, (shape, kind) in self.variables().items()
        }
        for layer in self.model.layers:
            if layer.weights:
                layer.set_weights([drawn[f"{layer.name}/{w.name}"] for w in layer.weights])
            if isinstance(layer, keras.layers.Normalization):
                layer.finalize_state()  # it computes with copies of its variables

    def save(self, folder: pathlib.Path) -> pathlib.Path:
        """The whole model, as `model.save` writes it."""
        path = folder / f"keras-{self.variant}.keras"
        self.model.save(path)
        return path

    def answer(self, images: np.ndarray, mean: Any, std: Any, double: bool) -> Answers:
        """Feature map and logits in inference mode; Keras scales the input itself."""
        assert not double
        del mean, std
        features, logits = keras_answer(self.both, images.astype(np.float32))
        return features, logits

    def train_once(self, images: np.ndarray, labels: np.ndarray, mean: Any, std: Any) -> Any:
        """Gradients and updated state by `layer/variable`; Keras' variance is biased."""
        del mean, std
        model = self.model

        def loss(trained: Any) -> Any:
            still = [v.value for v in model.non_trainable_variables]
            x = images.astype(np.float32)
            logits, still = model.stateless_call(trained, still, x, training=True)
            chosen = jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]
            return -jnp.mean(chosen), still

        trained = [v.value for v in model.trainable_variables]
        gradients, still = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)(trained)
        named = dict(zip(map(_path, model.trainable_variables), gradients, strict=True))
        moved = dict(zip(map(_path, model.non_trainable_variables), still, strict=True))
        return _numpy(named), _numpy(moved), None, model.get_layer("stem_bn").momentum


def keras_answer(model: Any, batch: np.ndarray) -> Any:
    """What a Keras model answers in inference mode, compiled once and quickly."""

    def answer(trained: Any, still: Any, batch: Any) -> Any:
        return model.stateless_call(trained, still, batch, training=False)[0]

    trained = [v.value for v in model.trainable_variables]
    still = [v.value for v in model.non_trainable_variables]
    compiled = jax.jit(answer, compiler_options=QUICK)
    return jax.tree.map(np.asarray, compiled(trained, still, batch))


def without_random_depth(peer: KerasPeer) -> KerasPeer:
    """The same model with all dropout rates 0."""
    for layer in peer.model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return peer


def undrawn() -> Any:
    """Within: Keras' kernels are born as zeros, to be filled; its draw compiles for each shape."""
    return mock.patch.object(keras.initializers.VarianceScaling, "__call__", _zeros)


@contextlib.contextmanager
def published_weights(path: pathlib.Path) -> Any:
    """Within: keras.applications finds `path` where it would download ImageNet weights."""
    from keras.src.applications import efficientnet

    original = efficientnet.file_utils.get_file
    efficientnet.file_utils.get_file = lambda *_, **__: str(path)
    try:
        yield
    finally:
        efficientnet.file_utils.get_file = original


def _zeros(_: Any, shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
    return np.zeros(shape, dtype or "float32")


def _path(variable: Any) -> str:
    return "/".join(variable.path.split("/")[-2:])


def _numpy(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in arrays.items()}


def _torch_input(images: np.ndarray, mean: Any, std: Any, double: bool) -> torch.Tensor:
    x = (images.astype(np.float64) / 255 - np.asarray(mean)) / np.asarray(std)
    tensor = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    return tensor if double else tensor.float()


def _torch_kind(name: str, tensor: torch.Tensor) -> str:
    if tensor.ndim > 1:
        return "kernel"
    return "positive" if name.endswith(("weight", "running_var")) else "any"


def _keras_kind(variable: Any) -> str:
    if "kernel" in variable.name:
        return "kernel"
    if variable.name in ("gamma", "moving_variance", "variance"):
        return "positive"
    return "any"
