"""Mixup and CutMix on the device: every image of a batch mixed with another one of the batch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from fer_jax.sections import Section, key

STREAM = 1  # folded into the step's key, from which dropout draws too


@dataclasses.dataclass(frozen=True)
class MixingConfig(Section):
    """Alpha of the Beta(alpha, alpha) that an image's own share is drawn from; 0 is off."""

    section = "mixing"
    mixup: float = key(0, 100)  # whole images blended: Zhang et al. 2018, arXiv:1710.09412
    cutmix: float = key(0, 100)  # a rectangle pasted over: Yun et al. 2019, arXiv:1905.04899


def mix(
    images: jax.Array, labels: jax.Array, targets: jax.Array, key: jax.Array, settings: MixingConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """uint8 [B, S, S, C], int32 [B], float32 [B, K] -> the same three, mixed by one share.

    Partners are a permutation of the batch; with both kinds on, one of them is drawn per batch.
    A mixed image's label is the one of which it has more.
    """
    alphas = ((_blend, settings.mixup), (_paste, settings.cutmix))
    kinds = [functools.partial(kind, alpha=alpha) for kind, alpha in alphas if alpha]
    if not kinds:
        return images, labels, targets
    partner_key, kind_key, share_key = jax.random.split(jax.random.fold_in(key, STREAM), 3)
    partner = jax.random.permutation(partner_key, len(images))
    kind = jax.random.randint(kind_key, (), 0, len(kinds))
    images, share = lax.switch(kind, kinds, images, images[partner], share_key)
    labels = jnp.where(share >= 0.5, labels, labels[partner])
    return images, labels, share * targets + (1 - share) * targets[partner]


def _blend(
    images: jax.Array, others: jax.Array, key: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    share = jax.random.beta(key, alpha, alpha)
    # Rounded to uint8: all that the model takes, and half a grey level is less than JPEG's error.
    return jnp.rint(share * images + (1 - share) * others).astype(images.dtype), share


def _paste(
    images: jax.Array, others: jax.Array, key: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """A square of the area 1 - share, cut off at the borders; the share is what is left."""
    size = images.shape[1]
    share_key, centre_key = jax.random.split(key)
    side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha)) * size
    half = (side / 2).astype(jnp.int32)
    centre = jax.random.randint(centre_key, (2, 1), 0, size)
    place = jnp.arange(size)
    rows, columns = (centre - half <= place) & (place < centre + half)
    pasted = rows[:, None] & columns
    return jnp.where(pasted[..., None], others, images), 1 - jnp.mean(pasted)
