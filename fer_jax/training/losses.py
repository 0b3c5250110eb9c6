"""Class-weighted cross-entropy as Keras defines it, and where the class weights come from."""

import jax
import jax.numpy as jnp
import numpy as np
import optax


def class_weights(name: str, counts: np.ndarray) -> np.ndarray:
    """float32 [classes] from training counts [classes]; ValueError for an unknown name.

    `max_ratio`: largest count / count. `balanced`: total / (classes * count). `none`: ones.
    """
    counts = np.asarray(counts, np.float64)
    if name == "max_ratio":
        weights = counts.max() / counts
    elif name == "balanced":
        weights = counts.sum() / (len(counts) * counts)
    elif name == "none":
        weights = np.ones_like(counts)
    else:
        raise ValueError(f"class weights {name!r} are not one of none, balanced, max_ratio")
    return weights.astype(np.float32)


def smooth_targets(labels: jax.Array, classes: int, smoothing: float) -> jax.Array:
    """int [B] -> float32 [B, classes]: one-hot, mixed with the uniform distribution."""
    return optax.smooth_labels(jax.nn.one_hot(labels, classes), smoothing)


def weighted_cross_entropy(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    """Mean over the batch of sum_k w_k y_k (-log p_k): [B, K], [B, K], [K] -> [].

    The divisor is the batch size, not the sum of weights (Keras' `class_weight`).
    """
    return jnp.mean(-jnp.sum(weights * targets * jax.nn.log_softmax(logits), axis=-1))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Unweighted, per example: float32 [B, K], int [B] -> float32 [B]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
