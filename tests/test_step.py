"""The training step against the formulas that define it, and the loop's stop at a bad loss."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import Counts, arrays, assert_identical, read_data, small_config

from fer_jax import train
from fer_jax.errors import NonFiniteLoss
from fer_jax.models.folded import PIECE
from fer_jax.train import make_trainer
from fer_jax.training import loop, mesh
from fer_jax.training.mixing import MixingConfig, mix

BATCH, CLASSES = 8, 7
COUNTS = Counts((20, 2, 10, 40, 5, 8, 16))
WEIGHTS = 40 / COUNTS.counts()
SMOOTHING, DECAY, MOMENTUM = 0.1, 0.8, 0.9
STEM = ("backbone", "stem_bn")


@pytest.fixture(scope="module")
def trainer():
    """SGD of rate 1 without momentum: the update is minus the gradient, which its state holds."""
    config = small_config(
        "",
        optimizer__name="sgd",
        optimizer__momentum=0.0,
        optimizer__learning_rate=1.0,
        train__ema_decay=DECAY,
        loss__label_smoothing=SMOOTHING,
        model__bn_momentum=MOMENTUM,
        model__dropout=0.5,
    )
    return make_trainer(config, COUNTS)


@pytest.fixture(scope="module")
def batch(trainer):
    draw = np.random.default_rng(3)
    images = draw.integers(0, 256, (BATCH, 32, 32, 3), np.uint8)
    labels = np.array([0, 1, 2, 3, 4, 5, 6, 1], np.int32)
    return mesh.to_devices({"image": images, "label": labels}, mesh.sharded(trainer.evaluator.mesh))


@pytest.fixture
def state(trainer):
    """Fresh: the step gives its buffers away."""
    return trainer.init()


def at_step(state, number):
    return dataclasses.replace(state, step=jnp.asarray(number, jnp.int32))


def host(tree):
    return jax.tree.map(np.array, tree)


def part(tree, *path):
    for name in path:
        tree = tree[name]
    return np.asarray(tree, np.float64)


def gradients(state):
    (found,) = [inner.trace for inner in state.opt_state if hasattr(inner, "trace")]
    return found


def logits_in_training(trainer, state, batch, step):
    _, key = jax.random.split(jax.random.key(trainer.config.seed))
    logits, _ = trainer.evaluator.model.apply(
        state.variables,
        batch["image"],
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.fold_in(key, step)},
    )
    return np.asarray(logits, np.float64)


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@pytest.mark.slow
def test_the_quickly_compiled_first_state_is_the_optimized_one(trainer):
    init = trainer.init_fn.__wrapped__
    optimized = jax.jit(init, compiler_options={"xla_backend_optimization_level": 3})
    assert_identical(trainer.init(), optimized(None))


def test_loss_is_keras_class_weighted_cross_entropy(trainer, state, batch):
    """sum_i sum_k w_k y_ik (-log p_ik) / B, with y smoothed: not divided by the sum of weights."""
    labels = np.asarray(batch["label"])
    targets = np.eye(CLASSES)[labels] * (1 - SMOOTHING) + SMOOTHING / CLASSES
    logits = logits_in_training(trainer, state, batch, 0)
    expected = -(WEIGHTS * targets * log_softmax(logits)).sum() / BATCH
    _, metrics = trainer.train_step(state, batch)
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["accuracy"]) == np.mean(logits.argmax(-1) == labels)


@pytest.mark.slow
def test_the_step_learns_from_mixed_images_and_counts_by_their_larger_part(batch):
    """Dropout draws as without mixing: what is mixed is all that differs."""
    config = small_config("", mixing__mixup=0.4, mixing__cutmix=1.0, model__dropout=0.5)
    trainer = make_trainer(config, COUNTS)
    state = at_step(trainer.init(), 5)
    _, key = jax.random.split(jax.random.key(config.seed))
    targets = jnp.eye(CLASSES)[batch["label"]]
    images, labels, targets = mix(
        batch["image"], batch["label"], targets, jax.random.fold_in(key, 5), MixingConfig(0.4, 1.0)
    )
    assert (images != batch["image"]).any()
    logits = logits_in_training(trainer, state, {"image": images}, 5)
    expected = -(WEIGHTS * targets * log_softmax(logits)).sum() / BATCH
    _, metrics = trainer.train_step(state, batch)
    assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(metrics["accuracy"]) == np.mean(logits.argmax(-1) == np.asarray(labels))


def test_update_is_the_optimizers_and_the_norm_is_the_gradients(trainer, state, batch):
    before = arrays(host(state.params))
    new, metrics = trainer.train_step(state, batch)
    grads = arrays(gradients(new))
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads.values()))
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-5)
    for name, after in arrays(new.params).items():
        np.testing.assert_allclose(after, before[name] - grads[name], rtol=1e-6, atol=1e-6)


def test_gradient_is_the_losss_slope(trainer, batch):
    """Central difference along the gradient: the slope there is the gradient's norm."""
    new, metrics = trainer.train_step(trainer.init(), batch)
    norm, grads = float(metrics["gradient_norm"]), host(gradients(new))
    distance = 2e-3
    losses = []
    for sign in (1, -1):
        moved = trainer.init()
        params = jax.tree.map(lambda p, g, s=sign: p + s * distance * g / norm, moved.params, grads)
        _, there = trainer.train_step(dataclasses.replace(moved, params=params), batch)
        losses.append(float(there["loss"]))
    assert (losses[0] - losses[1]) / (2 * distance) == pytest.approx(norm, rel=0.02)


