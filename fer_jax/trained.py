"""A trained model, from a run's folder or from a model file: ready to answer and to pass on."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fer_jax import build, labels, model_file, workdir
from fer_jax.config import complete
from fer_jax.errors import UserError
from fer_jax.models.classifier import describe
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.state import Variables

# How a model file is evaluated, which has no run whose config would say it.
READING = {
    "path": "",
    "label_order": "",
    "on_corrupt": "stop",
    "validation_fraction": 0.1,
    "split_seed": 0,
    "max_pixels": 16_777_216,
    "cache_mib": 2048,
}
EVALUATION = {"batch_size": 64, "bootstrap_samples": 2000}


@dataclasses.dataclass(frozen=True)
class Trained:
    """Variables with jitted inference, and what is known of them."""

    evaluator: build.Evaluator
    variables: Variables
    about: model_file.About
    origin: dict[str, Any]  # for reports: checkpoint, checkpoint_step, selected_on

    def file(self) -> model_file.ModelFile:
        """The model as one file, its arrays copied to NumPy."""
        return model_file.ModelFile(self.about, jax.tree.map(np.asarray, dict(self.variables)))


def load(path: pathlib.Path) -> Trained:
    """The best checkpoint of the run in `path`, or the model file `path`.

    UserError where it is neither, or where its labels are not those of the data.
    """
    return _from_file(path) if os.path.isfile(path) else _from_run(path)


def check_labels(names: Sequence[str] | None) -> None:
    """UserError unless the model's classes are, in this order, the data's."""
    if tuple(names or ()) != labels.LABELS:
        raise UserError(
            f"the checkpoint's labels {','.join(names or ['(none)'])} differ from the data's "
            f"{','.join(labels.LABELS)}: its answers would be read wrongly"
        )


def _from_run(folder: pathlib.Path) -> Trained:
    run = workdir.read(folder)
    check_labels(run["labels"])
    config = complete(run["config"])
    evaluator = build.make_evaluator(config, build.make_model(config))
    with Checkpoints(folder, config.checkpoint.select_by, read_only=True) as checkpoints:
        step = checkpoints.best
        if step is None:
            raise UserError(f"{folder} has no evaluated checkpoint yet: train at least one epoch")
        state, metrics = checkpoints.restore(step, evaluator.template()), checkpoints.metrics(step)
    origin = {"checkpoint": str(folder), "checkpoint_step": step, "selected_on": run["selected_on"]}
    about = model_file.About(
        architecture=describe(evaluator.model),
        image_size=config.data.image_size,
        labels=list(run["labels"]),
        origin={"source": "fer_jax", "checkpoint_step": step, "selected_on": run["selected_on"]},
        licence="unknown",
        training_data=run["fingerprint"],
        metrics=metrics,
    )
    return Trained(evaluator, state.evaluated, about, origin)


def _from_file(path: pathlib.Path) -> Trained:
    file = model_file.load(path)
    check_labels(file.about.labels)
    config = ConfigDict({"data": dict(READING), "evaluation": dict(EVALUATION)})
    config.data.image_size = file.about.image_size
    origin = {
        "checkpoint": str(path),
        "checkpoint_step": file.about.origin.get("checkpoint_step"),
        "selected_on": file.about.origin.get("selected_on"),
    }
    evaluator = build.make_evaluator(config, file.model())
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), file.variables)
    return Trained(evaluator, variables, file.about, origin)
