"""The pure training and evaluation steps: state and batch in, state and metrics out."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fer_jax.models.folded import in_pieces
from fer_jax.training.losses import Objective
from fer_jax.training.mixing import MixingConfig, mix
from fer_jax.training.optimizers import sam_perturb
from fer_jax.training.state import HEAD, TrainState, Variables

Batch = dict[str, jax.Array]


def train_step(
    state: TrainState,
    batch: Batch,
    frozen: bool = False,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    mixing: MixingConfig,
    sam_rho: float,
    ema_decay: float,
    key: jax.Array,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from `image` uint8 [B, S, S, C] and `label` int32 [B]; metrics are means [].

    The batch may have a `target` float32 [B, K] beside its labels. `frozen`, which is static,
    moves the head alone: the backbone infers, and keeps all that is its own. `optimizer` must then
    take gradients of one part (`make_optimizer` with `separate_states`).
    """
    # What is learned from: randomness follows from the step's number.
    step_key = jax.random.fold_in(key, state.step)
    targets = objective.targets(batch["label"], batch.get("target"))
    images, labels, targets = mix(batch["image"], batch["label"], targets, step_key, mixing)

    # The loss as a function of what learns, and its gradients.
    def loss_of(learning: Variables) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        params = {**state.params, **learning}
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updated = model.apply(
            variables,
            images,
            mutable=[] if frozen else ["batch_stats"],
            rngs={"dropout": step_key},
            **({"method": _frozen_logits} if frozen else {"train": True}),
        )
        return objective.loss(logits, targets), (logits, updated)

    learning = {HEAD: state.params[HEAD]} if frozen else state.params
    (loss, (logits, updated)), grads = _gradients(loss_of, learning, sam_rho)

    # The update, and the averages of all that moved.
    updates, opt_state = optimizer.update(grads, state.opt_state, learning)
    moved = {"params": optax.apply_updates(learning, updates), **updated}
    new = {name: {**tree, **moved.get(name, {})} for name, tree in state.variables.items()}
    ema = state.ema
    if ema is not None:
        ema = _average(ema, moved, ema_decay, state.step)
    accuracy = jnp.mean(jnp.argmax(logits, -1) == labels)
    metrics = {"loss": loss, "accuracy": accuracy, "gradient_norm": optax.tree.norm(grads)}
    return TrainState(state.step + 1, **new, opt_state=opt_state, ema=ema), metrics


def eval_step(
    variables: Any, batch: Batch, *, infer: Callable[[Any, jax.Array], jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Probabilities [B, K] and unweighted cross-entropy [B] of one batch; `infer` gives logits."""
    logits = in_pieces(functools.partial(infer, variables), batch["image"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return jax.nn.softmax(logits), losses


def _frozen_logits(model: Any, images: jax.Array) -> jax.Array:
    features = in_pieces(functools.partial(model.features, train=False), images)
    return model.head(features, train=True)


def _gradients(
    loss_of: Callable[[Variables], tuple[jax.Array, Any]], params: Variables, sam_rho: float
) -> tuple[tuple[jax.Array, Any], Variables]:
    """What `loss_of` gives at `params`, and the gradients: with SAM those of the point uphill.

    Loss, logits and BatchNorm statistics are then of the first pass alone; dropout is the same.
    """
    value, grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    if sam_rho:
        grads, _ = jax.grad(loss_of, has_aux=True)(sam_perturb(params, grads, sam_rho))
    return value, grads


def _average(ema: Variables, moved: Variables, decay: float, step: jax.Array) -> Variables:
    """Exponential moving average whose early decay grows as (1 + t) / (10 + t), of what moved."""
    rate = jnp.minimum(decay, (1 + step) / (10 + step))

    def mean(old: jax.Array, new: jax.Array) -> jax.Array:
        return rate * old + (1 - rate) * new

    averages = {
        name: {part: jax.tree.map(mean, ema[name][part], new) for part, new in parts.items()}
        for name, parts in moved.items()
    }
    return {name: {**tree, **averages.get(name, {})} for name, tree in ema.items()}
