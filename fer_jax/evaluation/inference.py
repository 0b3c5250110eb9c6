"""A model with its jitted inference: one pass over a split, every image counted once; means."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh
from tqdm import tqdm

from fer_jax.data.pipeline import eval_batches
from fer_jax.data.records import Records
from fer_jax.errors import UserError
from fer_jax.evaluation.predictions import Predictions
from fer_jax.models import folded
from fer_jax.models.classifier import Classifier, variable_shapes
from fer_jax.sections import Section, key
from fer_jax.training import mesh as meshes
from fer_jax.training.state import Variables
from fer_jax.training.step import eval_step

EvalStep = Callable[[Any, Any], tuple[jax.Array, jax.Array]]
IN_FLIGHT = 3  # batches on the devices at a time, answered or not
ASKING = 2  # threads, where there is one device: experiments/speed.md
CROP = 0.875  # side of a crop, of the image's: 42 of FER2013's 48 pixels


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Section):
    """The section `evaluation`."""

    section = "evaluation"
    batch_size: int = key(1, 10**6, neutral=True)
    bootstrap_samples: int = key(1, 10**7, neutral=True)


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """A model with its jitted inference over the mesh."""

    model: Classifier
    image_size: int  # pixels
    config: EvaluationConfig
    mesh: Mesh
    eval_step: EvalStep
    prepared: Callable[[Variables], Any]  # what `eval_step` takes of the model's variables

    def predict(
        self, variables: Variables, records: Records, progress: bool, tta: str = "none"
    ) -> Predictions:
        """Probabilities and losses for every record of a split, in their order.

        With `tta`, one of VIEWS, means over the views of each image.
        """
        if not len(records):
            raise UserError("no image is left to answer: choose a split that has images")
        batches = eval_batches(
            records,
            image_size=self.image_size,
            batch_size=self.config.batch_size,
            shard=meshes.shard(),
        )
        step = self.eval_step if tta == "none" else self._over_views(tta)
        sharding, arrays = meshes.sharded(self.mesh), self.prepared(variables)

        # On one device two threads, each with a batch: operations of the one fill the pauses that
        # the other's leave on a CPU's cores. Several devices want all programs in one order.
        alone = jax.device_count() == 1

        def ask(batch: Any) -> tuple[jax.Array, jax.Array]:
            answer = step(arrays, batch)
            return jax.block_until_ready(answer) if alone else answer

        outputs: list[Future[Any]] = []
        shown = {"desc": "evaluating", "unit": "batch", "leave": False, "disable": not progress}
        with ThreadPoolExecutor(ASKING if alone else 1) as pool:
            for batch in tqdm(batches, **shown):
                outputs.append(pool.submit(ask, meshes.to_devices(batch, sharding)))
                jax.block_until_ready(outputs[-IN_FLIGHT:][0].result())  # the first one compiles

        # The last batch is padded.
        probabilities, losses = (
            np.concatenate(part)[: len(records)]
            for part in zip(*jax.device_get([one.result() for one in outputs]), strict=True)
        )
        return Predictions(records.keys, records.labels, probabilities, losses)

    def _over_views(self, tta: str) -> EvalStep:
        """The same compiled inference for each view, then the mean: nothing is compiled anew."""
        shown = jax.jit(functools.partial(views, kind=tta), out_shardings=meshes.sharded(self.mesh))
        mean = jax.jit(average, out_shardings=meshes.replicated(self.mesh))

        def step(variables: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
            images = shown(batch["image"])
            return mean([self.eval_step(variables, {**batch, "image": view}) for view in images])

        return step

    def template(self) -> Variables:
        """Shapes, dtypes and shardings of the model's variables, to restore onto."""
        sharding = meshes.replicated(self.mesh)
        flat = {
            name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
            for name, shape in variable_shapes(self.model).items()
        }
        return unflatten_dict(flat, sep="/")


def make_evaluator(
    model: Classifier, image_size: int, config: EvaluationConfig, fold: bool = False
) -> Evaluator:
    """Jitted inference of `model`; every process gets all outputs of the global batch.

    Its batches are those of `config`, rounded up to a multiple of the devices. `fold`: by the
    folded model, which is faster and equal to rounding. Training goes without.
    """
    mesh, devices = meshes.data_mesh(), jax.device_count()
    even = math.ceil(config.batch_size / devices) * devices
    config = dataclasses.replace(config, batch_size=even)
    replicated, sharded = meshes.replicated(mesh), meshes.sharded(mesh)
    infer: Any = functools.partial(model.apply, train=False)
    if fold:
        infer = functools.partial(folded.logits, model)
    step = jax.jit(
        functools.partial(eval_step, infer=infer),
        in_shardings=(replicated, sharded),
        out_shardings=replicated,
        compiler_options=meshes.on_cpu(meshes.ANSWERING),
    )

    def prepared(variables: Variables) -> Any:
        return meshes.to_devices(folded.ready(model, variables), replicated) if fold else variables

    return Evaluator(model, image_size, config, mesh, step, prepared)


def average(answers: Sequence[tuple[Any, Any]]) -> tuple[jax.Array, jax.Array]:
    """Mean of probabilities [B, K] over views or models, and the cross-entropies [B] of that mean.

    Of losses -log p the mean's is -log mean exp(-loss), which does not underflow.
    """
    probabilities, losses = (jnp.stack(part) for part in zip(*answers, strict=True))
    mean_losses = jnp.log(len(answers)) - jax.nn.logsumexp(-losses, axis=0)
    return jnp.mean(probabilities, axis=0), mean_losses


def ensemble(members: Sequence[Predictions]) -> Predictions:
    """The mean of the members' probabilities for the same records; of one member, its own."""
    first = members[0]
    if len(members) == 1:
        return first
    probabilities, losses = average([(one.probabilities, one.losses) for one in members])
    return Predictions(first.keys, first.labels, np.asarray(probabilities), np.asarray(losses))


def views(images: jax.Array, kind: str) -> list[jax.Array]:
    """uint8 [B, S, S, C] -> VIEWS[kind] of that shape, the images themselves first.

    `flip` adds the mirror image; `flip_crops` has the whole image, its four corners and its centre,
    enlarged to S again (bilinear), each as it is and mirrored.
    """
    shown = [images]
    if kind == "flip_crops":
        side = round(CROP * images.shape[1])
        rest = images.shape[1] - side
        corners = [(0, 0), (0, rest), (rest, 0), (rest, rest), (rest // 2, rest // 2)]
        shown += [_crop(images, top, left, side) for top, left in corners]
    if kind != "none":
        shown += [view[:, :, ::-1] for view in shown]
    return shown


def _crop(images: jax.Array, top: int, left: int, side: int) -> jax.Array:
    """The square at `top`, `left` of `side` pixels, enlarged to the images' size, uint8."""
    part = images[:, top : top + side, left : left + side].astype(jnp.float32)
    return jnp.round(jax.image.resize(part, images.shape, "linear")).astype(jnp.uint8)
