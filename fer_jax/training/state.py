"""What changes from step to step: arrays only."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from fer_jax.models.classifier import Classifier
from fer_jax.models.efficientnet import scale_residuals
from fer_jax.sections import Section, key

Variables = dict[str, Any]
BACKBONE, HEAD = "backbone", "head"  # the model's two parts, by which its variables are grouped


@dataclasses.dataclass(frozen=True)
class InitConfig(Section):
    """The section `init`: what training starts from."""

    section = "init"
    weights: str = key(neutral=True)  # a model file; its content counts, as a fingerprint
    partial: bool = key()  # what a relative has of the same names; the rest is drawn
    frozen_epochs: int = key(0, 10**6)  # so long only the head learns
    layer_decay: float = key(0, 1)  # learning rate per layer from the head down
    residual_scale: float = key(0, 1)  # of random weights; 0: residual blocks start as identities


@flax.struct.dataclass
class TrainState:
    """The whole of a run's state; randomness and data position follow from `step`."""

    step: jax.Array  # int32 []
    params: Variables
    batch_stats: Variables
    opt_state: Any
    ema: Variables | None  # {"params", "batch_stats"}: averages, or None where none are kept

    @property
    def variables(self) -> Variables:
        """The raw model variables, as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def evaluated(self) -> Variables:
        """The variables that evaluation uses: the averages where they are kept."""
        return self.variables if self.ema is None else self.ema


def init_state(
    key: jax.Array,
    model: Classifier,
    optimizer: optax.GradientTransformation,
    image_size: int,
    ema: bool,
    residual_scale: float,
    start: Variables | None,
) -> TrainState:
    """A fresh state; to be jitted with shardings, so that it is made where it lives.

    Arrays of `start`, {"params", "batch_stats"} or parts of them, take the place of random ones;
    without it residuals start at `residual_scale` as `scale_residuals` has it.
    """
    images = jnp.zeros((1, image_size, image_size, 3), jnp.uint8)
    variables: Mapping[str, Any] = model.init(key, images, train=False)
    if start is not None:
        variables = _started(variables, start)
    elif residual_scale != 1:
        params = variables["params"]
        scaled = scale_residuals(params[BACKBONE], model.backbone.variant, residual_scale)
        variables = {**variables, "params": {**params, BACKBONE: scaled}}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        ema=jax.tree.map(jnp.copy, dict(variables)) if ema else None,
    )


def _started(variables: Mapping[str, Any], start: Variables) -> Variables:
    """`variables` with the arrays of `start` in their places, or in their first channels."""
    flat = flatten_dict(dict(variables))
    for name, given in flatten_dict(start).items():
        # Copied, since the first step takes the state's buffers.
        flat[name] = flat[name].at[..., : given.shape[-1]].set(given)
    return unflatten_dict(flat)
