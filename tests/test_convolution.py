"""Dense convolutions against the library's own: values, gradients, platforms."""

import functools
import itertools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from gradients import assert_close, value_and_gradients
from jax import lax
from support import slow_but

from fer_jax.models.convolution import FEW_CHANNELS, conv, pointwise_conv

CHANNELS = [3, FEW_CHANNELS + 4]  # both ways to multiply
MAPS = [
    ((12, 12), "SAME"),
    ((7, 5), "SAME"),
    ((7, 5), "VALID"),
    ((12, 12), ((1, 1), (1, 1))),
    ((7, 5), ((0, 2), (3, 0))),
]


def plain_conv(x, kernel, stride, padding):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=layout, precision="highest"
    )


def both(**settings):
    return (functools.partial(function, **settings) for function in (conv, plain_conv))


KERNELS = [(3, 1), (3, 2), (5, 1), (5, 2), (1, 2)]  # their sizes and strides
QUICK = [
    (MAPS[1], (3, 2), CHANNELS[0]),
    (MAPS[4], (5, 2), CHANNELS[1]),
    (MAPS[2], (1, 2), CHANNELS[0]),
]


@pytest.mark.parametrize(
    ("shown", "kernel", "channels"), slow_but(QUICK, itertools.product(MAPS, KERNELS, CHANNELS))
)
def test_products_equal_the_convolution(shown, kernel, channels):
    (size, padding), (k, stride) = shown, kernel
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, *size, channels)).astype(np.float32)
    kernel = rng.normal(size=(k, k, channels, 6)).astype(np.float32)
    fast, plain = both(stride=stride, padding=padding)
    assert_close(
        value_and_gradients(fast, (x, kernel)), value_and_gradients(plain, (x, kernel)), 1e-5
    )


@pytest.mark.parametrize(
    ("k", "channels"), slow_but([(5, CHANNELS[0])], itertools.product([3, 5], CHANNELS))
)
def test_a_map_smaller_than_its_kernel(k, channels):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 1, 2, channels)).astype(np.float32)
    kernel = rng.normal(size=(k, k, channels, 6)).astype(np.float32)
    fast, plain = both(stride=1, padding="SAME")
    assert_close(
        value_and_gradients(fast, (x, kernel)), value_and_gradients(plain, (x, kernel)), 1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize(("stride", "channels"), list(itertools.product([1, 2], CHANNELS)))
def test_in_bfloat16(stride, channels):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(4, 7, 9, channels)), rng.normal(size=(3, 3, channels, 8))
    halves = tuple(jnp.asarray(a, jnp.bfloat16) for a in (x, kernel))
    wholes = tuple(a.astype(jnp.float32) for a in halves)
    fast, plain = both(stride=stride, padding="SAME")
    got = value_and_gradients(fast, halves)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype(jnp.bfloat16)}
    assert_close(got, value_and_gradients(plain, wholes), 1e-2)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_only_cpus_multiply(platform):
    fast, _ = both(stride=1, padding="SAME")
    gradient = jax.jit(jax.grad(lambda x, kernel: jnp.sum(fast(x, kernel)), argnums=(0, 1)))
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 9, 9, 4), (3, 3, 4, 5))]
    text = jax.export.export(gradient, platforms=[platform])(*shapes).mlir_module()
    assert ("stablehlo.convolution" in text) == (platform != "cpu")


@pytest.mark.parametrize(("c", "d"), [(3, 8), (8, 3)])
def test_pointwise_equals_the_1x1_convolution(c, d):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 5, c)).astype(np.float32)
    kernel = rng.normal(size=(c, d)).astype(np.float32)

    got = value_and_gradients(pointwise_conv, (x, kernel))
    plain = functools.partial(plain_conv, stride=1, padding="VALID")
    wide = value_and_gradients(plain, (x, kernel[None, None]))
    assert_close(got, (wide[0], (wide[1][0], wide[1][1][0, 0])), 1e-5)
