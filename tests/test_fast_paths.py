"""The whole model with its fast operations and without: the same training."""

import json
from unittest import mock

import pytest
from support import ROOT, small_config

from experiments import plain_model
from fer_jax.models import efficientnet

FIRST_STEP, MEAN = 1e-6, 1e-2
STEPS = 50


@pytest.fixture(scope="module")
def plain(small_csv):
    with plain_model.plain_operations():
        return plain_model.losses(small_config(small_csv), STEPS)


def test_training_is_the_same_without_the_fast_operations(small_csv, plain):
    fast = plain_model.losses(small_config(small_csv), STEPS)
    apart = plain_model.differences(fast, plain)
    assert apart["first_step"] <= FIRST_STEP
    assert apart["mean"] <= MEAN


def test_an_operation_that_is_wrong_by_a_thousandth_is_seen(small_csv, plain):
    def wrong(x, kernel):
        return 1.001 * plain_model.pointwise_conv(x, kernel)

    with mock.patch.object(efficientnet, "pointwise_conv", wrong):
        found = plain_model.losses(small_config(small_csv), 1)
    assert plain_model.differences(found, plain[:1])["first_step"] > FIRST_STEP


def test_what_was_found_for_b2_keeps_the_limits():
    found = json.loads((ROOT / "experiments/results/fast_paths.json").read_text())
    assert (found["recipe"], len(found["fast"])) == ("b2_scratch.py", STEPS)
    assert found["difference"]["first_step"] <= FIRST_STEP
    assert found["difference"]["mean"] <= MEAN
