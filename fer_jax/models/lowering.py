"""Convolutions that are chosen per platform when lowering: ours on CPUs, XLA's elsewhere."""

import functools
from collections.abc import Callable

import jax
from jax import lax

from fer_jax.models.windows import Pads

Conv = Callable[[jax.Array, jax.Array, int, Pads], jax.Array]  # (x, kernel, stride, pads)
Gradients = Callable[[jax.Array, jax.Array, jax.Array, int, Pads], tuple[jax.Array, jax.Array]]


def ours_on_cpus(conv: Conv, gradients: Gradients | None = None) -> Conv:
    """`conv`, with `gradients` of (x, kernel, g, stride, pads) or else its own, or XLA's."""

    # custom_vjp outermost: under autodiff, platform_dependent would keep every branch's residuals.
    @functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
    def chosen(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
        return lax.platform_dependent(
            x,
            kernel,
            cpu=lambda x, kernel: conv(x, kernel, stride, pads),
            default=lambda x, kernel: xla_conv(x, kernel, stride, pads),
        )

    def forward(
        x: jax.Array, kernel: jax.Array, stride: int, pads: Pads
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return chosen(x, kernel, stride, pads), (x, kernel)

    def backward(
        stride: int, pads: Pads, saved: tuple[jax.Array, jax.Array], g: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        ours, xlas = gradients or _derived(conv), _derived(xla_conv)
        return lax.platform_dependent(
            *saved,
            g,
            cpu=lambda x, kernel, g: ours(x, kernel, g, stride, pads),
            default=lambda x, kernel, g: xlas(x, kernel, g, stride, pads),
        )

    chosen.defvjp(forward, backward)
    return chosen


def xla_conv(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """In as many groups of channels as [k, k, C, D] kernels leave of x's."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[3] // kernel.shape[2],
    )


def _derived(conv: Conv) -> Gradients:
    def gradients(
        x: jax.Array, kernel: jax.Array, g: jax.Array, stride: int, pads: Pads
    ) -> tuple[jax.Array, jax.Array]:
        _, vjp = jax.vjp(lambda x, kernel: conv(x, kernel, stride, pads), x, kernel)
        return vjp(g)

    return gradients
