"""Schedules and optimizer chains from their config."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fer_jax.errors import UserError
from fer_jax.training.state import BACKBONE

SMALLEST_NORM = 1e-12  # of a gradient that still has a direction


def learning_rate_schedule(
    name: str, peak: float, warmup_steps: int, final_fraction: float, total_steps: int
) -> optax.Schedule:
    """Linear warm-up from 0 to `peak`, then constant, or cosine or linear to its fraction."""
    decay_steps = max(1, total_steps - warmup_steps)
    if name == "constant":
        main = optax.constant_schedule(peak)
    elif name == "cosine":
        main = optax.cosine_decay_schedule(peak, decay_steps, alpha=final_fraction)
    elif name == "linear":
        main = optax.linear_schedule(peak, peak * final_fraction, decay_steps)
    else:
        raise UserError(f"schedule.name={name!r} is not one of constant, cosine, linear")
    if warmup_steps == 0:
        return main
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([warmup, main], [warmup_steps])


def make_optimizer(
    name: str,
    schedule: optax.Schedule,
    momentum: float,
    b2: float,
    epsilon: float,
    weight_decay: float,
    clip_norm: float,
    layer_decay: float,
    apart: bool,
) -> optax.GradientTransformation:
    """Clip, scale by the rule `name`, decay kernels decoupled from the gradient, step.

    `apart`: backbone and head have states of their own, and may be updated without the other.
    """
    if name in ("adam", "adamw"):
        rule = optax.scale_by_adam(b1=momentum, b2=b2, eps=epsilon)
    elif name == "sgd":
        rule = optax.trace(decay=momentum, nesterov=True)
    else:
        raise UserError(f"optimizer.name={name!r} is not one of adam, adamw, sgd")
    if name == "adam" and weight_decay:
        raise UserError(f"optimizer.weight_decay={weight_decay} needs optimizer.name=adamw or sgd")
    parts = [by_part(rule) if apart else rule, optax.scale_by_learning_rate(schedule)]
    if weight_decay:
        parts.insert(1, optax.add_decayed_weights(weight_decay, mask=_kernels))
    if clip_norm:
        parts.insert(0, optax.clip_by_global_norm(clip_norm))
    if layer_decay != 1:
        parts.append(scale_by_depth(layer_decay))
    return optax.chain(*parts)


def ascend(params: Any, grads: Any, distance: float) -> Any:
    """`params` moved by `distance` along `grads`, the norm taken over all of them together.

    Where SAM takes its gradient: Foret et al. 2021, arXiv:2010.01412, equation 2.
    """
    factor = distance / jnp.maximum(optax.tree.norm(grads), SMALLEST_NORM)
    return jax.tree.map(lambda param, grad: param + factor * grad, params, grads)


def by_part(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """`rule` for each part of the model alone; a part without gradients keeps its state."""

    def init(params: optax.Params) -> dict[str, Any]:
        return {part: rule.init(below) for part, below in params.items()}

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, dict[str, Any]]:
        done = {part: rule.update(below, state[part]) for part, below in grads.items()}
        moved = {part: new for part, (_, new) in done.items()}
        return {part: updates for part, (updates, _) in done.items()}, {**state, **moved}

    return optax.GradientTransformation(init, update)


def scale_by_depth(decay: float) -> optax.GradientTransformation:
    """Updates times decay**depth: 0 for the head, then as `layer_depths`."""

    def scale(updates: Any, params: Any) -> Any:
        backbone = updates.get(BACKBONE, {})
        depths = layer_depths(backbone)
        scaled = {
            name: optax.tree.scale(decay ** depths[name], layer) for name, layer in backbone.items()
        }
        return {**updates, BACKBONE: scaled} if backbone else updates

    return optax.stateless(scale)


def layer_depths(names: Iterable[str]) -> dict[str, int]:
    """Names of a backbone's layers -> depth below the head: top 1, last block 2, ..., stem."""
    blocks = sorted((name for name in names if name.startswith("block")), reverse=True)
    layers = (("top", "top_bn"), *((block,) for block in blocks), ("stem", "stem_bn"))
    return {name: depth for depth, layer in enumerate(layers, start=1) for name in layer}


def _kernels(params: optax.Params) -> optax.Params:
    """True for weights of more than one axis: no decay on biases and BatchNorm."""
    return jax.tree.map(lambda x: x.ndim > 1, params)
