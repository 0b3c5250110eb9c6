"""fer_jax as a contestant, by its own jitted steps and pipeline; the one file that knows it."""

import dataclasses
import functools
import importlib.util
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import QUICK
from experiments.benchmark import shared
from experiments.benchmark.shared import CONFIG, Contestant, Settings
from fer_jax import labels, model_file, train
from fer_jax.config import fill, load_config
from fer_jax.conversion.exporting import export_keras, export_onnx, export_timm
from fer_jax.data.augment import ERASED_AREA, ERASED_ASPECT
from fer_jax.data.pipeline import Shard
from fer_jax.data.records import Entry, Records
from fer_jax.evaluation.inference import ASKING, make_evaluator
from fer_jax.models.classifier import describe, make_model
from fer_jax.training import mesh as meshes
from fer_jax.training.loop import LAG


def make(task: str, settings: Settings, options: dict[str, Any]) -> Contestant:
    """`prepare` writes the shared files; the others take turns."""
    if task == "prepare":
        write_shared_files(settings)
    if task == "pipeline":
        return pipeline(settings, options["workers"])
    if task in ("train", "loop"):
        return training(settings, whole_loop=task == "loop")
    return inference(settings, one=task == "latency")


def config_of(settings: Settings, weights: str = "") -> train.Config:
    """The config with the model and sizes of `settings`, a constant rate, and a plain loss.

    Without dropout and random depth, so that all take the same steps: they cost next to nothing.
    """
    config = load_config(CONFIG, CONFIG.name)
    config.model.variant = settings.variant
    config.model.dropout = config.model.drop_connect = 0.0
    config.data.image_size = settings.size
    config.train.batch_size = config.evaluation.batch_size = settings.batch
    config.schedule.name, config.schedule.warmup_steps = "constant", 0
    config.loss.class_weights, config.loss.label_smoothing = "none", 0.0
    # Everything that peers have too, as pipelines are timed.
    config.augment.update(flip=True, rotation=0.05, zoom=0.1, translation=0.05)
    config.augment.update(brightness=0.1, contrast=0.2, erasing=0.25)
    config.init.weights, config.init.residual_scale = weights, 1.0
    return fill(train.Config, config)


def about(settings: Settings) -> dict[str, Any]:
    """Where JAX computes."""
    device = jax.devices()[0].device_kind
    return shared.about(jax.default_backend(), device, settings.threads, "jax", "flax")


def inference(settings: Settings, one: bool) -> Contestant:
    """The evaluation step of the folded model, as `fer_jax.trained` has it."""
    config, file = config_of(settings), model_file.load(settings.file(shared.MODEL))
    evaluator = make_evaluator(file.model(), settings.size, config.evaluation, fold=True)
    variables = evaluator.prepared(file.variables)

    def place(batch: shared.Batch) -> Any:
        sharding = meshes.sharded(evaluator.mesh)
        return batch if one else meshes.to_devices(batch, sharding)

    def infer(batch: Any) -> jax.Array:
        return evaluator.eval_step(variables, batch)[0]

    found = shared.inference(place, infer, settings, one, about=about(settings))
    if one:
        return found
    pool = ThreadPoolExecutor(ASKING)  # as in `Evaluator.predict`, each waits for its answer
    ask = functools.partial(pool.submit, lambda batch: jax.block_until_ready(infer(batch)))
    return lagging(dataclasses.replace(found, call=ask), Future.result)


def training(settings: Settings, whole_loop: bool) -> Contestant:
    """Steps on batches that lie on the device; as a whole loop on those of the pipeline."""
    config = config_of(settings, weights=str(settings.file(shared.MODEL)))
    trainer = train.make_trainer(config, records())
    state = trainer.init()

    def place(batch: shared.Batch) -> Any:
        return meshes.to_devices(batch, meshes.sharded(trainer.evaluator.mesh))

    def step(batch: Any) -> jax.Array:
        nonlocal state
        state, metrics = trainer.train_step(state, batch)
        return metrics["loss"]

    found = shared.training(place, step, settings, about=about(settings))
    if whole_loop:  # which makes fewer batches ahead with data.workers=0 than do not count here
        found = dataclasses.replace(found, batches=trainer.batches(0), untimed=8)
    return lagging(found)


def lagging(
    contestant: Contestant, wait: Callable[[Any], object] = jax.block_until_ready
) -> Contestant:
    """As in fer_jax's own loops, a call waits for the result of a few calls ago."""
    flying: list[Any] = []

    def call(batch: Any) -> list[Any]:
        flying.append(contestant.call(batch))
        if len(flying) > LAG:
            wait(flying.pop(0))
        return flying

    def wait_for_all(flying: list[Any]) -> None:
        for one in flying:
            wait(one)

    return dataclasses.replace(contestant, call=call, wait=wait_for_all)


def pipeline(settings: Settings, workers: int) -> Contestant:
    """Augmented batches alone, as the training loop gets them before they go to the device."""
    jax.config.update("jax_platforms", "cpu")  # the accelerator is left alone
    flags.FLAGS.mark_as_parsed()  # Grain hands them to its processes
    batches = train.make_trainer(config_of(settings), records()).local_batches(
        settings.size,
        settings.batch,
        0,
        shard=Shard(0, 1),
        workers=workers,
    )
    told = shared.about("cpu", "cpu", workers + 1, "jax", "flax")
    untimed = 32 * max(1, workers)  # more batches than are made ahead
    stream = (batch["image"] for batch in batches)
    return shared.pipeline(stream, settings, about=told, untimed=untimed)


def records() -> Records:
    """The shared faces as fer_jax holds them."""
    faces = shared.faces()
    entries = [Entry("", "train", int(x), str(i), -1) for i, x in enumerate(faces["label"])]
    digests = np.zeros((len(entries), 32), np.uint8)
    return Records(entries, list(faces["image"][..., None]), digests, None, channels=1)


def write_shared_files(settings: Settings) -> None:
    """Random weights by fer_jax.conversion to timm, Keras and ONNX, and numbers that peers need.

    The statistics are those of the first batch: in inference, too, images are told apart.
    """
    # A momentum of 0 keeps nothing of the old statistics.
    config = config_of(settings)
    model = make_model(dataclasses.replace(config.model, bn_momentum=0.0))
    variables = train.make_trainer(config, records()).init().variables
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    images = shared.step_batches(settings)[0]["image"]
    moved = jax.jit(apply, compiler_options=QUICK)(variables, images)[1]

    names, origin = list(labels.LABELS), {"source": "random, for a benchmark"}
    given = describe(model), settings.size, names, origin, "Apache-2.0"
    card = model_file.About(*given, training_data=None, metrics=None)
    file = model_file.ModelFile(card, jax.tree.map(np.asarray, {**variables, **moved}))
    model_file.save(settings.file(shared.MODEL), file)
    export_timm(settings.file(shared.TIMM), file)
    export_keras(settings.file(shared.KERAS), file)
    if importlib.util.find_spec("onnx"):
        export_onnx(settings.file(shared.ONNX), file)

    values = {"erased_area": ERASED_AREA, "erased_aspect": ERASED_ASPECT}
    for section in (config.optimizer, config.augment, config.model):
        values |= dataclasses.asdict(section)
    settings.file(shared.VALUES).write_text(json.dumps(values))
