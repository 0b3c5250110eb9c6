"""Depthwise convolution: each channel filtered by its own kernel."""

import jax
import jax.numpy as jnp


def depthwise_conv(x, kernel, stride, padding):
    k = kernel.shape[0]
    n, h, w, c = x.shape
    if padding == "SAME":
        pads = jax.lax.padtype_to_pads((h, w), (k, k), (stride, stride), "SAME")
    else:
        pads = padding
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    oh = (x.shape[1] - k) // stride + 1
    ow = (x.shape[2] - k) // stride + 1
    out = 0
    for i in range(k):
        for j in range(k):
            out = out + x[:, i : i + stride * (oh - 1) + 1 : stride, j : j + stride * (ow - 1) + 1 : stride] * kernel[i, j, 0]
    return out