@pytest.mark.parametrize(("step", "rate"), [(0, 0.1), (5, 6 / 15), (1000, DECAY)])
def test_averages_move_by_their_rate_over_parameters_and_statistics(
    trainer, state, batch, step, rate
):
    state = at_step(state, step)
    before = arrays(host(state.ema))
    new, _ = trainer.train_step(state, batch)
    now, after = arrays(new.variables), arrays(new.ema)
    assert before.keys() == now.keys() == after.keys()
    assert any("batch_stats" in name for name in after)
    for name in after:
        expected = rate * before[name].astype(np.float64) + (1 - rate) * now[name]
        np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)


def test_evaluation_uses_the_averages(trainer, state, batch):
    new, _ = trainer.train_step(state, batch)
    assert new.evaluated is new.ema
    assert dataclasses.replace(new, ema=None).evaluated["params"] is new.params


def test_statistics_move_towards_the_batchs_mean_and_biased_variance(trainer, state, batch):
    """The stem's, from a convolution written out in NumPy: SAME, stride 2, 3x3."""
    kernel = part(state.params, "backbone", "stem", "kernel")
    x = np.pad(np.asarray(batch["image"], np.float64) / 255, ((0, 0), (0, 1), (0, 1), (0, 0)))
    taps = (x[:, i : i + 31 : 2, j : j + 31 : 2] @ kernel[i, j] for i in range(3) for j in range(3))
    out = sum(taps)
    assert out.shape == (BATCH, 16, 16, kernel.shape[-1])
    new, _ = trainer.train_step(state, batch)
    mean, var = (part(new.batch_stats, *STEM, name) for name in ("mean", "var"))
    np.testing.assert_allclose(mean, (1 - MOMENTUM) * out.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        var, MOMENTUM + (1 - MOMENTUM) * out.var((0, 1, 2)), rtol=1e-4, atol=1e-6
    )


def test_dropout_differs_from_step_to_step_and_is_the_steps_own(trainer, batch):
    losses = [
        float(trainer.train_step(at_step(trainer.init(), step), batch)[1]["loss"])
        for step in (0, 1, 2, 1)
    ]
    assert len(set(losses[:3])) == 3
    assert losses[1] == losses[3]


def test_steps_are_counted_and_the_state_is_given_away(trainer, state, batch):
    new, _ = trainer.train_step(state, batch)
    assert int(new.step) == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state)))
    newer, metrics = trainer.train_step(new, batch)
    assert int(newer.step) == 2
    assert all(np.isfinite(float(value)) for value in metrics.values())
    assert all(np.isfinite(leaf).all() for leaf in arrays(newer).values())


def test_the_step_is_a_function_of_its_inputs(trainer, batch):
    first, second = (trainer.train_step(trainer.init(), batch) for _ in range(2))
    assert_identical(first, second)


