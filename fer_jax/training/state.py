"""What changes from step to step: arrays only."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.linen import Module

Variables = dict[str, Any]


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
    model: Module,
    optimizer: optax.GradientTransformation,
    image_size: int,
    ema: bool,
) -> TrainState:
    """A fresh state; to be jitted with shardings, so that it is born where it lives."""
    images = jnp.zeros((1, image_size, image_size, 3), jnp.uint8)
    variables = model.init(key, images, train=False)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        ema=jax.tree.map(jnp.copy, dict(variables)) if ema else None,
    )
