"""The weights and images of one benchmark, written once in the form that each contestant reads."""

import dataclasses
import functools

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from experiments import QUICK
from experiments.benchmark import inputs
from experiments.benchmark.settings import Settings, config_of
from experiments.parity.random_weights import GAINS, random_array
from fer_jax import labels, model_file, train
from fer_jax.conversion.exporting import export_keras, export_timm
from fer_jax.conversion.names import export_variables, import_variables
from fer_jax.data.sources import open_dataset
from fer_jax.errors import UserError
from fer_jax.models.classifier import Classifier, describe, make_model, variable_shapes


def write(settings: Settings) -> None:
    """Random weights and statistics by fer_jax.conversion to timm and Keras; the faces."""
    config = config_of(settings, dtype="float32")
    model = make_model(config.model)
    about = model_file.About(
        architecture=describe(model),
        image_size=settings.size,
        labels=list(labels.LABELS),
        origin={"source": "random, for a benchmark"},
        licence="Apache-2.0",
        training_data=None,
        metrics=None,
    )
    variables = with_statistics(config, random_variables(model), inputs.step_batches(settings, 1))
    file = model_file.ModelFile(about, variables)
    model_file.save(settings.file(inputs.MODEL), file)
    export_timm(settings.file(inputs.TIMM), file)
    export_keras(settings.file(inputs.KERAS), file)
    found = faces(settings)
    np.save(settings.file(inputs.IMAGES), found["image"])
    np.save(settings.file(inputs.LABELS), found["label"])


def random_variables(model: Classifier) -> dict:
    """Drawn by timm's names, so that signals neither die nor explode."""
    flat = {name: np.zeros(shape, np.float32) for name, shape in variable_shapes(model).items()}
    zeros = unflatten_dict(flat, sep="/")
    gain = GAINS.get(model.backbone.variant, max(GAINS.values()))
    drawn = {
        name: random_array(name, array.shape, _kind(name, array.ndim), gain, seed=0)
        for name, array in export_variables(model, "timm", zeros).items()
    }
    return import_variables(model, "timm", drawn)


def with_statistics(config: train.Config, variables: dict, batches: list[inputs.Batch]) -> dict:
    """`variables` with the batch's own statistics: in inference, too, images are told apart."""
    # A momentum of 0 keeps nothing of the old ones.
    model = make_model(dataclasses.replace(config.model, bn_momentum=0.0))

    def moved(variables: dict, images: jax.Array) -> dict:
        apply = functools.partial(model.apply, method="features", mutable=["batch_stats"])
        return apply(variables, images, True)[1]["batch_stats"]

    found = jax.jit(moved, compiler_options=QUICK)(variables, batches[0]["image"])
    return {**variables, "batch_stats": jax.tree.map(np.asarray, found)}


def faces(settings: Settings) -> inputs.Batch:
    """The training images of `settings.data`, grey and of one size, or made ones."""
    if not settings.data:
        return inputs.made_faces()
    records = open_dataset(settings.data, config_of(settings).data).split("train")
    found = [records.image(i) for i in range(len(records))]
    shapes = {image.shape for image in found}
    if len(shapes) > 1 or found[0].shape[2] != 1:
        raise UserError(f"--data={settings.data} must hold grey images of one size, has {shapes}")
    return {"image": np.stack(found)[..., 0], "label": records.labels}


def _kind(name: str, axes: int) -> str:
    if axes > 1:
        return "kernel"
    return "positive" if name.endswith(("weight", "running_var")) else "any"
