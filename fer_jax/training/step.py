"""The pure training and evaluation steps: state and batch in, state and sums out."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fer_jax.models.pieces import in_pieces
from fer_jax.training.losses import Objective, cross_entropy
from fer_jax.training.mixing import Mixing, mix
from fer_jax.training.optimizers import ascend
from fer_jax.training.state import HEAD, TrainState, Variables

Batch = dict[str, jax.Array]


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    mixing: Mixing,
    sam_rho: float,
    ema_decay: float,
    key: jax.Array,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from `image` uint8 [B, S, S, C] and `label` int32 [B]; metrics are means [].

    The batch may have a `target` float32 [B, K] beside its labels.
    """
    step_key = jax.random.fold_in(key, state.step)
    images, labels, targets = _examples(batch, objective, mixing, step_key)

    def loss_of(params: Variables) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        logits, updated = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": step_key},
        )
        return objective.loss(logits, targets), (logits, updated["batch_stats"])

    (loss, (logits, batch_stats)), grads = _gradients(loss_of, state.params, sam_rho)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        now = {"params": params, "batch_stats": batch_stats}
        ema = _average(ema, now, ema_decay, state.step)
    new = TrainState(state.step + 1, params, batch_stats, opt_state, ema)
    return new, _metrics(loss, logits, labels, grads)


def frozen_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    mixing: Mixing,
    sam_rho: float,
    ema_decay: float,
    key: jax.Array,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """As `train_step`, of the head alone: the backbone infers and keeps all that is its own.

    `optimizer` must take gradients of one part (`make_optimizer` with `apart`).
    """
    step_key, head = jax.random.fold_in(key, state.step), {HEAD: state.params[HEAD]}
    images, labels, targets = _examples(batch, objective, mixing, step_key)

    def loss_of(head: Variables) -> tuple[jax.Array, jax.Array]:
        logits: Any = model.apply(
            {"params": {**state.params, **head}, "batch_stats": state.batch_stats},
            images,
            method=_frozen_logits,
            rngs={"dropout": step_key},
        )
        return objective.loss(logits, targets), logits

    (loss, logits), grads = _gradients(loss_of, head, sam_rho)
    updates, opt_state = optimizer.update(grads, state.opt_state, head)
    head = optax.apply_updates(head, updates)
    ema = state.ema
    if ema is not None:
        before = {HEAD: ema["params"][HEAD]}
        average = _average(before, head, ema_decay, state.step)
        ema = {**ema, "params": {**ema["params"], **average}}
    new = TrainState(state.step + 1, {**state.params, **head}, state.batch_stats, opt_state, ema)
    return new, _metrics(loss, logits, labels, grads)


def eval_step(
    variables: Variables, batch: Batch, *, model: nn.Module
) -> tuple[jax.Array, jax.Array]:
    """Inference-mode probabilities [B, K] and unweighted cross-entropy [B] of one batch."""
    logits = in_pieces(functools.partial(model.apply, variables, train=False), batch["image"])
    return jax.nn.softmax(logits), cross_entropy(logits, batch["label"])


def _frozen_logits(model: Any, images: jax.Array) -> jax.Array:
    features = in_pieces(functools.partial(model.features, train=False), images)
    return model.head(features, train=True)


def _examples(
    batch: Batch, objective: Objective, mixing: Mixing, key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Images [B, S, S, C] to learn from, labels [B] to count by, targets [B, K] to answer."""
    targets = objective.targets(batch["label"], batch.get("target"))
    return mix(batch["image"], batch["label"], targets, key, mixing)


def _gradients(
    loss_of: Callable[[Variables], tuple[jax.Array, Any]], params: Variables, sam_rho: float
) -> tuple[tuple[jax.Array, Any], Variables]:
    """What `loss_of` gives at `params`, and the gradients: with SAM those of the point uphill.

    Loss, logits and BatchNorm statistics are then of the first pass alone; dropout is the same.
    """
    value, grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    if sam_rho:
        grads, _ = jax.grad(loss_of, has_aux=True)(ascend(params, grads, sam_rho))
    return value, grads


def _metrics(
    loss: jax.Array, logits: jax.Array, labels: jax.Array, grads: Variables
) -> dict[str, jax.Array]:
    accuracy = jnp.mean(jnp.argmax(logits, -1) == labels)
    return {"loss": loss, "accuracy": accuracy, "gradient_norm": optax.tree.norm(grads)}


def _average(ema: Variables, now: Variables, decay: float, step: jax.Array) -> Variables:
    """Exponential moving average whose early decay grows as (1 + t) / (10 + t)."""
    rate = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: rate * old + (1 - rate) * new, ema, now)
