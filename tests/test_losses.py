"""Class weights and cross-entropy against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_jax.training.losses import Objective, class_weights, logit_adjustment
from fer_jax.training.step import eval_step

SEED_COUNTS = np.array([3993, 436, 4103, 7164, 4982, 4938, 3205])


def test_max_ratio_is_the_recipe_of_the_keras_notebook():
    weights = class_weights("max_ratio", SEED_COUNTS)
    np.testing.assert_allclose(weights[:2], [1.794, 16.431], atol=5e-4)
    assert weights[3] == 1


def test_balanced_weights_give_every_class_the_same_total():
    totals = class_weights("balanced", SEED_COUNTS) * SEED_COUNTS
    np.testing.assert_allclose(totals, SEED_COUNTS.sum() / 7, rtol=1e-6)


def test_no_weights_are_ones_and_ask_for_no_images_of_a_class():
    np.testing.assert_array_equal(class_weights("none", np.append(SEED_COUNTS, 0)), np.ones(8))


@settings(deadline=None)  # the first call compiles
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.5))
def test_weighted_cross_entropy_is_keras_formula(seed, smoothing):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(5, 7)).astype(np.float32)
    labels = rng.integers(0, 7, 5)
    weights = rng.uniform(0.5, 16, 7).astype(np.float32)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = np.eye(7)[labels] * (1 - smoothing) + smoothing / 7
    expected = -(weights * targets * log_p).sum() / 5
    objective = Objective(jnp.asarray(weights), smoothing, None, 1.0)
    got = objective.loss(jnp.asarray(logits), objective.targets(labels, None))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_logit_adjustment_adds_tau_log_priors_to_the_logits():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(5, 7)), rng.integers(0, 7, 5)
    adjustment = logit_adjustment(1.5, SEED_COUNTS)
    objective = Objective(jnp.ones(7), 0.0, adjustment, 1.0)
    adjusted = log_softmax(logits + 1.5 * np.log(SEED_COUNTS / SEED_COUNTS.sum()))
    expected = -adjusted[np.arange(5), labels].mean()
    got = objective.loss(jnp.asarray(logits, jnp.float32), objective.targets(labels, None))
    assert float(got) == pytest.approx(expected, rel=1e-5)
    assert logit_adjustment(0.0, SEED_COUNTS) is None


def test_adjusted_logits_that_know_nothing_answer_all_classes_alike():
    """With tau 1 the best constant answer is no class, where without it is the priors."""
    shares = SEED_COUNTS / SEED_COUNTS.sum()
    objective = Objective(jnp.ones(7), 0.0, logit_adjustment(1.0, SEED_COUNTS), 1.0)
    every = jnp.asarray(shares, jnp.float32)[None]
    slope = jax.grad(lambda logits: objective.loss(logits, every))(jnp.zeros((1, 7)))
    np.testing.assert_allclose(slope, 0, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_soft_targets_weigh_by_their_share_and_every_class_by_its_weight(share):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(5, 7)).astype(np.float32)
    labels, soft = rng.integers(0, 7, 5), rng.dirichlet(np.ones(7), 5).astype(np.float32)
    weights = rng.uniform(0.5, 16, 7).astype(np.float32)
    objective = Objective(jnp.asarray(weights), 0.1, None, share)
    targets = 0.9 * (share * soft + (1 - share) * np.eye(7)[labels]) + 0.1 / 7
    expected = -(weights * targets * log_softmax(logits)).sum() / 5
    got = objective.loss(logits, objective.targets(labels, soft))
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_evaluation_loss_is_unweighted_per_example():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], np.float32))
    batch = {"image": jnp.asarray(logits), "label": jnp.array([0, 1])}
    probabilities, losses = eval_step({}, batch, infer=lambda _, images: images)
    np.testing.assert_allclose(probabilities, np.exp(logits), rtol=1e-6)
    np.testing.assert_allclose(losses, -np.log([0.7, 0.1]), rtol=1e-6)
