"""A trained model, from a run's folder or from a model file: ready to answer and to pass on."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fer_jax import labels, model_file
from fer_jax.config import fill
from fer_jax.data.pipeline import DataConfig
from fer_jax.errors import UserError
from fer_jax.evaluation.inference import EvaluationConfig, Evaluator, make_evaluator
from fer_jax.models.classifier import ModelConfig, describe, make_model
from fer_jax.training.losses import LossConfig
from fer_jax.training.state import Variables

ALL = "all"  # the part that is scored of data which nobody divided
# How data are read for a model file, whose header tells only how its own were divided, or, of a
# converted model, not even that: nothing is held out then.
READING = {"max_pixels": 16_777_216, "cache_mib": 2048, "workers": 0, "on_corrupt": "stop"}
READING |= dict.fromkeys(("path", "targets", "exclude", "map"), "")
UNDIVIDED = {"label_order": "", "validation_fraction": 0.0, "split_seed": 0}


@dataclasses.dataclass(frozen=True)
class Trained:
    """Variables with jitted inference, and what is known of them."""

    evaluator: Evaluator
    variables: Variables
    about: model_file.About
    path: pathlib.Path  # the run's folder or the model file
    train_hashes: np.ndarray | None  # uint64 [M, 2], None if not known
    data: DataConfig  # how the data it was trained on was read; of a model file, `path` is ""

    def file(self) -> model_file.ModelFile:
        """The model as one file, its arrays copied to NumPy."""
        variables = jax.tree.map(np.asarray, dict(self.variables))
        return model_file.ModelFile(self.about, variables, self.train_hashes)

    def selected_on(self, split: str, fingerprint: str) -> str | None:
        """What chose the checkpoint, as seen from images called `split`; None if not known."""
        chosen, known = self.about.origin.get("selected_on"), self.about.training_data or {}
        elsewhere = chosen == split and known.get(split, fingerprint) != fingerprint
        # Data that nobody divided may hold the model's own part, if nobody knows how it did.
        if elsewhere or (chosen and split == ALL and self.about.splitting):
            return f"its own data's {chosen}"
        return None if split == ALL else chosen


def load(
    path: pathlib.Path, step: int | None = None, evaluator: Evaluator | None = None
) -> Trained:
    """The best checkpoint of the run in `path`, or that of `step`; or the model file `path`.

    A folder as `convert --target=hub` writes it counts as its model file. `evaluator` is the run's
    own, where it was made already. UserError where the path is none of these, or where its labels
    are not those of the data.
    """
    hub = path / model_file.HUB_NAME
    path = hub if os.path.isfile(hub) else path
    if not os.path.isfile(path):
        return _from_run(path, step, evaluator)
    if step is not None:
        raise UserError(f"--step={step}: {path} is a model file, which has no other steps")
    return _from_file(path)


def load_all(paths: Sequence[pathlib.Path], step: int | None = None) -> list[Trained]:
    """Each as `load` gives it; equal models share one evaluator, which is compiled once."""
    found: list[Trained] = []
    for path in paths:
        model = load(path, step)
        for one in (other.evaluator for other in found):
            if (one.image_size, one.model) == (model.evaluator.image_size, model.evaluator.model):
                model = dataclasses.replace(model, evaluator=one)
        found.append(model)
    return found


def origin_of(models: Sequence[Trained], split: str, fingerprint: str) -> dict[str, Any]:
    """For reports on images called `split`: checkpoint, checkpoint_step, selected_on, members.

    An ensemble counts as chosen on `split` if any member was; else on what all were, or None.
    """
    members = [
        {
            "checkpoint": str(model.path),
            "checkpoint_step": model.about.origin.get("checkpoint_step"),
            "selected_on": model.selected_on(split, fingerprint),
            "label_smoothing": model.about.label_smoothing,
        }
        for model in models
    ]
    chosen = {member["selected_on"] for member in members}
    return {
        "checkpoint": ", ".join(str(model.path) for model in models),
        "checkpoint_step": members[0]["checkpoint_step"] if len(models) == 1 else None,
        "selected_on": split if split in chosen else chosen.pop() if len(chosen) == 1 else None,
        "members": members,
    }


def check_labels(names: Sequence[str] | None) -> None:
    """UserError unless the model's classes are, in this order, the data's."""
    if tuple(names or ()) != labels.LABELS:
        given = ",".join(map(str, names or ["(none)"]))
        raise UserError(
            f"the checkpoint's labels {given} differ from the data's "
            f"{','.join(labels.LABELS)}: its answers would be read wrongly"
        )


def _from_run(folder: pathlib.Path, step: int | None, evaluator: Evaluator | None) -> Trained:
    from fer_jax import workdir  # brings Orbax, which a model file does without
    from fer_jax.training.checkpoints import CheckpointConfig, Checkpoints

    # The model by the run's own configuration; of a stored state what inference needs.
    run = workdir.read(folder)
    check_labels(run["labels"])
    kinds: Any = (DataConfig, ModelConfig, LossConfig, EvaluationConfig, CheckpointConfig)
    try:
        data, model, loss, evaluation, checkpoint = (
            fill(kind, run["config"][kind.section], f"{kind.section}.") for kind in kinds
        )
    except (KeyError, UserError) as error:
        file = folder / workdir.RUN_FILE
        raise UserError(f"{file} is of another version: {error}") from error
    if evaluator is None:
        exact = model.dtype == "float32"  # else as its own log has it
        evaluator = make_evaluator(make_model(model), data.image_size, evaluation, fold=exact)
    with Checkpoints(folder, checkpoint.select_by, read_only=True) as checkpoints:
        step = checkpoints.best if step is None else step
        if step is None:
            raise UserError(f"{folder} has no evaluated checkpoint yet: train at least one epoch")
        checkpoints.check_step(step)
        averaged = run["evaluated"] == "averaged"
        variables = checkpoints.variables(step, evaluator.template(), averaged)
        metrics = checkpoints.metrics(step)

    about = model_file.About(
        architecture=describe(evaluator.model),
        image_size=data.image_size,
        labels=list(run["labels"]),
        origin={
            "source": "fer_jax",
            "checkpoint_step": step,
            "selected_on": run["selected_on"],
        },
        licence="unknown",
        training_data=run["fingerprint"],
        metrics=metrics,
        splitting={name: getattr(data, name) for name in model_file.SPLITTING},
        label_smoothing=loss.label_smoothing,
    )
    return Trained(evaluator, variables, about, folder, workdir.train_hashes(folder), data)


def _from_file(path: pathlib.Path) -> Trained:
    file = model_file.load(path)
    about = file.about
    check_labels(about.labels)
    evaluation = EvaluationConfig(batch_size=64, bootstrap_samples=2000)
    evaluator = make_evaluator(file.model(), about.image_size, evaluation, fold=True)
    variables = jax.device_put(file.variables)  # jnp.asarray compiles a program for each shape
    settings = {**READING, "image_size": about.image_size, **(about.splitting or UNDIVIDED)}
    data = fill(DataConfig, settings, "data.")
    return Trained(evaluator, variables, about, path, file.train_hashes, data)
