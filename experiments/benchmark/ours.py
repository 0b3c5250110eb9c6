"""fer_jax as a contestant: the product's own jitted steps and pipeline, as train.py makes them."""

import collections
import functools
import importlib.metadata
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import QUICK
from experiments.benchmark import inputs, weights
from experiments.benchmark.agreement import one_logits
from experiments.benchmark.settings import Settings, config_of
from fer_jax import model_file, train
from fer_jax.data.augment import resize
from fer_jax.data.pipeline import Shard, train_batches
from fer_jax.data.records import Entry, Records
from fer_jax.evaluation.inference import Evaluator, make_evaluator
from fer_jax.models.classifier import make_model
from fer_jax.training import mesh as meshes
from fer_jax.training.loop import LAG
from fer_jax.training.state import TrainState

LAST_NORMALIZATION = "top_bn"


def make(task: str, settings: Settings, options: dict[str, Any]) -> Any:
    """`prepare` writes the shared files; the others take turns."""
    if task == "pipeline":
        return Pipeline(settings, options["workers"])
    if task == "prepare":
        weights.write(settings)
    kinds = {
        "prepare": Ours,
        "train": Train,
        "loop": Loop,
        "infer": Infer,
        "latency": Latency,
    }
    return kinds[task](settings)


class Ours:
    """What all tasks share."""

    untimed = 1

    def __init__(self, settings: Settings) -> None:
        self.settings, self.config = settings, config_of(settings)
        self.examples = settings.batch

    def about(self) -> dict[str, Any]:
        """Where JAX computes."""
        return {
            "platform": jax.default_backend(),
            "device": jax.devices()[0].device_kind,
            "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax")},
            "threads": self.settings.threads,
        }

    def device_peak_mib(self) -> float | None:
        """Of the first device, where it counts."""
        found = jax.devices()[0].memory_stats() or {}
        peak = found.get("peak_bytes_in_use")
        return None if peak is None else round(peak / 2**20, 1)

    def extras(self) -> dict[str, float]:
        """Nothing else."""
        return {}

    def variables(self, mesh: jax.sharding.Mesh) -> Any:
        """The shared weights on the devices."""
        file = model_file.load(self.settings.file(inputs.MODEL))
        return meshes.on_every_device(file.variables, mesh)

    def trainer(self, config: train.Config) -> train.Trainer:
        """With the shared images as training data."""
        return train.make_trainer(config, records(self.settings))


class Train(Ours):
    """Training steps on batches that lie on the device."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._trainer = self.trainer(self.config)
        self._state, self._batches = self._born(self._trainer), self._on_device(self._trainer)
        self._steps = 0

    def run(self, calls: int) -> None:
        """As the training loop: metrics are fetched a few steps late."""
        flying: collections.deque[Any] = collections.deque()
        for _ in range(calls):
            self._state, metrics = self._trainer.train_step(self._state, self._next())
            flying.append(metrics)
            if len(flying) > LAG:
                jax.device_get(flying.popleft())
        jax.block_until_ready(self._state)

    def bytes_per_call(self) -> float | None:
        """By XLA's analysis of the step that is timed; what has run is not compiled again."""
        lowered = self._trainer.train_step.lower(self._state, self._batches[0])
        moved = (lowered.compile().cost_analysis() or {}).get("bytes accessed", 0)
        return moved if moved > 0 else None

    def answer(self) -> dict[str, Any]:
        """Inference, two losses without dropout, and what the timed step sees at its end."""
        quick = self._plain_losses()
        before = self._last_mean()
        found = inference(self.settings, self.variables(self._trainer.evaluator.mesh))
        self.run(1)
        kept = self.config.model.bn_momentum
        statistics = ((self._last_mean() - kept * before) / (1 - kept)).tolist()
        name = "statistics" if self.settings.dtype == "float32" else "low_precision_statistics"
        return {**found, **quick, name: statistics}

    def _plain_losses(self) -> dict[str, float]:
        config = config_of(self.settings, dropout=False, dtype="float32")
        trainer = self.trainer(config)
        state, batches = self._born(trainer), self._on_device(trainer)
        with jax.default_matmul_precision("highest"):
            lowered = trainer.train_step.lower(state, batches[0])
        step = lowered.compile(compiler_options=QUICK)
        state, first = step(state, batches[0])
        _, second = step(state, batches[1])
        return {"train_loss": float(first["loss"]), "later_loss": float(second["loss"])}

    def _born(self, trainer: train.Trainer) -> TrainState:
        def born(variables: Any) -> TrainState:
            optimizer = trainer.optimizer.init(variables["params"])
            return TrainState(jnp.zeros((), jnp.int32), **variables, opt_state=optimizer, ema=None)

        whole = meshes.replicated(trainer.evaluator.mesh)
        return jax.jit(born, out_shardings=whole)(self.variables(trainer.evaluator.mesh))

    def _on_device(self, trainer: train.Trainer) -> list[Any]:
        sharding = meshes.sharded(trainer.evaluator.mesh)
        return [meshes.to_devices(b, sharding) for b in inputs.step_batches(self.settings)]

    def _last_mean(self) -> np.ndarray:
        return np.array(self._state.batch_stats["backbone"][LAST_NORMALIZATION]["mean"])

    def _next(self) -> Any:
        self._steps += 1
        return self._batches[(self._steps - 1) % len(self._batches)]


