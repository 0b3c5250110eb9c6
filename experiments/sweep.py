"""Many short runs on an accelerator in one process: `python -m experiments.sweep SPEC --data=PATH`.

A train step takes longer to compile for an accelerator than a short run takes. Here it is compiled
once, and what runs differ in (seed, rates, decays, smoothing, weights, mixup) comes to it as data.
Initial weights, data order, augmentation and the step are fer_jax's own, so a run should equal the
one of fer_jax.main with the same settings but for rounding (not compared yet; mixup draws others).
SPEC is a JSON file:

    {"config": "b2_lite2.py", "set": {KEY: VALUE}, "runs": [{"name": ..., "seed": 0, "epochs": 5,
     "set": {KEY: VALUE}, "targets": FILE.npz, "teachers": [NAME-SEED], "keep": true}]}

`set` of the whole may change any key but those of FIXED, that of a run those of HYPER, `augment`,
`mixing.mixup` and `loss.class_weights`. All runs are read before the first one starts.
"""

import dataclasses
import functools
import itertools
import json
import operator
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from experiments.jobs import CONFIGS
from fer_jax import cache, cli, labels, model_file, train
from fer_jax.config import fill, load_config
from fer_jax.data import sidecars
from fer_jax.data.hashes import short_hashes
from fer_jax.data.pipeline import Shard, train_batches
from fer_jax.data.sources import open_dataset
from fer_jax.errors import UserError, one_line
from fer_jax.evaluation import metrics
from fer_jax.evaluation.inference import Evaluator, make_evaluator
from fer_jax.evaluation.predictions import Predictions
from fer_jax.models.classifier import describe, make_model
from fer_jax.outputs import write_text
from fer_jax.training import mesh, warm_start
from fer_jax.training.loop import epoch_ends
from fer_jax.training.losses import Objective, class_weights
from fer_jax.training.mixing import MixingConfig
from fer_jax.training.optimizers import scale_by_depth
from fer_jax.training.state import TrainState, Variables, init_state
from fer_jax.training.step import train_step

