"""A function's values and gradients, and how close two such results are."""

import jax
import jax.numpy as jnp
import numpy as np


def value_and_gradients(function, inputs, seed=1):
    """The outputs, and the gradients of a random projection of them."""
    shapes = jax.eval_shape(function, *inputs)
    rng = np.random.default_rng(seed)
    weights = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)

    def projection(*args):
        products = jax.tree.map(lambda w, y: jnp.sum(w * y), weights, function(*args))
        return sum(jax.tree.leaves(products))

    gradients = jax.grad(projection, argnums=tuple(range(len(inputs))))
    return jax.jit(lambda *args: (function(*args), gradients(*args)))(*inputs)


def assert_close(got, expected, tolerance):
    """Equal up to `tolerance` of each array's largest magnitude."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())
