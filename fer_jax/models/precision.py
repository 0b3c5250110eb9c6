"""Where low precision does not reach: sums and means."""

from typing import Any

import jax.numpy as jnp


def at_least_float32(dtype: Any) -> Any:
    """The type to sum in: float32, or float64 where the model computes in it."""
    return jnp.promote_types(dtype, jnp.float32)