DATA = flags.DEFINE_string("data", "", "FER2013 in any known layout.")
OUTPUT = flags.DEFINE_string("output", "runs/sweep", "Folder of what the runs leave.")
SECONDS = flags.DEFINE_float("seconds", 1e9, "Runs that would end later are cut or left out.")
WORKERS = flags.DEFINE_integer("workers", 3, "Grain processes for each run.")
HYPER = (
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "schedule.warmup_steps",
    "loss.label_smoothing",
    "loss.logit_adjustment",
    "loss.targets_weight",
    "init.layer_decay",
    "train.ema_decay",
)
FIXED = {  # all that it can train with
    "data.targets": "",
    "init.frozen_epochs": 0,
    "mixing.cutmix": 0.0,
    "optimizer.name": "adamw",
    "optimizer.momentum": 0.9,
    "optimizer.b2": 0.999,
    "optimizer.epsilon": 1e-7,
    "optimizer.clip_norm": 0.0,
    "optimizer.sam_rho": 0.0,
    "schedule.name": "cosine",
    "schedule.final_fraction": 0.0,
    "train.sizes": (),
}
OWN = (*HYPER, "mixing.mixup", "loss.class_weights")  # keys of a run, beside `augment`
NEEDED = {"name", "seed", "epochs"}
OPTIONAL = {"set", "targets", "teachers", "keep", "at_least", "reserve"}
Spec = dict[str, Any]
Hyper = dict[str, Any]  # names of HYPER, and `steps`, `mixup`, `weights`: arrays


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled once and shared by all runs."""

    config: train.Config
    evaluator: Evaluator
    start: Variables | None  # arrays of init.weights, on the devices
    shares: np.ndarray  # of the classes in training, float32 [K]

    @functools.cached_property
    def init(self) -> Any:
        """Key -> state."""
        config = self.config
        optimizer = _optimizer(_hyper(config, self.shares, 1))

        def of(key: jax.Array, start: Variables | None) -> TrainState:
            model, size = self.evaluator.model, config.data.image_size
            scale = config.init.residual_scale
            return init_state(key, model, optimizer, size, True, scale, start)

        return jax.jit(of)

    @functools.cached_property
    def step(self) -> Any:
        """(state, batch with target, hyper, key) -> (state, metrics)."""

        def of(state: TrainState, batch: Any, hyper: Hyper, key: jax.Array) -> Any:
            share = hyper["loss.targets_weight"]
            hard = jax.nn.one_hot(batch["label"], len(self.shares))
            target = share * batch["target"] + (1 - share) * hard
            mix_key = jax.random.fold_in(jax.random.fold_in(key, state.step), 2)
            images, target = _mixup(batch["image"], target, hyper["mixup"], mix_key)
            adjustment: Any = hyper["loss.logit_adjustment"] * jnp.log(self.shares)
            smoothing: Any = hyper["loss.label_smoothing"]
            return train_step(
                state,
                {"image": images, "label": batch["label"], "target": target},
                model=self.evaluator.model,
                optimizer=_optimizer(hyper),
                objective=Objective(hyper["weights"], smoothing, adjustment, 1.0),
                mixing=MixingConfig(0.0, 0.0),
                sam_rho=0.0,
                ema_decay=hyper["train.ema_decay"],
                key=key,
            )

        return jax.jit(of, donate_argnums=0)


def _mixup(images: jax.Array, target: jax.Array, alpha: jax.Array, key: jax.Array) -> Any:
    """As training.mixing, with an alpha that may be 0 at run time."""
    partner_key, share_key = jax.random.split(key)
    partner = jax.random.permutation(partner_key, len(images))
    safe = jnp.maximum(alpha, 1e-2)
    share = jnp.where(alpha > 0, jax.random.beta(share_key, safe, safe), 1.0)
    mixed = jnp.rint(share * images + (1 - share) * images[partner]).astype(images.dtype)
    return mixed, share * target + (1 - share) * target[partner]


def _optimizer(hyper: Hyper) -> optax.GradientTransformation:
    """AdamW with a cosine schedule, as training.optimizers makes it, of numbers known later."""
    warmup = hyper["schedule.warmup_steps"]

    def rate(count: jax.Array) -> jax.Array:
        part = jnp.clip((count - warmup) / jnp.maximum(1, hyper["steps"] - warmup), 0, 1)
        factor = jnp.where(count < warmup, count / warmup, 0.5 * (1 + jnp.cos(jnp.pi * part)))
        return hyper["optimizer.learning_rate"] * factor

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda x: x.ndim > 1, params)

    return optax.chain(
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-7),
        optax.add_decayed_weights(hyper["optimizer.weight_decay"], mask=kernels),
        optax.scale_by_learning_rate(rate),
        scale_by_depth(hyper["init.layer_decay"]),
    )


def _hyper(config: train.Config, shares: np.ndarray, steps: int) -> Hyper:
    weights = class_weights(config.loss.class_weights, np.maximum(shares * 1e6, 1))
    numbers = {name: np.float32(operator.attrgetter(name)(config)) for name in HYPER}
    given = {"steps": np.float32(steps), "mixup": np.float32(config.mixing.mixup)}
    return {**numbers, **given, "weights": weights}


def configure(spec: Spec, changes: Spec) -> train.Config:
    """The config of the whole or, with its `changes`, of a run; UserError for what is not FIXED."""
    raw = load_config(CONFIGS / spec["config"], spec["config"]).to_dict()
    for key, value in {**spec.get("set", {}), **changes, "data.path": DATA.value}.items():
        section, _, name = key.partition(".")
        raw.setdefault(section, {})[name] = value
    config = fill(train.Config, raw)
    for key, value in FIXED.items():
        if operator.attrgetter(key)(config) != value:
            raise UserError(
                f"a sweep trains with {key}={value!r} alone: set that, or use fer_jax.main"
            )
    return config


def read_spec(path: pathlib.Path) -> Spec:
    """SPEC's content; UserError unless every run of it can be trained as it says."""
    try:
        spec = json.loads(path.read_text())
        configure(spec, {})
        earlier: dict[str, bool] = {}  # whether they are kept
        for run in spec["runs"]:
            for why in _wrong(run, earlier):
                raise UserError(f"{path}: run {_name(run)}: {why}")
            configure(spec, run.get("set", {}))
            earlier[_name(run)] = run.get("keep", False)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no SPEC that can be read: {one_line(error)}") from error
    return spec