class Loop(Train):
    """Pipeline and step together, with the time that the loop waits for the next batch."""

    untimed = 8  # more than the pipeline makes ahead in this process (data.workers=0)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._stream = self._trainer.batches(0)
        self._waited = 0.0

    def run(self, calls: int) -> None:
        """So many steps on new batches."""
        self._waited = 0.0
        super().run(calls)

    def extras(self) -> dict[str, float]:
        """Seconds in which the loop had nothing to give to the step."""
        return {"waited": self._waited}

    def _next(self) -> Any:
        start = time.perf_counter()
        batch = next(self._stream)
        self._waited += time.perf_counter() - start
        return batch


class Infer(Ours):
    """The evaluation step on batches that lie on the device."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._evaluator = evaluator_of(self.config)
        self._variables = self.variables(self._evaluator.mesh)
        self._arrays = self._evaluator.prepared(self._variables)
        sharding = meshes.sharded(self._evaluator.mesh)
        self._batches = [
            meshes.to_devices(batch, sharding) for batch in inputs.step_batches(settings)
        ]

    def run(self, calls: int) -> None:
        """The last results are waited for, and none is more than a few steps ahead."""

        def call(number: int) -> Any:
            batch = self._batches[number % len(self._batches)]
            return self._evaluator.eval_step(self._arrays, batch)

        finish(call, calls)

    def answer(self) -> dict[str, Any]:
        """Logits and loss."""
        return inference(self.settings, self._variables)


class Latency(Infer):
    """One image from the host's memory to probabilities there."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.examples = 1
        first = inputs.step_batches(settings, 1)[0]
        self._one = {name: array[:1] for name, array in first.items()}

    def run(self, calls: int) -> None:
        """One after the other."""
        for _ in range(calls):
            self._call()

    def answer(self) -> dict[str, Any]:
        """Logits and loss of a batch; logits of the one image."""
        return super().answer() | one_logits(self._call(), self.settings.dtype)

    def _call(self) -> np.ndarray:
        return np.asarray(self._evaluator.eval_step(self._arrays, self._one)[0])


class Pipeline(Ours):
    """Augmented batches alone, as the training loop gets them before they go to the device."""

    def __init__(self, settings: Settings, workers: int) -> None:
        super().__init__(settings)
        if workers:
            flags.FLAGS.mark_as_parsed()  # Grain hands them to its processes
        self.untimed = 32 * max(1, workers)  # more than is made ahead
        self._workers = workers
        self._records = records(settings)
        self._stream = train_batches(
            self._records,
            image_size=settings.size,
            batch_size=settings.batch,
            seed=0,
            augmentation=self.config.augment,
            start_step=0,
            shard=Shard(0, 1),
            workers=workers,
        )

    def about(self) -> dict[str, Any]:
        """Always the CPU."""
        threads = self._workers + 1
        return {**super().about(), "platform": "cpu", "device": "cpu", "threads": threads}

    def run(self, calls: int) -> None:
        """Batches are dropped."""
        for _ in range(calls):
            next(self._stream)

    def answer(self) -> dict[str, Any]:
        """Images as they are, and grey levels of augmented ones."""
        size = self.settings.size
        plain = [resize(self._records.image(i), size)[..., 0] for i in range(inputs.PLAIN)]
        seen = [next(self._stream)["image"] for _ in range(inputs.SAMPLED)]
        return {"plain": np.stack(plain).tolist(), **inputs.grey_levels(seen)}


def finish(call: Callable[[int], Any], calls: int) -> None:
    """Make these calls, none more than a few ahead of its result; return when all are there."""
    flying: list[Any] = []  # a pytree: block_until_ready takes a deque for a leaf, and waits not
    for number in range(calls):
        flying.append(call(number))
        if len(flying) > LAG:
            jax.block_until_ready(flying.pop(0))
    jax.block_until_ready(flying)


def inference(settings: Settings, variables: Any) -> dict[str, Any]:
    """Logits less their mean and loss of the first batch; of the timed precision too."""
    batch = inputs.step_batches(settings, 1)[0]
    found = {}
    for dtype in dict.fromkeys(("float32", settings.dtype)):
        config = config_of(settings, dtype=dtype)
        evaluator = evaluator_of(config)
        exact = "highest" if dtype == "float32" else None
        with jax.default_matmul_precision(exact):
            probabilities, losses = evaluator.eval_step(evaluator.prepared(variables), batch)
        logits = np.log(np.asarray(probabilities, np.float64))
        prefix = "" if dtype == "float32" else "low_precision_"
        found[f"{prefix}logits"] = (logits - logits.mean(-1, keepdims=True)).tolist()
        found[f"{prefix}loss"] = float(jnp.mean(losses))
    return found


def evaluator_of(config: train.Config) -> Evaluator:
    """The product's jitted inference."""
    fold = config.model.dtype == "float32"  # as fer_jax.trained does
    return make_evaluator(make_model(config.model), config.data.image_size, config.evaluation, fold)


@functools.cache
def records(settings: Settings) -> Records:
    """The shared faces as the product holds them."""
    faces = inputs.shared_faces(settings)
    entries = [Entry("", "train", int(x), str(i), -1) for i, x in enumerate(faces["label"])]
    digests = np.zeros((len(entries), 32), np.uint8)
    return Records(entries, list(faces["image"][..., None]), digests, None, channels=1)
