"""Train, resume, and report: `python -m fer_jax.main --config=configs/b2.py`."""

import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from fer_jax import build, cli, labels, workdir
from fer_jax.config import identity
from fer_jax.data.pipeline import Shard, train_batches
from fer_jax.data.sources import Dataset
from fer_jax.errors import UserError
from fer_jax.evaluation import metrics, plots
from fer_jax.evaluation.report import write_report
from fer_jax.training import loop, mesh
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.logs import RunLog, read_metrics
from fer_jax.training.state import TrainState, Variables

CONFIG = cli.define_config("Python file with get_config(); override with --config.key=value.")
WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run; runs/<config>-<hash> if empty.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Build everything, say what it is, and exit.")
COORDINATOR = flags.DEFINE_string("coordinator", "", "host:port of process 0, or auto (TPU pod).")
PROCESSES = flags.DEFINE_integer("processes", 1, "How many processes there are.")
PROCESS = flags.DEFINE_integer("process", 0, "Which of them this is.")

SHEET_IMAGES = 64


def main(argv: Sequence[str]) -> int:
    """Train to the end or from where the run stood; 130 or 143 where it was asked to stop."""
    del argv
    config = cli.config_of(CONFIG)
    build.check(config)
    mesh.start_processes(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    first = jax.process_index() == 0
    say(mesh.devices_line())
    data = build.read_data(config)
    say(data.describe())
    check_roles(data)
    prints = {role: records.fingerprint for role, records in data.roles.items()}
    run = identity(config, prints)
    folder = pathlib.Path(WORKDIR.value or workdir.default_workdir(config_name(), run))
    workdir.check(folder, run)
    trainer = build.make_trainer(config, data.roles["train"])
    if DRY_RUN.value:
        say(describe_size(trainer))
        return 0
    about = {
        "identity": run,
        "config": config.to_dict(),
        "labels": list(labels.LABELS),
        "fingerprint": prints,
        "selected_on": build.SELECTED_ON,
        "evaluated": "averaged" if config.train.ema_decay > 0 else "raw",
    }
    if first:
        workdir.claim(folder, about)
    return train(trainer, data, folder, about)


def train(trainer: build.Trainer, data: Dataset, folder: pathlib.Path, about: Any) -> int:
    """Run the loop in `folder` and report on the best checkpoint."""
    config, last = trainer.config, trainer.epoch_ends[-1]
    with Checkpoints(folder, config.checkpoint.select_by) as checkpoints:
        start = checkpoints.latest or 0
        if start >= last and (folder / "report" / "report.json").exists():
            say(f"already finished at step {last}: {best_line(checkpoints)}; see {folder}/report")
            return 0
        if start == 0:
            draw_data(trainer, data, folder)
        state = checkpoints.restore(start, trainer.template()) if start else trainer.init()
        with loop.Stop() as stop, open_log(trainer, folder, start) as log:
            if start:
                log.message(f"continuing after step {start} of {last}")
            validate = validator(trainer, data, log)
            rhythm = loop.Rhythm(config.log.every_steps, config.checkpoint.every_steps)
            batches = trainer.batches(start)
            loop.train(
                trainer, state, batches, validate, checkpoints, about, log, rhythm, stop
            )
        if stop.signal is not None:
            say(f"stopped and saved; continue with: {command()}")
            return 128 + stop.signal
        report(trainer, data, folder, checkpoints)
    return 0


def open_log(trainer: build.Trainer, folder: pathlib.Path, start: int) -> RunLog:
    """The run's log from `start` on, written by process 0 alone."""
    size = trainer.config.train.batch_size
    return RunLog(
        folder,
        steps_total=trainer.epoch_ends[-1],
        steps_per_epoch=len(trainer.records) / size,
        batch_size=size,
        tensorboard=trainer.config.log.tensorboard,
        write=jax.process_index() == 0,
        start_step=start,
    )


def validator(trainer: build.Trainer, data: Dataset, log: RunLog) -> Any:
    """variables, step -> the validation metrics that choose the checkpoint, logged."""
    records = data.roles["validation"]

    def validate(variables: Variables, step: int) -> loop.Metrics:
        answers = trainer.evaluator.predict(variables, records, progress=False)
        summary = metrics.summary(answers, bootstrap_samples=1)
        names = ("accuracy", "loss", "macro_f1", "balanced_accuracy")
        scores = {name: float(summary[name]) for name in names}
        log.validation(step, scores)
        for warning in summary["warnings"]:
            log.message(f"warning: {warning}")
        return scores

    return validate


def report(
    trainer: build.Trainer, data: Dataset, folder: pathlib.Path, checkpoints: Checkpoints
) -> None:
    """Evaluate the best checkpoint, restored from disk, and say where everything lies."""
    best = checkpoints.best
    if best is None:
        raise UserError(f"{folder} has no evaluated checkpoint")
    state: TrainState = checkpoints.restore(best, trainer.template())
    records = data.roles["validation"]
    answers = trainer.evaluator.predict(state.evaluated, records, progress=False)
    if jax.process_index() != 0:
        return
    plots.learning_curves(read_metrics(folder), folder / "learning_curves.png")
    context = report_context(trainer.config, data, "validation", folder, best)
    result = write_report(
        folder / "report",
        answers,
        lambda i: records[i]["image"],
        context,
        bootstrap_samples=trainer.config.evaluation.bootstrap_samples,
    )
    say(f"{best_line(checkpoints)}\n{result['accuracy']:.2%} on validation, restored from disk")
    say(f"report {folder}/report/report.md, curves {folder}/learning_curves.png")


def report_context(
    config: ConfigDict, data: Dataset, split: str, checkpoint: pathlib.Path, step: int
) -> dict[str, Any]:
    """What a report says of where its figures come from."""
    return {
        "checkpoint": str(checkpoint),
        "checkpoint_step": step,
        "selected_on": build.SELECTED_ON,
        "split": split,
        "data_path": config.data.path,
        "data_fingerprint": data.roles[split].fingerprint,
        "label_names": list(labels.LABELS),
        "command": command(),
    }


def draw_data(trainer: build.Trainer, data: Dataset, folder: pathlib.Path) -> None:
    """The class distribution and a contact sheet of augmented samples, as pictures."""
    if jax.process_index() != 0:
        return
    config, records = trainer.config, trainer.records
    counts = {role: part.counts() for role, part in data.roles.items()}
    plots.class_distribution(counts, folder / "class_distribution.png")
    sheet = train_batches(
        records,
        image_size=config.data.image_size,
        batch_size=SHEET_IMAGES,
        seed=config.seed,
        augmentation=build.augmentation(config),
        start_step=0,
        shard=Shard(0, 1),
        workers=0,
    )
    batch = next(sheet)
    titles = [labels.LABELS[label] for label in np.asarray(batch["label"])]
    plots.contact_sheet(batch["image"], titles, folder / "augmented.png")


def describe_size(trainer: build.Trainer) -> str:
    """Parameters, steps and an estimate of the step's memory, as XLA plans it."""
    state = trainer.template()
    size = trainer.config.data.image_size, trainer.config.train.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((size[1], size[0], size[0], 3), np.uint8),
        "label": jax.ShapeDtypeStruct((size[1],), np.int32),
    }
    compiled = trainer.train_step.lower(state, batch).compile()  # type: ignore[attr-defined]
    memory = compiled.memory_analysis()
    mib = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20
    parameters, statistics = (
        sum(x.size for x in jax.tree.leaves(tree)) for tree in (state.params, state.batch_stats)
    )
    return (
        f"{parameters:,} trainable parameters, {statistics:,} BatchNorm statistics\n"
        f"{trainer.epoch_ends[-1]:,} steps of {size[1]} images at {size[0]} x {size[0]} pixels\n"
        f"about {mib:,.0f} MiB per device for one training step"
    )


def check_roles(data: Dataset) -> None:
    """UserError unless there is something to train on and something to choose by."""
    for role in ("train", "validation"):
        if role not in data.roles:
            raise UserError(f"the data has no {role} part (found: {', '.join(data.roles)})")


def best_line(checkpoints: Checkpoints) -> str:
    """The best checkpoint in words."""
    best = checkpoints.best
    if best is None:
        return "no evaluated checkpoint"
    scores: Mapping[str, float] = checkpoints.metrics(best)
    return f"best validation accuracy {scores['accuracy']:.2%} at step {best}"


def config_name() -> str:
    """`b2` of `--config=configs/b2.py`."""
    return pathlib.Path(flags.FLAGS["config"].config_filename).stem


def command() -> str:
    """The command that starts, or continues, this run."""
    return shlex.join(["python", "-m", "fer_jax.main", *sys.argv[1:]])


def say(text: str) -> None:
    """Print from process 0 alone."""
    if jax.process_index() == 0:
        print(text, flush=True)


if __name__ == "__main__":
    cli.run(main)
