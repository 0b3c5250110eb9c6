"""Class-weighted cross-entropy as Keras defines it, and where the class weights come from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fer_jax.sections import Section, key


@dataclasses.dataclass(frozen=True)
class LossConfig(Section):
    """The section `loss`."""

    section = "loss"
    class_weights: str = key(choices=("none", "balanced", "max_ratio"))
    label_smoothing: float = key(0, 1)
    logit_adjustment: float = key(0, 10)  # tau of `logit_adjustment`; 0 is off
    targets_weight: float = key(0, 1)  # of a soft target against the label


@dataclasses.dataclass(frozen=True)
class Objective:
    """What training minimises, of K classes; evaluation's loss is plain cross-entropy."""

    weights: jax.Array  # float32 [K], of `class_weights`
    label_smoothing: float
    adjustment: np.ndarray | None  # float32 [K] added to the logits: `logit_adjustment`
    soft_share: float  # of a soft target against the label

    def targets(self, labels: jax.Array, soft: jax.Array | None) -> jax.Array:
        """int32 [B] and, where there are any, float32 [B, K] -> [B, K], what logits are to answer.

        Smoothing, a share of the uniform distribution, comes last, over both.
        """
        targets = jax.nn.one_hot(labels, len(self.weights))
        if soft is not None:
            targets = self.soft_share * soft + (1 - self.soft_share) * targets
        return optax.smooth_labels(targets, self.label_smoothing)

    def loss(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        """Mean over the batch of sum_k w_k y_k (-log p_k): float32 [B, K] twice -> [].

        The divisor is the batch size, not the sum of weights (Keras' `class_weight`).
        """
        adjusted = logits if self.adjustment is None else logits + self.adjustment
        log_p = jax.nn.log_softmax(adjusted)
        return jnp.mean(-jnp.sum(self.weights * targets * log_p, axis=-1))


def make_objective(config: LossConfig, counts: np.ndarray) -> Objective:
    """The objective for training images of which there are `counts` [K] of each class."""
    weights = jnp.asarray(class_weights(config.class_weights, counts))
    adjustment = logit_adjustment(config.logit_adjustment, counts)
    return Objective(weights, config.label_smoothing, adjustment, config.targets_weight)


def class_weights(name: str, counts: np.ndarray) -> np.ndarray:
    """float32 [classes] from training counts [classes].

    `max_ratio`: largest count / count. `balanced`: total / (classes * count). `none`: ones.
    """
    counts = np.asarray(counts, np.float64)
    if name == "max_ratio":
        weights = counts.max() / counts
    elif name == "balanced":
        weights = counts.sum() / (len(counts) * counts)
    else:
        weights = np.ones_like(counts)
    return weights.astype(np.float32)


def logit_adjustment(tau: float, counts: np.ndarray) -> np.ndarray | None:
    """tau * log of the classes' shares, float32 [K], from counts above 0 [K]; None for tau 0.

    Added to the logits in training it makes rare classes as likely as common ones in inference,
    where it is left out: Menon et al. 2021, arXiv:2007.07314, equation 10.
    """
    if not tau:
        return None
    counts = np.asarray(counts, np.float64)
    return (tau * np.log(counts / counts.sum())).astype(np.float32)
