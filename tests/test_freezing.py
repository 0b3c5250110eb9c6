"""While the backbone is frozen nothing of it changes; afterwards it learns as from a first step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import EPOCH_ENDS, advance, arrays, assert_identical, make_trainer, slow_but

from fer_jax.models.folded import PIECE
from fer_jax.training import mesh
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.losses import Objective

FROZEN, END = EPOCH_ENDS  # steps
RATE, DECAY = 3e-4, 0.8
STOPS = (5, FROZEN - 1, FROZEN, 15)  # within the frozen steps, around their end, after it
SETTINGS = {
    "init__frozen_epochs": 1,
    "init__layer_decay": DECAY,
    "optimizer__name": "adamw",
    "optimizer__learning_rate": RATE,
    "optimizer__weight_decay": 0.1,
    "optimizer__clip_norm": 1.0,
    "schedule__name": "constant",
}


def frozen_trainer(data, **changes):
    return make_trainer(data, **(SETTINGS | changes))


@pytest.fixture(scope="module")
def trainer(small_csv):
    return frozen_trainer(small_csv)


def host(state):
    """A copy that outlives the state, which the next step takes."""
    return jax.tree.map(np.array, state)


@pytest.fixture(scope="module")
def history(trainer):
    """Step -> the state then, of a run that nothing disturbs."""
    state, states = trainer.init(), {}
    for step in sorted({0, *STOPS, FROZEN + 1, END}):
        state = advance(trainer, state, step)
        states[step] = host(state)
    return states


def of_backbone(state):
    """Path -> array of all that is the backbone's: parameters, statistics, averages, moments."""
    leaves = arrays(state)
    return {name: leaf for name, leaf in leaves.items() if "['backbone']" in name}


def of_head(state):
    return {name: leaf for name, leaf in arrays(state).items() if "['head']" in name}


def test_the_parts_are_all_but_the_counts(history):
    state = history[0]
    rest = arrays(state).keys() - of_backbone(state).keys() - of_head(state).keys()
    assert rest == {".step", ".opt_state[3].count"}  # the schedule follows the run's steps
    for kind in (".params", ".batch_stats", ".ema['params']", ".ema['batch_stats']"):
        assert any(name.startswith(f"{kind}['backbone']") for name in of_backbone(state)), kind
    moments = {name.split(".")[2] for name in of_backbone(state) if ".opt_state" in name}
    assert {"mu['stem']['kernel']", "nu['stem']['kernel']", "count"} <= moments


@pytest.mark.parametrize("step", [step for step in STOPS if step <= FROZEN])
def test_a_frozen_backbone_keeps_every_bit(history, step):
    assert_identical(of_backbone(history[step]), of_backbone(history[0]))


@pytest.mark.parametrize(("before", "after"), [(0, 5), (FROZEN, FROZEN + 1)])
def test_the_head_learns_in_both_phases(history, before, after):
    one, other = of_head(history[before]), of_head(history[after])
    still = [name for name in one if one[name].tobytes() == other[name].tobytes()]
    assert not still
    assert history[after].opt_state[3].count == after


def test_once_thawed_everything_learns(history):
    one, other = of_backbone(history[FROZEN]), of_backbone(history[FROZEN + 1])
    still = [name for name in one if one[name].tobytes() == other[name].tobytes()]
    assert not still


def test_the_first_thawed_update_is_the_learning_rate_by_depth(history):
    """Adam's bias correction starts there: with the head's count it would be half of it here.

    Of each layer the largest: biases that a BatchNorm takes away again have next to no gradient.
    """
    before, after = (history[step].params["backbone"] for step in (FROZEN, FROZEN + 1))
    depths = {"top": 1, "top_bn": 1, "block1a": 2, "stem": 3, "stem_bn": 3}
    assert before.keys() == depths.keys()
    for layer, depth in depths.items():
        old, new = arrays(before[layer]), arrays(after[layer])
        moved = max(np.abs(new[name] - old[name]).max() for name in old)
        assert 0.95 <= moved / (RATE * DECAY**depth) <= 1.2, layer  # weight decay is in it


