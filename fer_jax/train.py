"""The training program, from top to bottom: read, build, restore or initialise, step, validate,
save, report.

`train` is one run in its folder; `fit` is its loop; `make_trainer` assembles what the loop moves.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from fer_jax import config as configs
from fer_jax import labels, leakage, trained, workdir
from fer_jax.data import sidecars
from fer_jax.data.augment import AugmentConfig
from fer_jax.data.hashes import short_hashes
from fer_jax.data.pipeline import LARGEST_IMAGE, DataConfig, Shard, train_batches
from fer_jax.data.records import Dataset, Records
from fer_jax.data.sources import open_dataset
from fer_jax.errors import UserError
from fer_jax.evaluation.inference import EvaluationConfig, Evaluator, make_evaluator
from fer_jax.evaluation.metrics import summary
from fer_jax.evaluation.report import evaluate, headline
from fer_jax.models.classifier import ModelConfig, make_model
from fer_jax.outputs import write_text
from fer_jax.sections import Section, key
from fer_jax.training import mesh as meshes
from fer_jax.training import optimizers, warm_start
from fer_jax.training.checkpoints import SCORES, CheckpointConfig, Checkpoints
from fer_jax.training.logs import LogConfig, RunLog, read_metrics
from fer_jax.training.loop import LateMetrics, Stop, epoch_ends, size_stages
from fer_jax.training.losses import LossConfig, make_objective
from fer_jax.training.mesh import is_first, say
from fer_jax.training.mixing import MixingConfig
from fer_jax.training.state import InitConfig, TrainState, Variables, init_state
from fer_jax.training.step import train_step

SELECTED_ON = "validation"
SHEET_IMAGES = 64
COMPILED_ONCE = {"xla_backend_optimization_level": 1}  # same bits, 60 % of the time to compile
Metrics = dict[str, float]

# ---- Configuration -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TrainConfig(Section):
    """The section `train`."""

    section = "train"
    epochs: int = key(1, 10**6)
    batch_size: int = key(1, 10**6)  # over all devices and processes
    sizes: tuple[int, ...] = key(1, LARGEST_IMAGE)  # image sides, for equal parts of the steps
    ema_decay: float = key(0, 1)  # 0 keeps no average of parameters and statistics


@dataclasses.dataclass(frozen=True)
class Config(Section):
    """All that a run is told: what `configs/` writes out and flags change."""

    data: DataConfig
    augment: AugmentConfig
    model: ModelConfig
    init: InitConfig
    optimizer: optimizers.OptimizerConfig
    schedule: optimizers.ScheduleConfig
    loss: LossConfig
    mixing: MixingConfig
    train: TrainConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    log: LogConfig
    seed: int = key(0, 2**32 - 1)

    def __post_init__(self) -> None:
        """UserError where sections contradict each other."""
        super().__post_init__()
        self.model.check_image_size("data.image_size", self.data.image_size)
        for size in self.train.sizes:
            self.model.check_image_size("train.sizes", size)
        if self.init.frozen_epochs > self.train.epochs:
            raise UserError(
                f"init.frozen_epochs={self.init.frozen_epochs} must be at most "
                f"train.epochs={self.train.epochs}"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides in pixels of the images trained on, each for an equal part of the steps."""
        return self.train.sizes or (self.data.image_size,)


# ---- The program ---------------------------------------------------------------------------------


