"""SAM: the gradient of the point uphill, everything else of the first pass; and it resumes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import EPOCH_ENDS, advance, arrays, assert_identical, make_trainer

from fer_jax.training.checkpoints import Checkpoints

RHO, CLIP, DECAY = 0.2, 0.5, 0.8
RAW = {  # SGD of rate 1 without momentum: its state after a step is the gradient
    "optimizer__name": "sgd",
    "optimizer__momentum": 0.0,
    "optimizer__learning_rate": 1.0,
    "model__dropout": 0.5,
    "train__ema_decay": DECAY,
    "mixing__mixup": 0.4,
}


@pytest.fixture(scope="module")
def steps(small_csv):
    """The plain trainer, and what one step makes of the same state and batch, by the distance."""
    found, trainers = {}, {}
    for rho in (0.0, RHO):
        trainers[rho] = trainer = make_trainer(small_csv, **RAW, optimizer__sam_rho=rho)
        found[rho] = trainer.train_step(trainer.init(), next(trainer.batches(0)))
    return trainers[0.0], found


def gradients(state):
    (found,) = [inner.trace for inner in state.opt_state if hasattr(inner, "trace")]
    return found


def test_the_gradient_is_that_of_the_point_uphill(steps):
    """Taken by the plain step there, with the same dropout and the same mixing."""
    plain, found = steps
    first, there = gradients(found[0.0][0]), gradients(found[RHO][0])
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in arrays(first).values()))
    state = plain.init()
    uphill = jax.tree.map(lambda p, g: p + RHO * g / norm, state.params, first)
    expected, _ = plain.train_step(state.replace(params=uphill), next(plain.batches(0)))
    expected, got, raw = (arrays(tree) for tree in (gradients(expected), there, first))
    for name, leaf in expected.items():  # as a whole: rounding may tip single ReLUs
        size = np.linalg.norm(leaf) + 1e-4 * norm
        assert np.linalg.norm(got[name] - leaf) < 5e-3 * size, name
    assert max(np.linalg.norm(got[name] - raw[name]) for name in raw) > 0.05 * norm


def test_loss_and_statistics_are_of_the_first_pass(steps):
    (plain, one), (sam, other) = steps[1][0.0], steps[1][RHO]
    assert float(one["loss"]) == pytest.approx(float(other["loss"]), rel=1e-6)
    assert float(one["accuracy"]) == float(other["accuracy"])
    for name, leaf in arrays(plain.batch_stats).items():
        np.testing.assert_allclose(arrays(sam.batch_stats)[name], leaf, rtol=1e-5, atol=1e-7)


def test_the_step_starts_where_it_stood_and_the_averages_follow(steps):
    """Not from the point uphill; the norm that is logged is that of the gradient stepped along."""
    trainer, found = steps
    new, metrics = found[RHO]
    before, grads = arrays(trainer.init().params), arrays(gradients(new))
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads.values()))
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-5)
    averages = arrays(new.ema["params"])
    for name, after in arrays(new.params).items():
        np.testing.assert_allclose(after, before[name] - grads[name], rtol=1e-5, atol=1e-6)
        expected = 0.1 * before[name] + 0.9 * after  # the early decay: (1 + 0) / (10 + 0)
        np.testing.assert_allclose(averages[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_gradient_uphill_is_clipped_as_any_other(small_csv):
    trainer = make_trainer(small_csv, **RAW, optimizer__sam_rho=RHO, optimizer__clip_norm=CLIP)
    state, metrics = trainer.train_step(trainer.init(), next(trainer.batches(0)))
    norm = np.sqrt(sum((g**2).sum() for g in arrays(gradients(state)).values()))
    assert float(metrics["gradient_norm"]) > CLIP
    assert norm == pytest.approx(CLIP, rel=1e-4)


EVERYTHING = {
    "mixing__mixup": 0.2,
    "mixing__cutmix": 1.0,
    "optimizer__sam_rho": 0.05,
    "optimizer__name": "adamw",
    "optimizer__weight_decay": 0.1,
    "train__ema_decay": 0.9,
    "init__frozen_epochs": 1,
    "train__sizes": (12, 16),
}


@pytest.mark.slow
@pytest.mark.parametrize("stop", [4, EPOCH_ENDS[0] + 2])
def test_mixing_sam_averages_and_sizes_resume_bit_identical(small_csv, stop, tmp_path):
    """Also where the backbone is still frozen; by way of a saved checkpoint."""

    trainer = make_trainer(small_csv, **EVERYTHING)
    end = advance(trainer, trainer.init(), EPOCH_ENDS[0] + 4)
    stopped = jax.tree.map(np.array, advance(trainer, trainer.init(), stop))
    other = make_trainer(small_csv, **EVERYTHING)
    with Checkpoints(tmp_path, "accuracy") as checkpoints:
        checkpoints.save(stop, stopped, None)
        checkpoints.wait()
        state = checkpoints.restore(stop, other.template())
    assert_identical(advance(other, state, EPOCH_ENDS[0] + 4), end)
    assert any("ema" in name for name in arrays(end))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(end))
