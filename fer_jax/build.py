"""Config to model, data, optimizer and jitted steps: the assembly that all front doors share."""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fer_jax import labels
from fer_jax.config import check as check_values
from fer_jax.data import files, targets
from fer_jax.data.augment import Augmentation
from fer_jax.data.pipeline import Shard, eval_batches, train_batches
from fer_jax.data.sources import Dataset, ReadOptions, Records, open_dataset
from fer_jax.errors import UserError
from fer_jax.evaluation import tta as augmented
from fer_jax.evaluation.inference import EvalStep, average, predict
from fer_jax.evaluation.predictions import Predictions
from fer_jax.models.classifier import Classifier, FerHead, smallest_image_size
from fer_jax.models.efficientnet import VARIANTS, EfficientNet, Style
from fer_jax.training import mesh as meshes
from fer_jax.training import warm_start
from fer_jax.training.checkpoints import abstract
from fer_jax.training.loop import epoch_ends, size_stages
from fer_jax.training.losses import Objective, class_weights, logit_adjustment
from fer_jax.training.mixing import Mixing
from fer_jax.training.optimizers import learning_rate_schedule, make_optimizer
from fer_jax.training.state import TrainState, Variables, init_state
from fer_jax.training.step import eval_step, frozen_step, train_step

LARGEST_IMAGE = 4096  # pixels
COMPILED_ONCE = {"xla_backend_optimization_level": 1}  # same bits, 60 % of the time to compile


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """A model with its jitted inference over the mesh."""

    config: ConfigDict
    model: Classifier
    mesh: Mesh
    eval_step: EvalStep

    def predict(
        self, variables: Variables, records: Records, progress: bool, tta: str = "none"
    ) -> Predictions:
        """Probabilities and losses for every record of a split, in their order.

        With `tta`, one of evaluation.tta.VIEWS, means over the views of each image.
        """
        batches = eval_batches(
            records,
            image_size=self.config.data.image_size,
            batch_size=self.config.evaluation.batch_size,
            shard=shard(),
        )
        sharding = meshes.split(self.mesh)
        on_devices = (meshes.to_devices(batch, sharding) for batch in batches)
        step = self.eval_step if tta == "none" else self._over_views(tta)
        return predict(step, variables, on_devices, records, progress)

    def _over_views(self, tta: str) -> EvalStep:
        """The same compiled inference for each view, then the mean: nothing is compiled anew."""
        whole, parts = meshes.replicated(self.mesh), meshes.split(self.mesh)
        views = jax.jit(functools.partial(augmented.views, kind=tta), out_shardings=parts)
        mean = jax.jit(average, out_shardings=whole)

        def step(variables: Variables, batch: Any) -> tuple[jax.Array, jax.Array]:
            images = views(batch["image"])
            return mean([self.eval_step(variables, {**batch, "image": view}) for view in images])

        return step

    def template(self) -> TrainState:
        """Shapes, dtypes and shardings of a training state of this model: no data is needed."""
        optimizer, _ = _optimizer(self.config, total_steps=1)
        init = _initializer(self.config, self.model, optimizer)
        return abstract(jax.eval_shape(init, None), meshes.replicated(self.mesh))