def train(
    config: Config, folder: str, name: str, command: str, step: int | None, dry_run: bool
) -> int:
    """One run in `folder` (`runs/NAME-HASH` if empty), to its end or on from where it stood.

    That is its latest checkpoint, or that of `step`. `command` is what continues it. Returns 0, or
    128 + signal where it was asked to stop, with everything saved. With `dry_run` nothing is
    written, and what would be done is said.
    """
    # The data, and all that decides the result: another run never mixes into the folder.
    prints = workdir.file_fingerprints(config.init, config.data.targets)
    data = open_dataset(config.data.path, config.data)
    say(data.describe())
    records = data.split("train")
    data.split(SELECTED_ON)  # a UserError now where there is none
    prints |= {role: part.fingerprint for role, part in data.roles.items()}
    identity = configs.identity(config, prints)
    place = pathlib.Path(folder or f"runs/{name}-{configs.short_hash(identity)}")
    workdir.check(place, identity)

    # The model, its optimizer, and the step.
    trainer = make_trainer(config, records)
    if dry_run:
        say("compiling a step, which tells its memory")  # minutes, for a large model
        say(trainer.describe())
        return 0
    if step is None and workdir.already_finished(place, trainer.epoch_ends[-1]):
        return 0

    # In its folder, for this process alone: learn, then let the best checkpoint give the figures.
    with workdir.locked(place) if is_first() else contextlib.nullcontext():
        if is_first():
            workdir.check(place, identity)  # another may have begun one meanwhile
            workdir.claim(place, about_run(config, data, identity), short_hashes(records))
        signal = learn(trainer, data, place, step)
        if signal is not None:
            say(f"stopped and saved; continue with: {command}")
            return 128 + signal
        report(trainer, data, place, command)
    return 0


def learn(trainer: "Trainer", data: Dataset, place: pathlib.Path, step: int | None) -> int | None:
    """From a checkpoint or from the start to the end; the signal if one asked to stop before."""
    config = trainer.config
    with Checkpoints(place, config.checkpoint.select_by) as checkpoints:
        # What is later than the `step` to go on from is made anew, the report first of all.
        if step is not None:
            checkpoints.check_step(step)
            if is_first():
                (place / workdir.REPORT).unlink(missing_ok=True)
            checkpoints.go_back_to(step)
        start = checkpoints.latest or 0
        if not start and is_first():
            describe_start(trainer, data, place)
        state = checkpoints.restore(start, trainer.template()) if start else trainer.init()

        # Batches follow from the step's number alone.
        log = RunLog(
            place,
            steps_total=trainer.epoch_ends[-1],
            steps_per_epoch=len(trainer.records) / config.train.batch_size,
            batch_size=config.train.batch_size,
            tensorboard=config.log.tensorboard,
            write=is_first(),
            start_step=start,
        )
        with Stop() as stop, log:
            log.message(f"continuing after step {start}" if start else "compiling the first step")
            score = functools.partial(validate, trainer.evaluator, data.split(SELECTED_ON), log)
            fit(trainer, state, trainer.batches(start), score, checkpoints, log, stop)
    return stop.signal


def fit(
    trainer: "Trainer",
    state: TrainState,
    batches: Iterator[Any],
    validate: Callable[[Variables, int], Metrics],
    checkpoints: Checkpoints,
    log: RunLog,
    stop: Stop,
) -> None:
    """From `state` to the last epoch's end, or to where `stop` asks for it; everything is saved."""
    late = LateMetrics(log, trainer.config.log.every_steps, trainer.schedule, checkpoints)
    for step in range(int(state.step) + 1, trainer.epoch_ends[-1] + 1):
        # Dispatched at once; what is fetched meanwhile are the metrics of steps before.
        frozen = step <= trainer.frozen_steps
        state, metrics = trainer.train_step(state, next(batches), frozen)
        late.push(step, metrics)
        log.progress(step)

        # Past each epoch the state is validated and saved; between them, and before a stop, saved.
        stopping = stop.requested(step)
        epoch_ended = step in trainer.epoch_ends
        if epoch_ended or stopping or step % trainer.config.checkpoint.every_steps == 0:
            late.fetch()
            scores = validate(state.evaluated, step) if epoch_ended else None
            checkpoints.save(step, state, scores)
        if stopping:
            break
    checkpoints.wait()
    if not stop.signal:
        stop.agree()  # the last validation takes its time


def validate(
    evaluator: Evaluator, records: Records, log: RunLog, variables: Variables, step: int
) -> Metrics:
    """The validation metrics that choose the checkpoint, logged."""
    figures = summary(evaluator.predict(variables, records, progress=False), bootstrap_samples=1)
    scores = {name: float(figures[name]) for name in SCORES}
    log.validation(step, scores)
    for warning in figures["warnings"]:
        log.message(f"warning: {warning}")
    return scores


