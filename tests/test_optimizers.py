"""Schedules and optimizer rules by their definitions."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax.errors import UserError
from fer_jax.training.optimizers import learning_rate_schedule, make_optimizer

ADAM = {"momentum": 0.9, "b2": 0.999, "epsilon": 1e-7, "weight_decay": 0.0, "clip_norm": 0.0}
PARAMS = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full((2,), 2.0)}


def step(name, grads, **changes):
    optimizer = make_optimizer(name, optax.constant_schedule(0.1), **(ADAM | changes))
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    return updates


def test_cosine_warms_up_peaks_and_ends_at_its_fraction():
    schedule = learning_rate_schedule("cosine", 1.0, 10, 0.25, 110)
    values = [float(schedule(i)) for i in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(values, [0, 0.5, 1, 0.625, 0.25], atol=1e-6)


def test_linear_and_constant():
    linear = learning_rate_schedule("linear", 1.0, 0, 0.0, 100)
    np.testing.assert_allclose([linear(0), linear(50), linear(100)], [1, 0.5, 0], atol=1e-6)
    assert learning_rate_schedule("constant", 0.5, 0, 0.0, 100)(99) == 0.5
    with pytest.raises(UserError, match="cosine"):
        learning_rate_schedule("cosinus", 1.0, 0, 0.0, 100)


def test_adams_first_step_is_the_learning_rate_against_the_sign():
    grads = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full((2,), -0.01)}
    updates = step("adam", grads)
    np.testing.assert_allclose(updates["kernel"], -0.1, rtol=1e-4)
    np.testing.assert_allclose(updates["bias"], 0.1, rtol=1e-4)


def test_weight_decay_touches_kernels_only_and_is_decoupled():
    grads = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros((2,))}
    updates = step("adamw", grads, weight_decay=0.5)
    np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5 * 2.0)
    np.testing.assert_array_equal(updates["bias"], 0)
    with pytest.raises(UserError, match="adamw"):
        step("adam", grads, weight_decay=0.5)


def test_sgd_is_nesterov_and_clipping_is_global():
    grads = {"kernel": jnp.full((2, 2), 4.0), "bias": jnp.zeros((2,))}
    np.testing.assert_allclose(step("sgd", grads)["kernel"], -0.1 * (4 + 0.9 * 4), rtol=1e-6)
    clipped = step("sgd", grads, clip_norm=1.0)["kernel"]  # the norm was 8
    np.testing.assert_allclose(clipped, -0.1 * 1.9 * 0.5, rtol=1e-5)
    with pytest.raises(UserError, match="adamw"):
        step("lion", grads)