def _name(run: Spec) -> str:
    return f"{run.get('name')}-{run.get('seed')}"


def _wrong(run: Spec, earlier: dict[str, bool]) -> Iterator[str]:
    yield from (f"it has no {key!r}" for key in sorted(NEEDED - run.keys()))
    yield from (f"no key is called {key!r}" for key in sorted(run.keys() - NEEDED - OPTIONAL))
    for key in run.get("set", {}):
        if key not in OWN and not key.startswith("augment."):
            yield f"{key} is the same for all runs: set it for the whole"
    for teacher in run.get("teachers", ()):
        if not earlier.get(teacher):
            yield f"teacher {teacher} is no earlier run that is kept"
    if not pathlib.Path(run.get("targets", "")).exists():
        yield f"targets {run['targets']} cannot be found"
    if _name(run) in earlier:
        yield "another one has this name and seed"


class Sweep:
    """The data, the program, and what earlier runs have left."""

    def __init__(self, spec: Spec, output: pathlib.Path) -> None:
        config = configure(spec, {})
        self.began, self.output, self.spec = time.time(), output, spec
        data = open_dataset(config.data.path, config.data)
        self.train, self.validation = data.split("train"), data.split("validation")
        self.fingerprints = {role: part.fingerprint for role, part in data.roles.items()}
        model = make_model(config.model)
        evaluator = make_evaluator(model, config.data.image_size, config.evaluation)
        start = None
        if config.init.weights:
            path = pathlib.Path(config.init.weights)
            loaded = warm_start.load(path, evaluator.model, config.init.partial)
            self.say(loaded.text)
            start = mesh.to_devices(loaded.variables, mesh.replicated(evaluator.mesh))
        counts = self.train.counts()
        self.program = Program(config, evaluator, start, np.float32(counts / counts.sum()))
        self.finished: dict[str, Variables] = {}
        self.epoch_seconds = 0.0

    def say(self, text: str) -> None:
        """With the seconds since the start."""
        print(f"[{time.time() - self.began:6.1f}] {text}", flush=True)

    def run(self, run: Spec) -> None:
        """Train one run, validate each epoch, write its figures and answers."""
        name = _name(run)
        if not self.finished.keys() >= set(run.get("teachers", ())):
            self.say(f"{name}: left out, a teacher is missing")
            return
        records = self._targeted(run)
        epochs = self._epochs(run)  # after the teachers' answers, which take their time
        if not epochs:
            self.say(f"{name}: left out, no time")
            return
        run = {**run, "epochs": epochs}
        config = configure(self.spec, run.get("set", {}))
        size = config.train.batch_size
        ends = epoch_ends(len(self.train), size, epochs)
        hyper = _hyper(config, self.program.shares, ends[-1])
        init_key, step_key = jax.random.split(jax.random.key(run["seed"]))
        state = self.program.init(init_key, self.program.start)
        batches, rows, first = self._batches(run["seed"], config, records), [], time.time()
        for epoch, (begin, end) in enumerate(itertools.pairwise((0, *ends)), start=1):
            began, losses = time.time(), []
            for batch in itertools.islice(batches, end - begin):
                state, figures = self.program.step(state, batch, hyper, step_key)
                losses.append((figures["loss"], figures["accuracy"]))
            loss, accuracy = np.mean(jax.device_get(losses), axis=0)
            scores = {"raw": self._score(state.variables), "ema": self._score(state.ema)}
            rows.append({"epoch": epoch, "loss": float(loss), "train": float(accuracy), **scores})
            seconds = time.time() - began
            known = self.epoch_seconds or seconds  # a first epoch may be longer: it compiles
            self.epoch_seconds = seconds if epoch > 1 else min(known, seconds)
            short = " ".join(f"{kind} {s['accuracy']:.4f}" for kind, s in scores.items())
            self.say(f"{name} {epoch}/{epochs} loss {loss:.3f} {short} {seconds:.1f} s")
        batches.close()
        self._leave(run, config, state, {"epochs": rows, "seconds": time.time() - first})

    def _epochs(self, run: Spec) -> int:
        """As asked, or as many as there is time for where the run may be cut."""
        left = SECONDS.value - (time.time() - self.began) - run.get("reserve", 0)
        possible = int(left / self.epoch_seconds) if self.epoch_seconds else run["epochs"]
        if possible >= run["epochs"]:
            return run["epochs"]
        return possible if possible >= run.get("at_least", run["epochs"]) else 0

    def _batches(self, seed: int, config: train.Config, records: Any) -> Iterator[Any]:
        host = train_batches(
            records,
            image_size=config.data.image_size,
            batch_size=config.train.batch_size,
            seed=seed,
            augmentation=config.augment,
            start_step=0,
            shard=Shard(0, 1),
            workers=WORKERS.value,
        )
        sharding = mesh.sharded(self.program.evaluator.mesh)
        for batch in host:
            yield mesh.to_devices(batch, sharding)

    def _targeted(self, run: Spec) -> Any:
        """Training records with targets: a file's, earlier runs' answers, or their labels."""
        if run.get("targets"):
            return sidecars.attach(self.train, run["targets"])
        teachers = [self.finished[name] for name in run.get("teachers", ())]
        probabilities = np.eye(len(labels.LABELS), dtype=np.float32)[self.train.labels]
        if teachers:
            answers = [self._predict(one, self.train, "flip") for one in teachers]
            probabilities = np.float32(np.mean([a.probabilities for a in answers], axis=0))
        return self.train.with_targets(probabilities, "")

    def _predict(self, variables: Any, records: Any, tta: str) -> Predictions:
        return self.program.evaluator.predict(variables, records, progress=False, tta=tta)

    def _score(self, variables: Any) -> dict[str, float]:
        summary = metrics.summary(
            self._predict(variables, self.validation, "none"), bootstrap_samples=1
        )
        return {name: float(summary[name]) for name in ("accuracy", "macro_f1", "loss")}

    def _leave(self, run: Spec, config: train.Config, state: TrainState, record: Any) -> None:
        """Figures and answers of the last epoch, and the averaged model where it is to be kept."""
        name = _name(run)
        record |= {"run": run, "spec": {k: v for k, v in self.spec.items() if k != "runs"}}
        kinds = ("none", "flip", "flip_crops") if run.get("keep") else ("none",)
        for tta in kinds:
            answers = self._predict(state.ema, self.validation, tta)
            answers.save(self.output / f"{name}.{tta}.npz")
            record[tta] = float(np.mean(answers.predicted == answers.labels))
        text = json.dumps(record, indent=1) + "\n"
        write_text(self.output / f"{name}.json", text)
        if run.get("keep"):
            self.finished[name] = state.ema
            self._save(self.output / f"{name}.safetensors", run, config, state.ema)
        self.say(f"{name}: " + ", ".join(f"{kind} {record[kind]:.4f}" for kind in kinds))

    def _save(self, path: pathlib.Path, run: Spec, config: train.Config, variables: Any) -> None:
        model = self.program.evaluator.model
        origin = {"source": "fer_jax", "selected_on": "validation", "run": json.dumps(run)}
        about = model_file.About(
            architecture=describe(model),
            image_size=config.data.image_size,
            labels=list(labels.LABELS),
            origin=origin,
            licence="Apache-2.0",
            training_data=self.fingerprints,
            metrics=None,
            splitting={name: getattr(config.data, name) for name in model_file.SPLITTING},
            label_smoothing=config.loss.label_smoothing,
        )
        arrays = jax.tree.map(np.asarray, dict(variables))
        hashes = short_hashes(self.train)
        model_file.save(path, model_file.rounded(model_file.ModelFile(about, arrays, hashes)))


def main(argv: Sequence[str]) -> None:
    """Every run of the spec in its order, as far as the time goes."""
    if len(argv) != 2 or not DATA.value:
        raise UserError("give one SPEC, a JSON file, and --data=PATH")
    spec = read_spec(pathlib.Path(argv[1]))
    output = pathlib.Path(OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    cache.keep_programs()
    sweep = Sweep(spec, output)
    for run in spec["runs"]:
        sweep.run(run)


if __name__ == "__main__":
    cli.run(main, arguments=True)