def report(trainer: "Trainer", data: Dataset, folder: pathlib.Path, command: str) -> None:
    """Evaluate the best checkpoint, restored, and say where everything lies."""
    from fer_jax.evaluation import plots

    if is_first():  # the report comes last: where it is, the run is whole
        plots.learning_curves(read_metrics(folder), folder / "learning_curves.png")
    records, best = data.split(SELECTED_ON), trained.load(folder, evaluator=trainer.evaluator)
    origin = trained.origin_of([best], SELECTED_ON, records.fingerprint)
    result = evaluate(
        [(best.evaluator, best.variables)],
        records,
        SELECTED_ON,
        folder / "report",
        {**origin, "command": command, "data_path": trainer.config.data.path},
        copied=leakage.by_models([best], records),
    )
    if is_first():
        step, last = origin["checkpoint_step"], trainer.epoch_ends[-1]
        say(f"best checkpoint: step {step} of {last}, restored\n{headline(result)}")
        say(f"report {folder}/report/report.md, curves {folder}/learning_curves.png")


# ---- What is told of a run -----------------------------------------------------------------------


def about_run(config: Config, data: Dataset, identity: Mapping[str, Any]) -> dict[str, Any]:
    """What is written beside the run's checkpoints, ready for JSON."""
    return {
        "identity": dict(identity),
        "config": dataclasses.asdict(config),
        "labels": list(labels.LABELS),
        "fingerprint": {role: part.fingerprint for role, part in data.roles.items()},
        "selected_on": SELECTED_ON,
        "evaluated": "averaged" if config.train.ema_decay > 0 else "raw",
    }


def describe_start(trainer: "Trainer", data: Dataset, folder: pathlib.Path) -> None:
    """What training starts from; pictures of the data, and the list of what was left out."""
    from fer_jax.evaluation import plots

    say(trainer.beginning())
    counts = {role: part.counts() for role, part in data.roles.items()}
    plots.class_distribution(counts, folder / "class_distribution.png")
    batch = trainer.one_batch(trainer.config.data.image_size, SHEET_IMAGES)
    titles = [labels.LABELS[label] for label in batch["label"]]
    plots.contact_sheet(batch["image"], titles, folder / "augmented.png")
    if data.unreadable:
        lines = (json.dumps({"name": n, "reason": why}) for n, why in data.unreadable)
        write_text(folder / "quarantine.jsonl", "\n".join(lines) + "\n")


