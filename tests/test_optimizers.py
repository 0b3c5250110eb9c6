"""Schedules and optimizer rules by their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import arrays, assert_identical

from fer_jax.errors import UserError
from fer_jax.models.efficientnet import block_table
from fer_jax.training.optimizers import (
    OptimizerConfig,
    ScheduleConfig,
    layer_depths,
    make_optimizer,
    make_schedule,
    sam_perturb,
)

ADAM = {
    "learning_rate": 0.1,
    "momentum": 0.9,
    "b2": 0.999,
    "epsilon": 1e-7,
    "weight_decay": 0.0,
    "clip_norm": 0.0,
    "sam_rho": 0.0,
}
PARAMS = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full((2,), 2.0)}


def made(name, schedule=None, layer_decay=1.0, separate_states=False, **changes):
    config = OptimizerConfig(name=name, **(ADAM | changes))
    schedule = schedule or optax.constant_schedule(0.1)
    return make_optimizer(config, schedule, layer_decay, separate_states)


def schedule_of(name, warmup_steps, final_fraction, steps, peak=1.0):
    return make_schedule(ScheduleConfig(name, warmup_steps, final_fraction), peak, steps)


def step(name, grads, **changes):
    optimizer = made(name, **changes)
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    return updates


def test_cosine_warms_up_peaks_and_ends_at_its_fraction():
    schedule = schedule_of("cosine", 10, 0.25, 110)
    values = [float(schedule(i)) for i in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(values, [0, 0.5, 1, 0.625, 0.25], atol=1e-6)


def test_linear_and_constant():
    linear = schedule_of("linear", 0, 0.0, 100)
    np.testing.assert_allclose([linear(0), linear(50), linear(100)], [1, 0.5, 0], atol=1e-6)
    assert schedule_of("constant", 0, 0.0, 100, 0.5)(99) == 0.5
    with pytest.raises(UserError, match="cosine"):
        schedule_of("cosinus", 0, 0.0, 100)


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


def test_ascending_goes_the_distance_along_the_whole_gradient():
    grads = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.array([3.0, 0.0])}  # of norm 5
    moved = sam_perturb(PARAMS, grads, 0.5)
    np.testing.assert_allclose(moved["kernel"], 2.0 + 0.5 * 2 / 5, rtol=1e-6)
    np.testing.assert_allclose(moved["bias"], [2.0 + 0.5 * 3 / 5, 2.0], rtol=1e-6)
    assert_identical(sam_perturb(PARAMS, jax.tree.map(jnp.zeros_like, grads), 0.5), PARAMS)


def test_depth_grows_from_the_top_to_the_stem():
    blocks = [block.name for block in block_table("b2", 0.0)]
    depths = layer_depths(["stem", "top_bn", *blocks, "stem_bn", "top"])
    assert (depths["top"], depths["top_bn"]) == (1, 1)
    assert [depths[name] for name in reversed(blocks)] == list(range(2, 25))
    assert (depths["stem"], depths["stem_bn"]) == (25, 25)


WHOLE = {
    "backbone": {
        name: {"kernel": jnp.full((2, 2), 2.0)}
        for name in ("stem", "stem_bn", "block1a", "block2a", "block2b", "top", "top_bn")
    },
    "head": {"logits": {"kernel": jnp.full((2, 2), 2.0)}},
}
FACTORS = {
    "stem": 0.5**5,
    "stem_bn": 0.5**5,
    "block1a": 0.5**4,
    "block2a": 0.5**3,
    "block2b": 0.5**2,
    "top": 0.5,
    "top_bn": 0.5,
}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_layers_far_from_the_head_learn_more_slowly(name):
    """By layer_decay ** depth, weight decay included."""
    grads = jax.tree.map(jnp.ones_like, WHOLE)
    updates = {}
    for decay in (1.0, 0.5):
        optimizer = made(name, weight_decay=0.1, layer_decay=decay)
        updates[decay], _ = optimizer.update(grads, optimizer.init(WHOLE), WHOLE)
    assert updates[0.5].keys() == WHOLE.keys()
    for layer, factor in FACTORS.items():
        even, scaled = (updates[decay]["backbone"][layer]["kernel"] for decay in (1.0, 0.5))
        np.testing.assert_allclose(scaled, factor * even, rtol=1e-6)
    np.testing.assert_array_equal(
        updates[0.5]["head"]["logits"]["kernel"], updates[1.0]["head"]["logits"]["kernel"]
    )


def test_without_layer_decay_and_freezing_the_state_is_optaxs_own():
    """Its tree is what checkpoints hold: those of earlier versions go on."""
    schedule = optax.constant_schedule(0.1)
    plain = optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(schedule))
    ours = made("adam", schedule)
    assert jax.tree.structure(ours.init(WHOLE)) == jax.tree.structure(plain.init(WHOLE))


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_part_without_gradients_keeps_its_state_and_starts_anew(name):
    optimizer = made(name, separate_states=True, clip_norm=10.0)
    grads, state = jax.tree.map(jnp.ones_like, WHOLE), optimizer.init(WHOLE)
    first, _ = optimizer.update(grads, state, WHOLE)
    for _ in range(3):
        head = {"head": grads["head"]}
        updates, state = optimizer.update(head, state, {"head": WHOLE["head"]})
        assert updates.keys() == {"head"}
    late, _ = optimizer.update(grads, state, WHOLE)
    assert_identical(late["backbone"], first["backbone"])
    assert (name == "adam") == (
        np.abs(late["head"]["logits"]["kernel"] - first["head"]["logits"]["kernel"]).max() < 1e-6
    )


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_separate_states_change_no_update_of_a_whole_model(name):
    draw = np.random.default_rng(0)
    grads = jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape), x.dtype), WHOLE)
    settings = {"weight_decay": 0.1, "clip_norm": 1.0, "layer_decay": 0.9}
    found = []
    for separate in (False, True):
        schedule = optax.linear_schedule(0.0, 0.1, 3)
        optimizer = made(name, schedule, separate_states=separate, **settings)
        state = optimizer.init(WHOLE)
        for _ in range(2):
            updates, state = optimizer.update(grads, state, WHOLE)
        found.append(updates)
    one, other = map(arrays, found)
    for name in one:
        np.testing.assert_allclose(other[name], one[name], rtol=1e-6, err_msg=name)