@dataclasses.dataclass(frozen=True)
class Trainer:
    """All that training needs, bound and jitted once."""

    config: ConfigDict
    records: Records | targets.Targeted
    evaluator: Evaluator
    optimizer: optax.GradientTransformation
    schedule: Callable[[Any], Any]
    epoch_ends: tuple[int, ...]
    warm_start: warm_start.WarmStart | None
    born: Callable[[Variables | None], TrainState]
    frozen_steps: int  # the first ones, which move the head alone
    frozen_step: jax.stages.Wrapped
    train_step: jax.stages.Wrapped

    def init(self) -> TrainState:
        """The state before the first step; UserError where the file it starts from is gone."""
        if self.warm_start is not None:
            return self.born(meshes.on_every_device(self.warm_start.variables, self.evaluator.mesh))
        if self.config.init.weights:
            raise UserError(
                f"no file init.weights={self.config.init.weights}, nor a checkpoint yet"
            )
        return self.born(None)

    def step_from(self, step: int) -> jax.stages.Wrapped:
        """The step that follows after `step` steps: state and batch to state and metrics."""
        return self.frozen_step if step < self.frozen_steps else self.train_step

    def batches(self, start_step: int) -> Iterator[Any]:
        """Global training batches on the devices, from the one after `start_step` on."""
        sharding = meshes.split(self.evaluator.mesh)
        for size, first, count in size_stages(self.sizes, self.epoch_ends[-1], start_step):
            for batch in itertools.islice(self._local_batches(size, first), count):
                yield meshes.to_devices(batch, sharding)

    def _local_batches(self, image_size: int, start_step: int) -> Iterator[Any]:
        return train_batches(
            self.records,
            image_size=image_size,
            batch_size=self.config.train.batch_size,
            seed=self.config.seed,
            augmentation=augmentation(self.config),
            start_step=start_step,
            shard=shard(),
            workers=self.config.data.workers,
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides in pixels of the images trained on, each for an equal part of the steps."""
        return tuple(self.config.train.sizes) or (self.config.data.image_size,)

    def template(self) -> TrainState:
        """Shapes, dtypes and shardings of the state, without its arrays."""
        return self.evaluator.template()

    def beginning(self) -> str:
        """What training starts from, for how long it is frozen, what it learns beside labels.

        Empty from scratch and labels alone.
        """
        lines = []
        if self.warm_start is not None:
            frozen = f"; backbone frozen for {self.frozen_steps} steps" if self.frozen_steps else ""
            lines.append(self.warm_start.text + frozen)
        if isinstance(self.records, targets.Targeted):
            lines.append(self.records.note)
        return "\n".join(lines)

    def describe(self) -> str:
        """Parameters, steps, and the step's memory as XLA plans it; compiles the step."""
        state = self.template()
        size, batch = max(self.sizes), self.config.train.batch_size
        shapes = {
            "image": jax.ShapeDtypeStruct((batch, size, size, self.records.channels), jnp.uint8),
            "label": jax.ShapeDtypeStruct((batch,), jnp.int32),
        }
        if isinstance(self.records, targets.Targeted):
            shapes["target"] = jax.ShapeDtypeStruct((batch, len(labels.LABELS)), jnp.float32)
        memory = self.train_step.lower(state, shapes).compile().memory_analysis()
        if memory is None:
            raise UserError(f"{jax.default_backend()} does not tell a program's memory")
        mebibytes = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20
        parameters, statistics = (
            sum(leaf.size for leaf in jax.tree.leaves(tree))
            for tree in (state.params, state.batch_stats)
        )
        start = f"{self.beginning()}\n" if self.beginning() else ""
        sides = ", then ".join(f"{side} x {side}" for side in self.sizes)
        return (
            f"{start}{parameters:,} trainable parameters, {statistics:,} BatchNorm statistics\n"
            f"{self.epoch_ends[-1]:,} steps of {batch} images at {sides} pixels\n"
            f"about {mebibytes:,.0f} MiB of memory per device for one training step"
        )


def shard() -> Shard:
    """This process's part of the data."""
    return Shard(jax.process_index(), jax.process_count())


def augmentation(config: ConfigDict) -> Augmentation:
    """The augmentation of a config."""
    return Augmentation(**config.augment)


def check(config: ConfigDict) -> None:
    """UserError for what can be seen to be wrong before anything is read."""
    check_values(config)
    make_model(config)
    augmentation(config)
    _read_options(config)
    _optimizer(config, total_steps=1)
    if config.init.frozen_epochs > config.train.epochs:
        raise UserError(
            f"init.frozen_epochs={config.init.frozen_epochs} must be at most "
            f"train.epochs={config.train.epochs}"
        )


def read_data(config: ConfigDict) -> Dataset:
    """The data set at `config.data.path`, in whatever layout it has."""
    return open_dataset(config.data.path, _read_options(config))


def targets_fingerprint(config: ConfigDict) -> dict[str, str]:
    """{"targets": SHA-256 of the file `data.targets`}; {} where labels are all there is."""
    if not config.data.targets:
        return {}
    found = files.sha256(pathlib.Path(config.data.targets).expanduser())
    meshes.check_same("data.targets", found)
    return {"targets": found}


def make_model(config: ConfigDict) -> Classifier:
    """The classifier of a config; UserError where its head would see an empty feature map."""
    settings = config.model
    if settings.variant not in VARIANTS:
        raise UserError(f"model.variant={settings.variant!r} is not one of {', '.join(VARIANTS)}")
    _check_sizes(config)
    dtype = jnp.dtype(settings.dtype)
    style = Style(settings.padding, settings.bn_epsilon, settings.bn_momentum, dtype)
    head = FerHead(
        len(labels.LABELS),
        settings.head_filters,
        settings.hidden,
        settings.dropout,
        settings.head_padding,
        dtype,
    )
    backbone = EfficientNet(settings.variant, style, settings.drop_connect, settings.stem_stride)
    return Classifier(backbone, head, tuple(settings.input_mean), tuple(settings.input_std))


def _check_sizes(config: ConfigDict) -> None:
    padding = config.model.head_padding
    smallest = smallest_image_size(padding, config.model.stem_stride)
    sizes = [("data.image_size", config.data.image_size)]
    sizes += [("train.sizes", size) for size in config.train.sizes]
    for name, size in sizes:
        if type(size) is not int or not 0 < size <= LARGEST_IMAGE:
            raise UserError(f"{name}={size!r} must be a whole number from 1 to {LARGEST_IMAGE}")
        if size < smallest:
            raise UserError(
                f"{name}={size} leaves nothing for the head's 3x3 convolution with "
                f"model.head_padding={padding}: at least {smallest} pixels, or SAME"
            )


def make_evaluator(config: ConfigDict, model: Classifier) -> Evaluator:
    """Jitted inference of `model`; every process gets all outputs of the global batch."""
    meshes.check_batch_size("evaluation.batch_size", config.evaluation.batch_size)
    mesh = meshes.data_mesh()
    whole, parts = meshes.replicated(mesh), meshes.split(mesh)
    step = jax.jit(
        functools.partial(eval_step, model=model),
        in_shardings=(whole, parts),
        out_shardings=whole,
    )
    return Evaluator(config, model, mesh, step)


def make_trainer(config: ConfigDict, records: Records) -> Trainer:
    """Optimizer, schedule, class weights and the jitted step for the training split `records`."""
    evaluator, size = make_evaluator(config, make_model(config)), config.train.batch_size
    meshes.check_batch_size("train.batch_size", size)
    ends = epoch_ends(len(records), size, config.train.epochs)
    optimizer, schedule = _optimizer(config, ends[-1])
    _, step_key = _keys(config)
    whole, parts = meshes.replicated(evaluator.mesh), meshes.split(evaluator.mesh)
    weights = pathlib.Path(config.init.weights)
    examples = targets.attach(records, config.data.targets) if config.data.targets else records

    def jitted(step: Callable[..., Any]) -> jax.stages.Wrapped:
        bound = functools.partial(
            step,
            model=evaluator.model,
            optimizer=optimizer,
            objective=_objective(config, records.counts()),
            mixing=Mixing(**config.mixing),
            sam_rho=config.optimizer.sam_rho,
            ema_decay=config.train.ema_decay,
            key=step_key,
        )
        return jax.jit(bound, in_shardings=(whole, parts), out_shardings=whole, donate_argnums=0)

    return Trainer(
        config=config,
        records=examples,
        evaluator=evaluator,
        optimizer=optimizer,
        schedule=schedule,
        epoch_ends=ends,
        born=jax.jit(
            _initializer(config, evaluator.model, optimizer),
            out_shardings=whole,
            compiler_options=COMPILED_ONCE if jax.default_backend() == "cpu" else None,
        ),
        warm_start=warm_start.load(weights, evaluator.model, config.init.partial)
        if weights.is_file()
        else None,
        frozen_steps=(0, *ends)[config.init.frozen_epochs],
        frozen_step=jitted(frozen_step),
        train_step=jitted(train_step),
    )


def _read_options(config: ConfigDict) -> ReadOptions:
    names = [field.name for field in dataclasses.fields(ReadOptions)]
    return ReadOptions(**{name: config.data[name] for name in names if name in config.data})


def _keys(config: ConfigDict) -> tuple[jax.Array, jax.Array]:
    """Keys of the initial parameters and of the steps' randomness."""
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    return init_key, step_key


def _initializer(
    config: ConfigDict, model: Classifier, optimizer: optax.GradientTransformation
) -> Callable[[Variables | None], TrainState]:
    average, (key, _) = config.train.ema_decay > 0, _keys(config)
    scale = config.init.residual_scale
    size = config.data.image_size
    return functools.partial(init_state, key, model, optimizer, size, average, scale)


def _objective(config: ConfigDict, counts: np.ndarray) -> Objective:
    loss = config.loss
    weights = jnp.asarray(class_weights(loss.class_weights, counts))
    adjustment = logit_adjustment(loss.logit_adjustment, counts)
    return Objective(weights, loss.label_smoothing, adjustment, loss.targets_weight)


def _optimizer(
    config: ConfigDict, total_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    schedule = learning_rate_schedule(
        peak=config.optimizer.learning_rate, total_steps=total_steps, **config.schedule
    )
    apart_from_rule = ("learning_rate", "sam_rho")
    rule = {k: v for k, v in config.optimizer.items() if k not in apart_from_rule}
    init = config.init
    return make_optimizer(
        schedule=schedule, layer_decay=init.layer_decay, apart=init.frozen_epochs > 0, **rule
    ), schedule