# ---- What the loop moves -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A run's data, model, optimizer and jitted step, bound once; knows no folder and no log."""

    config: Config
    records: Records
    evaluator: Evaluator
    schedule: Callable[[Any], Any]  # step to learning rate
    epoch_ends: tuple[int, ...]  # steps after which to evaluate; the last one ends the run
    frozen_steps: int  # the first ones, which move the head alone
    start: warm_start.WarmStart | None
    init_fn: Callable[[Variables | None], TrainState]
    train_step: jax.stages.Wrapped  # (state, batch, frozen=False) -> state, metrics

    def init(self) -> TrainState:
        """The state before the first step."""
        if self.start is None:
            return self.init_fn(None)
        whole = meshes.replicated(self.evaluator.mesh)
        return self.init_fn(meshes.to_devices(self.start.variables, whole))

    def template(self) -> TrainState:
        """Shapes, dtypes and shardings of the state, without its arrays."""
        whole = meshes.replicated(self.evaluator.mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
            jax.eval_shape(self.init_fn, None),
        )

    def batches(self, start_step: int) -> Iterator[Any]:
        """Global training batches on the devices, from the one after `start_step` on."""
        sharding, workers = meshes.sharded(self.evaluator.mesh), self.config.data.workers
        rows = self.config.train.batch_size
        stages = size_stages(self.config.sizes, self.epoch_ends[-1], start_step)
        for size, first, count in stages:
            local = self.local_batches(size, rows, first, shard=meshes.shard(), workers=workers)
            for batch in itertools.islice(local, count):
                yield meshes.to_devices(batch, sharding)

    def local_batches(self, size: int, rows: int, start: int, **where: Any) -> Iterator[Any]:
        """One process's augmented batches of a stage, on the host, from step `start` on."""
        run = {"seed": self.config.seed, "augmentation": self.config.augment, **where}
        return train_batches(
            self.records, image_size=size, batch_size=rows, start_step=start, **run
        )

    def one_batch(self, image_size: int, batch_size: int) -> dict[str, Any]:
        """The first images of the run, as one batch on the host."""
        return next(self.local_batches(image_size, batch_size, 0, shard=Shard(0, 1), workers=0))

    def beginning(self) -> str:
        """What training starts from, for how long it is frozen, what it learns beside labels."""
        start = "init: random weights" if self.start is None else self.start.text
        frozen = f"  backbone frozen for {self.frozen_steps} steps" if self.frozen_steps else ""
        return "\n".join(filter(None, [start, frozen, self.records.note]))

    def describe(self) -> str:
        """Parameters, steps, and the step's memory as XLA plans it; compiles the step."""
        # The memory of a step on the largest batch.
        state, batch_size = self.template(), self.config.train.batch_size
        batch = jax.eval_shape(dict, self.one_batch(max(self.config.sizes), batch_size))
        memory = self.train_step.lower(state, batch).compile().memory_analysis()
        if memory is None:
            raise UserError(f"{jax.default_backend()} does not tell a program's memory")
        mebibytes = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20

        # In words.
        parameters, statistics = (
            sum(leaf.size for leaf in jax.tree.leaves(tree))
            for tree in (state.params, state.batch_stats)
        )
        sides = ", then ".join(f"{side} x {side}" for side in self.config.sizes)
        return (
            f"{self.beginning()}\n"
            f"{parameters:,} trainable parameters, {statistics:,} BatchNorm statistics\n"
            f"{self.epoch_ends[-1]:,} steps of {batch_size} images at {sides} pixels\n"
            f"about {mebibytes:,.0f} MiB of memory per device for one training step"
        )


def make_trainer(config: Config, records: Records) -> Trainer:
    """Model, optimizer, objective and the jitted step for the training split `records`."""
    # What it learns from, and the model with its inference on all devices.
    init, soft, size = config.init, config.data.targets, config.train.batch_size
    records = sidecars.attach(records, soft) if soft else records
    model = make_model(config.model)
    evaluator = make_evaluator(model, config.data.image_size, config.evaluation)
    meshes.check_batch_size("train.batch_size", size)
    replicated, sharded = meshes.replicated(evaluator.mesh), meshes.sharded(evaluator.mesh)

    # The optimizer, whose schedule spans the run.
    ends, frozen = epoch_ends(len(records), size, config.train.epochs), init.frozen_epochs > 0
    schedule = optimizers.make_schedule(config.schedule, config.optimizer.learning_rate, ends[-1])
    optimizer = optimizers.make_optimizer(config.optimizer, schedule, init.layer_decay, frozen)

    # The first state, made where it lives; the step, which takes the state's buffers.
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    averages, side = config.train.ema_decay > 0, config.data.image_size
    init_fn = functools.partial(
        init_state, init_key, model, optimizer, side, averages, init.residual_scale
    )
    step = functools.partial(
        train_step,
        model=model,
        optimizer=optimizer,
        objective=make_objective(config.loss, records.counts()),
        mixing=config.mixing,
        sam_rho=config.optimizer.sam_rho,
        ema_decay=config.train.ema_decay,
        key=step_key,
    )
    quick, wide = meshes.on_cpu(COMPILED_ONCE), meshes.on_cpu(meshes.WIDE)
    return Trainer(
        config=config,
        records=records,
        evaluator=evaluator,
        schedule=schedule,
        epoch_ends=ends,
        frozen_steps=(0, *ends)[init.frozen_epochs],
        start=warm_start.load(init.weights, model, init.partial) if init.weights else None,
        init_fn=jax.jit(init_fn, out_shardings=replicated, compiler_options=quick),
        train_step=jax.jit(
            step,
            static_argnames="frozen",
            in_shardings=(replicated, sharded),
            out_shardings=replicated,
            donate_argnums=0,
            compiler_options=wide,
        ),
    )
