"""Schedules and optimizer chains from their config."""

import jax
import optax

from fer_jax.errors import UserError


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
) -> optax.GradientTransformation:
    """Clip, scale by the rule `name`, decay kernels decoupled from the gradient, step."""
    if name in ("adam", "adamw"):
        rule = optax.scale_by_adam(b1=momentum, b2=b2, eps=epsilon)
    elif name == "sgd":
        rule = optax.trace(decay=momentum, nesterov=True)
    else:
        raise UserError(f"optimizer.name={name!r} is not one of adam, adamw, sgd")
    if name == "adam" and weight_decay:
        raise UserError(f"optimizer.weight_decay={weight_decay} needs optimizer.name=adamw or sgd")
    parts = [rule, optax.scale_by_learning_rate(schedule)]
    if weight_decay:
        parts.insert(1, optax.add_decayed_weights(weight_decay, mask=_kernels))
    if clip_norm:
        parts.insert(0, optax.clip_by_global_norm(clip_norm))
    return optax.chain(*parts)


def _kernels(params: optax.Params) -> optax.Params:
    """True for weights of more than one axis: no decay on biases and BatchNorm."""
    return jax.tree.map(lambda x: x.ndim > 1, params)
