"""One comparison each: the peer's file through our converter, and both asked the same."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import QUICK
from experiments.parity.peers import KerasPeer, TorchPeer
from experiments.parity.random_weights import images, relative
from fer_jax import model_file
from fer_jax.conversion.importing import Wanted, import_file
from fer_jax.conversion.names import Arrays, export_variables

LIMITS = {"float32": 1e-4, "float64": 1e-6, "training": 1e-3}
CONTRAST = 0.1  # by which the two images' logits must differ, of their largest magnitude
ZERO = 1e-9  # of the largest gradient: ours, in float64, are zero but for rounding below it
TRAINING_IMAGES = 8
Peer = KerasPeer | TorchPeer


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table; differences are of the tensor's largest magnitude."""

    source: str
    variant: str
    padding: str
    size: int
    mode: str
    what: str
    difference: float
    limit: float
    contrast: float | None

    @property
    def passed(self) -> bool:
        """Within the limit, and not by saturation."""
        seen = self.contrast is None or self.contrast >= CONTRAST
        return bool(self.difference <= self.limit) and seen


def wanted(peer: Peer) -> Wanted:
    """What a user would say of the peer's file."""
    padding = peer.padding if peer.source == "timm" else None
    return Wanted(peer.source, peer.variant, padding)


def convert(peer: Peer, path: pathlib.Path) -> model_file.ModelFile:
    """The peer's saved file as ours, by way of the disk."""
    ours = path.with_name(f"{path.name}.ours.safetensors")
    model_file.save(ours, import_file(path, wanted(peer)))
    return model_file.load(ours)


def inference(peer: Peer, file: model_file.ModelFile, size: int, double: bool) -> list[Row]:
    """Final feature map and logits of two images."""
    mode, batch = "float64" if double else "float32", images(size)
    about = file.about.architecture
    theirs = peer.answer(batch, about["input_mean"], about["input_std"], double)
    ours = answer(file, batch, jnp.float64 if double else jnp.float32)
    contrast = relative(theirs[1][0], theirs[1][1])
    where = (peer.source, peer.variant, peer.padding, size, mode)
    return [
        Row(*where, "features", relative(ours[0], theirs[0]), LIMITS[mode], None),
        Row(*where, "logits", relative(ours[1], theirs[1]), LIMITS[mode], contrast),
    ]


def answer(file: model_file.ModelFile, batch: np.ndarray, dtype: Any) -> Any:
    """Our feature map and logits in inference mode."""
    model = file.model(dtype)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), file.variables)

    def both(variables: Any, batch: jax.Array) -> Any:
        features = model.apply(variables, batch, False, method="features")
        return features, model.apply(variables, batch, train=False)

    return jax.tree.map(np.asarray, jax.jit(both, compiler_options=QUICK)(variables, batch))


def training(peer: Peer, file: model_file.ModelFile, size: int) -> list[Row]:
    """Batch statistics, moving statistics and all gradients of one batch, without dropout."""
    batch, labels = images(size, TRAINING_IMAGES), np.arange(TRAINING_IMAGES) % 7
    about = file.about.architecture
    gradients, state, counts, momentum = peer.train_once(
        batch, labels, about["input_mean"], about["input_std"]
    )
    grads, moved = _our_step(file, batch, labels, momentum)
    before = export_variables(file.model(), peer.source, file.variables)
    ours = export_variables(file.model(), peer.source, {"params": grads, "batch_stats": moved})
    worst = {"gradients": _worst_gradient(ours, gradients)}
    for what, part in (("batch statistics", 1.0), ("moving statistics", 0.0)):
        worst[what] = max(
            relative(theirs_would_be - part * kept, state[name] - part * kept)
            for name, theirs_would_be, kept in _statistics(ours, before, counts, momentum)
        )
    where = (peer.source, peer.variant, peer.padding, size, "training")
    return [Row(*where, what, value, LIMITS["training"], None) for what, value in worst.items()]


def _worst_gradient(ours: Arrays, theirs: Arrays) -> float:
    """Largest difference of a tensor's largest magnitude; of all gradients', where it is zero.

    A bias that the next BatchNorm takes out again has no gradient; the peer, in float32 where it
    is Keras, must then have nothing but rounding.
    """
    largest = max(float(np.abs(gradient).max()) for gradient in theirs.values())
    zero = {name for name in theirs if np.abs(ours[name]).max() < ZERO * largest}
    return max(
        relative(ours[name], gradient, largest if name in zero else 0.0)
        for name, gradient in theirs.items()
    )


def _statistics(
    ours: Arrays, before: Arrays, counts: dict[str, int] | None, momentum: float
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, our moved statistic as the peer would have it, and its share of the old one."""
    for name, moved in ours.items():
        if name.endswith(("mean", "var", "variance")):
            kept = momentum * before[name]
            yield name, kept + (moved - kept) * _bessel(name, counts), kept


def _bessel(name: str, counts: dict[str, int] | None) -> float:
    """n / (n - 1) where PyTorch stores the unbiased variance of n values; 1 elsewhere."""
    if counts is None or not name.endswith(".running_var"):
        return 1.0
    n = counts[name.removesuffix(".running_var")]
    return n / (n - 1)


def _our_step(file: model_file.ModelFile, batch: np.ndarray, labels: Any, momentum: float) -> Any:
    settings = {**file.about.architecture, "bn_momentum": momentum, "drop_connect": 0.0}
    settings["head"] = {**settings["head"], "dropout": 0.0}
    model = model_file.rebuild(settings, jnp.float64)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), file.variables)

    def loss(params: Any) -> Any:
        logits, updated = model.apply(
            {**variables, "params": params}, batch, train=True, mutable=["batch_stats"]
        )
        chosen = jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]
        return -jnp.mean(chosen), updated["batch_stats"]

    grads, moved = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)(
        variables["params"]
    )
    return grads, moved
