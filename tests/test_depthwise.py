"""The depthwise convolution against the library's: values, gradients, platforms."""

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

from fer_jax.models.convolution import depthwise_conv


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


QUICK = ((3, 1, (7, 9), "symmetric"), (5, 2, (12, 12), "SAME"))
GRID = [(3, 5), (1, 2), ((12, 12), (7, 9))]  # kernels, strides, sizes


@pytest.mark.parametrize(
    ("k", "stride", "size", "padding"),
    slow_but(QUICK, itertools.product(*GRID, ["SAME", "symmetric"])),
)
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


@pytest.mark.slow
@pytest.mark.parametrize(("k", "stride", "size"), list(itertools.product(*GRID)))
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
    assert "batch_group_count = 4" not in text  # XLA's kernel gradient takes minutes to compile
