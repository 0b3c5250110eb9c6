"""Batch normalisation against its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradients import assert_close, value_and_gradients

from fer_jax.models.normalization import batch_norm, normalize

ACTIVATIONS = {None: lambda y: y, "swish": jax.nn.swish, "relu6": jax.nn.relu6}


def plain_batch_norm(x, scale, bias, epsilon, activation):
    mean, var = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
    y = (x - mean) / jnp.sqrt(var + epsilon) * scale + bias
    return ACTIVATIONS[activation](y), mean, var


@pytest.mark.parametrize(
    ("mean", "deviation", "tolerance", "activation"),
    [(3, 2, 1e-5, "swish"), (9, 1, 1e-5, "relu6"), (100, 1, 1e-4, None), (100, 1, 1e-4, "swish")],
)
def test_batch_norm_equals_its_definition(activation, mean, deviation, tolerance):
    rng = np.random.default_rng(0)
    x = rng.normal(mean, deviation, size=(4, 5, 6, 7)).astype(np.float32)
    scale, bias = rng.normal(size=(2, 7)).astype(np.float32)
    fast = functools.partial(batch_norm, epsilon=1e-3, activation=activation)
    plain = functools.partial(plain_batch_norm, epsilon=1e-3, activation=activation)
    inputs = (x, scale, bias)
    assert_close(value_and_gradients(fast, inputs), value_and_gradients(plain, inputs), tolerance)


def test_batch_norm_of_bfloat16_keeps_float32_statistics():
    x = jnp.asarray(np.random.default_rng(0).normal(100, 1, (64, 8, 8, 3)), jnp.bfloat16)
    y, mean, var = batch_norm(x, jnp.ones(3), jnp.zeros(3), 1e-3, None)
    assert (y.dtype, mean.dtype, var.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize("constants", [np.linspace(0, 0.3, 64), np.linspace(1000, 1001, 64)])
def test_the_variance_of_a_constant_is_never_negative_and_its_gradient_finite(constants):
    x = jnp.broadcast_to(jnp.asarray(constants, jnp.float32), (4, 8, 8, 64))
    fast = functools.partial(batch_norm, epsilon=1e-3, activation="swish")
    _, _, var = fast(x, jnp.ones(64), jnp.zeros(64))
    assert (np.asarray(var) >= 0).all()
    gradients = value_and_gradients(fast, (x, jnp.ones(64), jnp.zeros(64)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_normalize_by_given_statistics():
    x = jnp.asarray([[1.0, 2.0]])
    y = normalize(x, jnp.ones(2), jnp.full(2, 3.0), jnp.full(2, 2.0), jnp.ones(2), 1.0, None)
    np.testing.assert_allclose(y, [[1.0, 2.0]])


def test_swish_is_its_definition_and_shows_nan():
    x = np.linspace(-30, 30, 601, dtype=np.float32)[:, None]
    given = [jnp.full(1, value, jnp.float32) for value in (0, 1, 1, 0)]
    expected = x / (1 + np.exp(-x.astype(np.float64)))
    np.testing.assert_allclose(normalize(x, *given, 0.0, "swish"), expected, rtol=1e-6, atol=5e-6)
    assert np.isnan(normalize(jnp.full((1, 1), jnp.nan), *given, 0.0, "swish")).all()
