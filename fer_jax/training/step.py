"""The pure training and evaluation steps: state and batch in, state and sums out."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fer_jax.training.losses import cross_entropy, smooth_targets, weighted_cross_entropy
from fer_jax.training.state import HEAD, TrainState, Variables

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
        loss = _loss(logits, batch["label"], weights, label_smoothing)
        return loss, (logits, updated["batch_stats"])

    (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        now = {"params": params, "batch_stats": batch_stats}
        ema = _average(ema, now, ema_decay, state.step)
    new = TrainState(state.step + 1, params, batch_stats, opt_state, ema)
    return new, _metrics(loss, logits, batch["label"], grads)


def frozen_step(
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
    """As `train_step`, of the head alone: the backbone infers and keeps all that is its own.

    `optimizer` must take gradients of one part (`make_optimizer` with `apart`).
    """
    dropout_key, head = jax.random.fold_in(key, state.step), {HEAD: state.params[HEAD]}

    def loss_of(head: Variables) -> tuple[jax.Array, jax.Array]:
        logits: Any = model.apply(
            {"params": {**state.params, **head}, "batch_stats": state.batch_stats},
            batch["image"],
            method=_frozen_logits,
            rngs={"dropout": dropout_key},
        )
        return _loss(logits, batch["label"], weights, label_smoothing), logits

    (loss, logits), grads = jax.value_and_grad(loss_of, has_aux=True)(head)
    updates, opt_state = optimizer.update(grads, state.opt_state, head)
    head = optax.apply_updates(head, updates)
    ema = state.ema
    if ema is not None:
        before = {HEAD: ema["params"][HEAD]}
        average = _average(before, head, ema_decay, state.step)
        ema = {**ema, "params": {**ema["params"], **average}}
    new = TrainState(state.step + 1, {**state.params, **head}, state.batch_stats, opt_state, ema)
    return new, _metrics(loss, logits, batch["label"], grads)


def eval_step(
    variables: Variables, batch: Batch, *, model: nn.Module
) -> tuple[jax.Array, jax.Array]:
    """Inference-mode probabilities [B, K] and unweighted cross-entropy [B] of one batch."""
    logits: Any = model.apply(variables, batch["image"], train=False)
    return jax.nn.softmax(logits), cross_entropy(logits, batch["label"])


def _frozen_logits(model: Any, images: jax.Array) -> jax.Array:
    return model.head(model.features(images, train=False), train=True)


def _loss(logits: jax.Array, labels: jax.Array, weights: jax.Array, smoothing: float) -> jax.Array:
    return weighted_cross_entropy(
        logits, smooth_targets(labels, logits.shape[-1], smoothing), weights
    )


def _metrics(
    loss: jax.Array, logits: jax.Array, labels: jax.Array, grads: Variables
) -> dict[str, jax.Array]:
    accuracy = jnp.mean(jnp.argmax(logits, -1) == labels)
    return {"loss": loss, "accuracy": accuracy, "gradient_norm": optax.tree.norm(grads)}


def _average(ema: Variables, now: Variables, decay: float, step: jax.Array) -> Variables:
    """Exponential moving average whose early decay grows as (1 + t) / (10 + t)."""
    rate = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: rate * old + (1 - rate) * new, ema, now)