def test_parameters_and_statistics_are_float32(state):
    kinds = {leaf.dtype for leaf in jax.tree.leaves((state.params, state.batch_stats, state.ema))}
    assert kinds == {jnp.dtype("float32")}


def test_evaluation_loss_is_unweighted_and_unsmoothed(trainer, state, batch):
    probabilities, losses = trainer.evaluator.eval_step(state.variables, batch)
    logits = trainer.evaluator.model.apply(state.variables, batch["image"], train=False)
    logs = log_softmax(np.asarray(logits, np.float64))
    labels = np.asarray(batch["label"])
    np.testing.assert_allclose(losses, -logs[np.arange(BATCH), labels], rtol=1e-5)
    np.testing.assert_allclose(probabilities, np.exp(logs), rtol=1e-4)


def test_evaluation_uses_stored_statistics_alone(trainer, state, batch):
    """What the model says of an image does not depend on the images beside it."""
    alone, _ = trainer.evaluator.eval_step(state.variables, batch)
    images = np.array(batch["image"])
    images[1:] = 255 - images[1:] // 3
    beside_others = {"image": jnp.asarray(images), "label": batch["label"]}
    others, _ = trainer.evaluator.eval_step(state.variables, beside_others)
    np.testing.assert_allclose(alone[0], others[0], rtol=1e-6)
    assert np.abs(alone[1:] - others[1:]).max() > 1e-4


