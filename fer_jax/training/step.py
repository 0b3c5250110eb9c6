"""The pure training and evaluation steps: state and batch in, state and sums out."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fer_jax.training.losses import cross_entropy, smooth_targets, weighted_cross_entropy
from fer_jax.training.state import TrainState, Variables

Batch = dict[str, jax.Array]


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    weights: jax.Array,
    label_smoothing: float,
    ema_decay: float,
    key: jax.Array,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from `image` uint8 [B, S, S, 3] and `label` int32 [B]; metrics are means []."""
    dropout_key = jax.random.fold_in(key, state.step)

    def loss_of(params: Variables) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        logits, updated = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch["image"],
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        targets = smooth_targets(batch["label"], logits.shape[-1], label_smoothing)
        return weighted_cross_entropy(logits, targets, weights), (logits, updated["batch_stats"])

    (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        now = {"params": params, "batch_stats": batch_stats}
        ema = _average(ema, now, ema_decay, state.step)
    new = TrainState(state.step + 1, params, batch_stats, opt_state, ema)
    accuracy = jnp.mean(jnp.argmax(logits, -1) == batch["label"])
    return new, {"loss": loss, "accuracy": accuracy, "gradient_norm": optax.tree.norm(grads)}


def eval_step(
    variables: Variables, batch: Batch, *, model: nn.Module
) -> tuple[jax.Array, jax.Array]:
    """Inference-mode probabilities [B, K] and unweighted cross-entropy [B] of one batch."""
    logits: Any = model.apply(variables, batch["image"], train=False)
    return jax.nn.softmax(logits), cross_entropy(logits, batch["label"])


def _average(ema: Variables, now: Variables, decay: float, step: jax.Array) -> Variables:
    """Exponential moving average whose early decay grows as (1 + t) / (10 + t)."""
    rate = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: rate * old + (1 - rate) * new, ema, now)