def test_averages_start_at_the_backbone_and_follow_it(history):
    """No average of the frozen backbone strays by rounding, none lags behind once it moves."""
    frozen, moving = history[FROZEN], history[FROZEN + 1]
    assert_identical(frozen.ema["params"]["backbone"], frozen.params["backbone"])
    rate = min(0.9, (1 + FROZEN) / (10 + FROZEN))
    for name, average in arrays(moving.ema["params"]["backbone"]).items():
        old, new = (arrays(state.params["backbone"])[name] for state in (frozen, moving))
        np.testing.assert_allclose(average, rate * old + (1 - rate) * new, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [8, 2 * PIECE])
def test_a_frozen_backbone_infers(small_csv, batch_size):
    """Stored statistics, no stochastic depth: without dropout the loss is that of evaluation."""
    size = {"train__batch_size": batch_size}
    trainer = frozen_trainer(small_csv, model__dropout=0.0, model__drop_connect=0.5, **size)
    batch = next(trainer.batches(0))
    state = trainer.init()
    draw = np.random.default_rng(0)
    stats = jax.tree.map(
        lambda x: jnp.asarray(draw.uniform(0.5, 1.5, x.shape), x.dtype), state.batch_stats
    )
    state = state.replace(batch_stats=stats)
    logits = trainer.evaluator.model.apply(state.variables, batch["image"], train=False)
    targets = jax.nn.one_hot(batch["label"], 7)
    counts = trainer.records.counts()
    objective = Objective(jnp.asarray(counts.max() / counts), 0.0, None, 1.0)
    expected = objective.loss(logits, targets)
    _, metrics = trainer.train_step(state, batch, True)
    assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_the_heads_dropout_is_on(trainer):
    state = trainer.init()
    batch = next(trainer.batches(0))
    losses = []
    for step in (0, 1):
        state = trainer.init().replace(step=jnp.asarray(step, jnp.int32))
        losses.append(float(trainer.train_step(state, batch, True)[1]["loss"]))
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_a_frozen_step_costs_less_than_half(small_csv):
    """A forward pass is about a third of a step; no backward pass goes through the backbone."""
    trainer = frozen_trainer(small_csv, model__variant="tiny")  # of mini the head costs most
    shapes = {
        "image": jax.ShapeDtypeStruct((8, 32, 32, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((8,), np.int32),
    }
    operations = [
        trainer.train_step.lower(trainer.template(), shapes, frozen).cost_analysis()["flops"]
        for frozen in (True, False)
    ]
    assert operations[0] < 0.5 * operations[1]


def test_the_backbone_is_frozen_for_whole_epochs(trainer, small_csv):
    """Which the loop counts, as test_step.py has it."""
    assert trainer.frozen_steps == FROZEN
    for epochs, steps in ((0, 0), (2, END)):
        assert frozen_trainer(small_csv, init__frozen_epochs=epochs).frozen_steps == steps


@pytest.mark.parametrize("step", slow_but([15], STOPS))
def test_a_run_interrupted_anywhere_ends_bit_identical(history, small_csv, step, tmp_path):
    """Saved by Orbax, restored onto the template of a trainer of its own."""
    other = frozen_trainer(small_csv)
    with Checkpoints(tmp_path, "accuracy") as checkpoints:
        checkpoints.save(step, history[step], None)
        checkpoints.wait()
        state = checkpoints.restore(step, other.template())
    assert_identical(state, history[step])
    assert_identical(advance(other, state, END), history[END])


def test_a_frozen_step_leaves_the_state_whole_on_every_device(trainer):
    state, _ = trainer.train_step(trainer.init(), next(trainer.batches(0)), True)
    whole = mesh.replicated(trainer.evaluator.mesh)
    assert {leaf.sharding for leaf in jax.tree.leaves(state)} == {whole}
