"""What accelerators compute, computed here: XLA's convolutions, and gradients against XLA's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradients import assert_close, value_and_gradients
from jax import lax

from fer_jax.models.convolution import conv, depthwise_conv


@pytest.fixture
def asked(monkeypatch):
    """Each choice between platforms falls on that for all others; what was asked for, in order."""
    shapes = []

    def elsewhere(*inputs, cpu, default):
        shapes.append([array.shape for array in inputs])
        return default(*inputs)

    monkeypatch.setattr(lax, "platform_dependent", elsewhere)
    return shapes


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(7, 10), (8, 5)])
@pytest.mark.parametrize(("k", "inputs", "outputs"), [(3, 3, 8), (3, 20, 6), (3, 1, 8), (5, 1, 8)])
def test_elsewhere_it_is_the_librarys(k, inputs, outputs, size, stride, dtype, asked):
    rng, groups = np.random.default_rng(0), outputs if inputs == 1 else 1
    x = jnp.asarray(rng.normal(size=(4, *size, inputs * groups)), dtype)
    kernel = jnp.asarray(rng.normal(size=(k, k, inputs, outputs)), dtype)
    ours = functools.partial(
        depthwise_conv if groups > 1 else conv, stride=stride, padding=((1, 2), (0, 1))
    )
    plain = functools.partial(
        lax.conv_general_dilated,
        window_strides=(stride, stride),
        padding=((1, 2), (0, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    got = value_and_gradients(ours, (x, kernel))
    assert {len(shapes) for shapes in asked} == {2, 3}  # forward pass; with the output's gradient
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype(dtype)}
    wide = value_and_gradients(plain, (x.astype(jnp.float32), kernel.astype(jnp.float32)))
    assert_close(got, wide, 1e-5 if dtype == jnp.float32 else 1e-2)
