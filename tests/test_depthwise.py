"""The fast operations against the library's plain ones: values, gradients, platforms."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fer_jax.models.depthwise import depthwise_conv
from fer_jax.models.normalization import batch_norm, normalize, sigmoid
from fer_jax.models.pointwise import pointwise_conv


def plain_depthwise(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision="highest",
    )


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


@pytest.mark.parametrize("size", [(12, 12), (7, 9)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("padding", ["SAME", "symmetric"])
def test_depthwise_equals_the_grouped_convolution(k, stride, size, padding):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, *size, 5)).astype(np.float32)
    kernel = rng.normal(size=(k, k, 1, 5)).astype(np.float32)
    pads = "SAME" if padding == "SAME" else ((k // 2, k // 2),) * 2
    fast = functools.partial(depthwise_conv, stride=stride, padding=pads)
    plain = functools.partial(plain_depthwise, stride=stride, padding=pads)
    assert_close(
        value_and_gradients(fast, (x, kernel)), value_and_gradients(plain, (x, kernel)), 1e-5
    )


@pytest.mark.parametrize("size", [(12, 12), (7, 9)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [3, 5])
def test_depthwise_in_bfloat16(k, stride, size):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(4, *size, 8)), rng.normal(size=(k, k, 1, 8))
    halves = tuple(jnp.asarray(a, jnp.bfloat16) for a in (x, kernel))
    wholes = tuple(a.astype(jnp.float32) for a in halves)
    fast = functools.partial(depthwise_conv, stride=stride, padding="SAME")
    plain = functools.partial(plain_depthwise, stride=stride, padding="SAME")
    got = value_and_gradients(fast, halves)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype(jnp.bfloat16)}
    assert_close(got, value_and_gradients(plain, wholes), 1e-2)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_depthwise_and_its_gradient_lower_for_every_platform(platform):
    fast = functools.partial(depthwise_conv, stride=2, padding="SAME")
    gradient = jax.jit(jax.grad(lambda x, kernel: jnp.sum(fast(x, kernel)), argnums=(0, 1)))
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 9, 9, 4), (3, 3, 1, 4))]
    text = jax.export.export(gradient, platforms=[platform])(*shapes).mlir_module()
    assert ("feature_group_count = 4" in text) == (platform != "cpu")


def plain_batch_norm(x, scale, bias, epsilon, swish):
    mean, var = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
    y = (x - mean) / jnp.sqrt(var + epsilon) * scale + bias
    return (jax.nn.swish(y) if swish else y), mean, var


@pytest.mark.parametrize("swish", [False, True])
def test_batch_norm_equals_its_definition(swish):
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, size=(4, 5, 6, 7)).astype(np.float32)
    scale, bias = rng.normal(size=(2, 7)).astype(np.float32)
    fast = functools.partial(batch_norm, epsilon=1e-3, swish=swish)
    plain = functools.partial(plain_batch_norm, epsilon=1e-3, swish=swish)
    inputs = (x, scale, bias)
    assert_close(value_and_gradients(fast, inputs), value_and_gradients(plain, inputs), 1e-5)


def test_batch_norm_of_bfloat16_keeps_float32_statistics():
    x = jnp.asarray(np.random.default_rng(0).normal(100, 1, (64, 8, 8, 3)), jnp.bfloat16)
    y, mean, var = batch_norm(x, jnp.ones(3), jnp.zeros(3), 1e-3, False)
    assert (y.dtype, mean.dtype, var.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=1e-4)


def test_the_variance_of_a_constant_is_never_negative_and_its_gradient_finite():
    x = jnp.full((4, 8, 8, 3), 1000.1)
    fast = functools.partial(batch_norm, epsilon=1e-3, swish=True)
    _, _, var = fast(x, jnp.ones(3), jnp.zeros(3))
    assert (np.asarray(var) >= 0).all()
    gradients = value_and_gradients(fast, (x, jnp.ones(3), jnp.zeros(3)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_normalize_by_given_statistics():
    x = jnp.asarray([[1.0, 2.0]])
    y = normalize(x, jnp.ones(2), jnp.full(2, 3.0), jnp.full(2, 2.0), jnp.ones(2), 1.0, False)
    np.testing.assert_allclose(y, [[1.0, 2.0]])


def test_sigmoid_is_the_logistic_function_and_shows_nan():
    x = np.linspace(-30, 30, 601, dtype=np.float32)
    np.testing.assert_allclose(sigmoid(x), 1 / (1 + np.exp(-x.astype(np.float64))), atol=2e-7)
    assert np.isnan(sigmoid(jnp.nan))


@pytest.mark.parametrize(("c", "d"), [(3, 8), (8, 3)])
def test_pointwise_equals_the_1x1_convolution(c, d):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 5, c)).astype(np.float32)
    kernel = rng.normal(size=(c, d)).astype(np.float32)

    def plain(x, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel[None, None], (1, 1), "VALID", dimension_numbers=dimensions
        )

    got = value_and_gradients(pointwise_conv, (x, kernel))
    assert_close(got, value_and_gradients(plain, (x, kernel)), 1e-5)
