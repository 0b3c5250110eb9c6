"""The whole model with its fast operations and without: the same training."""

import json
from unittest import mock

import jax.numpy as jnp
import pytest
from jax import lax
from support import ROOT, small_config

from experiments import plain_model
from fer_jax.models import efficientnet

STEPS = 50
LIMITS = {"first_loss": 1e-6, "first_gradient_norm": 1e-4, "mean_loss": 1e-2}

# A product that is a millionth too large must show in the first loss.
LARGER = {"data__image_size": 32, "model__head_filters": 128}


def beyond(differences):
    return {name for name, limit in LIMITS.items() if not differences[name] <= limit}


@pytest.fixture(scope="module")
def plain(small_csv):
    with plain_model.plain_operations():
        return plain_model.training(small_config(small_csv, **LARGER), STEPS)


def test_training_is_the_same_without_the_fast_operations(small_csv, plain):
    fast = plain_model.training(small_config(small_csv, **LARGER), STEPS)
    assert not beyond(plain_model.differences(fast, plain))


def no_gradient_through_statistics(x, scale, bias, epsilon, activation):
    axes = tuple(range(x.ndim - 1))
    mean, var = (lax.stop_gradient(of(x, axes)) for of in (jnp.mean, jnp.var))
    y = (x - mean) / jnp.sqrt(var + epsilon) * scale + bias
    return plain_model.ACTIVATIONS[activation](y), mean, var


def slightly_too_large(x, kernel):
    return 1.001 * plain_model.pointwise_conv(x, kernel)


def shifted_by_a_pixel(x, kernel, stride, padding):
    return plain_model.conv(jnp.roll(x, 1, 2), kernel, stride, padding)


@pytest.mark.parametrize(
    ("name", "wrong", "seen"),
    [
        ("pointwise_conv", slightly_too_large, "first_loss"),
        ("conv", shifted_by_a_pixel, "first_loss"),
        ("batch_norm", no_gradient_through_statistics, "first_gradient_norm"),
    ],
)
def test_a_wrong_operation_and_a_wrong_gradient_are_seen(small_csv, plain, name, wrong, seen):
    with mock.patch.object(efficientnet, name, wrong):
        found = plain_model.training(small_config(small_csv, **LARGER), 1)
    assert seen in beyond(plain_model.differences(found, plain))


def test_what_was_found_for_b2_keeps_the_limits():
    found = json.loads((ROOT / "experiments/results/fast_paths.json").read_text())
    assert (found["recipe"], len(found["fast"]["loss"])) == ("b2_scratch.py", STEPS)
    assert not beyond(found["difference"])
