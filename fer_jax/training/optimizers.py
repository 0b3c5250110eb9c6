"""Schedules and optimizer chains from their sections of the configuration."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fer_jax.errors import UserError
from fer_jax.sections import Section, key
from fer_jax.training.state import BACKBONE

SMALLEST_NORM = 1e-12  # of a gradient that still has a direction


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Section):
    """The section `optimizer`."""

    section = "optimizer"
    name: str = key(choices=("adam", "adamw", "sgd"))
    learning_rate: float = key(0, 1e3)
    momentum: float = key(0, 1)  # Adam's b1, SGD's (Nesterov) momentum
    b2: float = key(0, 1)
    epsilon: float = key(0, 1)
    weight_decay: float = key(0, 1e3)  # on kernels only
    clip_norm: float = key(0, 1e9)  # 0 does not clip
    sam_rho: float = key(0, 10)  # distance of `sam_perturb`; 0 is off

    def __post_init__(self) -> None:
        """UserError also for Adam with weight decay, which is AdamW."""
        super().__post_init__()
        if self.name == "adam" and self.weight_decay:
            raise UserError(
                f"optimizer.weight_decay={self.weight_decay} needs optimizer.name=adamw or sgd"
            )


@dataclasses.dataclass(frozen=True)
class ScheduleConfig(Section):
    """The section `schedule`."""

    section = "schedule"
    name: str = key(choices=("constant", "cosine", "linear"))
    warmup_steps: int = key(0, 10**9)
    final_fraction: float = key(0, 1)  # of the peak, at the end of cosine and linear


def make_schedule(config: ScheduleConfig, peak: float, total_steps: int) -> optax.Schedule:
    """Linear warm-up from 0 to `peak`, then constant, or cosine or linear to its fraction."""
    steps = max(1, total_steps - config.warmup_steps)
    main = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, steps, alpha=config.final_fraction),
        "linear": optax.linear_schedule(peak, peak * config.final_fraction, steps),
    }[config.name]
    if config.warmup_steps == 0:
        return main
    warmup = optax.linear_schedule(0.0, peak, config.warmup_steps)
    return optax.join_schedules([warmup, main], [config.warmup_steps])


def make_optimizer(
    config: OptimizerConfig, schedule: optax.Schedule, layer_decay: float, separate_states: bool
) -> optax.GradientTransformation:
    """Clip, scale by the rule `name`, decay kernels decoupled from the gradient, step.

    With `separate_states` backbone and head may be updated without each other.
    """
    if config.name == "sgd":
        rule = optax.trace(decay=config.momentum, nesterov=True)
    else:
        rule = optax.scale_by_adam(b1=config.momentum, b2=config.b2, eps=config.epsilon)
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    parts.append(by_part(rule) if separate_states else rule)
    if config.weight_decay:
        kernels = functools.partial(jax.tree.map, lambda x: x.ndim > 1)  # no biases, no BatchNorm
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=kernels))
    parts.append(optax.scale_by_learning_rate(schedule))
    if layer_decay != 1:
        parts.append(scale_by_depth(layer_decay))
    return optax.chain(*parts)


def sam_perturb(params: Any, grads: Any, distance: float) -> Any:
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
        if BACKBONE not in updates:
            return updates
        depths = layer_depths(updates[BACKBONE])
        scaled = {
            name: optax.tree.scale(decay ** depths[name], layer)
            for name, layer in updates[BACKBONE].items()
        }
        return {**updates, BACKBONE: scaled}

    return optax.stateless(scale)


def layer_depths(names: Iterable[str]) -> dict[str, int]:
    """Names of a backbone's layers -> depth below the head: top 1, last block 2, ..., stem."""
    blocks = sorted((name for name in names if name.startswith("block")), reverse=True)
    layers = (("top", "top_bn"), *((block,) for block in blocks), ("stem", "stem_bn"))
    return {name: depth for depth, layer in enumerate(layers, start=1) for name in layer}
