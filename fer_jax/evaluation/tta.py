"""Test-time augmentation: the views of an image whose answers are averaged, made on the device."""

import jax
import jax.numpy as jnp

VIEWS = {"none": 1, "flip": 2, "flip_crops": 12}
"""How many views each kind has."""
CROP = 0.875
"""Side of a crop, of the image's: 42 of FER2013's 48 pixels."""


def views(images: jax.Array, kind: str) -> list[jax.Array]:
    """uint8 [B, S, S, C] -> VIEWS[kind] of that shape, the images themselves first.

    `flip` adds the mirror image; `flip_crops` has the whole image, its four corners and its centre,
    enlarged to S again (bilinear), each as it is and mirrored.
    """
    if kind not in VIEWS:
        raise ValueError(f"{kind!r} is not one of {', '.join(VIEWS)}")
    shown = [images]
    if kind == "flip_crops":
        whole = images.shape[1]
        side = round(CROP * whole)
        rest = whole - side
        corners = [(0, 0), (0, rest), (rest, 0), (rest, rest), (rest // 2, rest // 2)]
        shown += [_crop(images, top, left, side) for top, left in corners]
    if kind != "none":
        shown += [view[:, :, ::-1] for view in shown]
    return shown


def _crop(images: jax.Array, top: int, left: int, side: int) -> jax.Array:
    """The square at `top`, `left` of `side` pixels, enlarged to the images' size, uint8."""
    part = images[:, top : top + side, left : left + side].astype(jnp.float32)
    return jnp.round(jax.image.resize(part, images.shape, "linear")).astype(jnp.uint8)