def test_evaluation_in_pieces_answers_each_image_as_it_does_alone(trainer, state, batch):
    whole, _ = trainer.evaluator.eval_step(state.variables, batch)
    many = jax.tree.map(lambda array: np.concatenate([array] * (2 * PIECE // BATCH)), dict(batch))
    pieces, losses = trainer.evaluator.eval_step(state.variables, many)
    np.testing.assert_allclose(pieces, np.concatenate([whole] * (2 * PIECE // BATCH)), atol=1e-6)
    assert losses.shape == (2 * PIECE,)


def test_on_a_cpu_evaluation_goes_in_pieces(trainer, state, batch):
    def program(count: int) -> str:
        given = jax.tree.map(lambda array: np.concatenate([array] * (count // BATCH)), dict(batch))
        return trainer.evaluator.eval_step.lower(state.variables, given).as_text()

    assert "stablehlo.while" in program(2 * PIECE)
    assert "stablehlo.while" not in program(PIECE)


class Recorder:
    """Stands for the run's checkpoints and its log; remembers what was saved and logged."""

    def __init__(self) -> None:
        self.saved: list[int] = []
        self.logged: list[int] = []

    @property
    def last_good(self):
        return f"last good checkpoint: step {self.saved[-1]}" if self.saved else "no checkpoint yet"

    def save(self, step, state, metrics):
        self.saved.append(step)

    def train(self, step, metrics):
        self.logged.append(step)

    def wait(self):
        pass

    def progress(self, step):
        pass


@dataclasses.dataclass
class Given:
    """A trainer whose metrics are given: metrics[k] is what step k + 1 says."""

    metrics: list
    epoch_ends: tuple
    config: train.Config
    frozen_steps: int = 0
    frozen: list = dataclasses.field(default_factory=list)

    def schedule(self, step):
        return 0.1

    def train_step(self, state, batch, frozen):
        self.frozen.append(frozen)
        step = int(state.step)
        return at_step(state, step + 1), self.metrics[step]


@dataclasses.dataclass(frozen=True)
class Bare:
    """A state of nothing but its step."""

    step: jax.Array
    evaluated: None = None


def drive(losses, norms=None, save_every=2, epoch_ends=(8,), stop=None, frozen_steps=0):
    norms = norms or [1.0] * len(losses)
    metrics = [
        {"loss": loss, "gradient_norm": norm} for loss, norm in zip(losses, norms, strict=True)
    ]
    record, every = Recorder(), {"checkpoint__every_steps": save_every}
    trainer = Given(metrics, epoch_ends, small_config("", **every), frozen_steps)
    train.fit(
        trainer,
        Bare(jnp.asarray(0, jnp.int32)),
        iter([None] * len(losses)),
        lambda variables, step: {"accuracy": 0.5},
        record,
        record,
        stop or loop.Stop(),
    )
    record.frozen = trainer.frozen
    return record


def test_what_one_process_was_sent_stops_all(monkeypatch):
    """Before the last step too, where no step is left to ask at: else one would report alone."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    told = lambda own: np.asarray([own, signal.SIGTERM])  # noqa: E731
    monkeypatch.setattr(loop.multihost_utils, "process_allgather", told)
    with loop.Stop() as stop:
        assert not stop.requested(loop.AGREE_EVERY + 1)
        stop.agree()
        assert stop.signal == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)  # our own first one, while all are stopping
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    late = loop.Stop()
    drive([1.0] * (loop.AGREE_EVERY - 1), epoch_ends=(loop.AGREE_EVERY - 1,), stop=late)
    assert late.signal == signal.SIGTERM


def test_a_scheduler_may_say_it_twice():
    with loop.Stop() as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGUSR2)
        assert stop.requested(1)
    assert stop.signal == signal.SIGUSR2


def test_the_loop_saves_and_logs_in_its_rhythm():
    record = drive([1.0] * 8, save_every=3, epoch_ends=(4, 8))
    assert record.saved == [3, 4, 6, 8]
    assert record.logged == list(range(1, 9))


def test_the_first_steps_are_frozen():
    for frozen_steps in (0, 3, 8):
        expected = [step <= frozen_steps for step in range(1, 9)]
        assert drive([1.0] * 8, frozen_steps=frozen_steps).frozen == expected


def test_metrics_are_fetched_when_later_steps_are_under_way():
    """The loop never waits for the step that it has just dispatched."""
    happened: list = []

    class Metric(float):
        def __new__(cls, step):
            return super().__new__(cls, 1.0)

        def __init__(self, step):
            self.step = step

        def __float__(self):
            happened.append(("fetched", self.step))
            return 1.0

    class Steps(Given):
        def train_step(self, state, batch, frozen):
            happened.append(("dispatched", int(state.step) + 1))
            return super().train_step(state, batch, frozen)

    config = small_config("", checkpoint__every_steps=100)
    steps = Steps([{"loss": Metric(step)} for step in range(1, 9)], (8,), config)
    record, start = Recorder(), Bare(jnp.asarray(0, jnp.int32))
    batches = iter([None] * 8)
    train.fit(steps, start, batches, lambda *_: {}, record, record, loop.Stop())
    for step in range(1, 9 - loop.LAG):
        dispatched = happened.index(("dispatched", step + loop.LAG))
        assert dispatched < happened.index(("fetched", step))


def test_neither_an_epochs_end_nor_a_last_batch_compiles_anew(small_csv):
    config, data = small_config(small_csv), read_data(small_csv)
    trainer = make_trainer(config, data.roles["train"])
    state, batches = trainer.init(), trainer.batches(0)
    assert len(data.roles["train"]) % config.train.batch_size
    for _ in range(trainer.epoch_ends[0] + 1):
        state, _ = trainer.train_step(state, next(batches))
    assert trainer.train_step._cache_size() == 1
    validation = data.roles["validation"]
    assert len(validation) % config.evaluation.batch_size
    trainer.evaluator.predict(state.evaluated, validation, progress=False)
    assert trainer.evaluator.eval_step._cache_size() == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(bad):
    """Whatever the step, in time: nothing of it is ever saved."""
    for step in range(1, 9):
        losses = [1.0] * 8
        losses[step - 1] = bad
        saved = [k for k in (2, 4, 6) if k < step]
        last = f"last good checkpoint: step {saved[-1]}" if saved else "no checkpoint yet"
        with pytest.raises(NonFiniteLoss) as caught:
            drive(losses)
        assert str(caught.value) == f"loss is {bad} at step {step}; {last}"
        assert caught.value.status == 1


def test_a_gradient_that_is_not_finite_stops_it_too():
    """The loss is still finite, the parameters after this step are not."""
    norms = [1.0] * 3 + [float("inf")] + [1.0] * 4
    with pytest.raises(NonFiniteLoss, match=r"gradient_norm is inf at step 4; last good .* step 2"):
        drive([1.0] * 8, norms)
