"""One training run in its folder: claimed, continued, validated, and reported on at its end."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fer_jax import build, labels, workdir
from fer_jax.data.duplicates import copy_groups, short_hashes
from fer_jax.data.pipeline import Shard, train_batches
from fer_jax.data.sources import Dataset
from fer_jax.errors import UserError
from fer_jax.evaluation import metrics, plots
from fer_jax.evaluation.calibration import at_temperature
from fer_jax.evaluation.clean import Copied, exact_copies
from fer_jax.evaluation.inference import ensemble
from fer_jax.evaluation.predictions import REPORT_FILE
from fer_jax.evaluation.report import in_brackets, write_report
from fer_jax.training import loop, mesh, warm_start
from fer_jax.training.checkpoints import HIGHER_IS_BETTER, Checkpoints
from fer_jax.training.logs import RunLog, read_metrics
from fer_jax.training.state import Variables

SELECTED_ON = "validation"
SHEET_IMAGES = 64


@dataclasses.dataclass(frozen=True)
class Run:
    """A run about to start or to go on in `folder`; `command` is what continues it."""

    config: ConfigDict
    data: Dataset
    trainer: build.Trainer
    folder: pathlib.Path
    identity: Mapping[str, Any]
    command: str

    @property
    def last_step(self) -> int:
        """The step at which the run is finished."""
        return self.trainer.epoch_ends[-1]

    @property
    def about(self) -> dict[str, Any]:
        """What is written beside the run and beside each checkpoint, ready for JSON."""
        return {
            "identity": dict(self.identity),
            "config": self.config.to_dict(),
            "labels": list(labels.LABELS),
            "fingerprint": {role: part.fingerprint for role, part in self.data.roles.items()},
            "selected_on": SELECTED_ON,
            "evaluated": "averaged" if self.config.train.ema_decay > 0 else "raw",
        }

    def checkpoints(self, read_only: bool = False) -> Checkpoints:
        """The run's checkpoints, to be closed."""
        return Checkpoints(self.folder, self.config.checkpoint.select_by, read_only)


def execute(run: Run) -> int:
    """Train to the end or on from where the run stood, then report.

    0; or 128 + signal where it was asked to stop, with everything saved.
    """
    if _already_finished(run):
        return 0
    if is_first():
        workdir.claim(run.folder, run.about, short_hashes(run.data.split("train").digests))
    with run.checkpoints() as checkpoints:
        start = checkpoints.latest or 0
        if start == 0 and is_first():
            _describe_beginning(run)
        template = run.trainer.template()
        state = checkpoints.restore(start, template) if start else run.trainer.init()
        with loop.Stop() as stop, _open_log(run, start) as log:
            log.message(f"continuing after step {start}" if start else "compiling the first step")
            loop.train(
                run.trainer,
                state,
                run.trainer.batches(start),
                _validator(run, log),
                checkpoints,
                run.about,
                log,
                loop.Rhythm(run.config.log.every_steps, run.config.checkpoint.every_steps),
                stop,
            )
        if stop.signal is not None:
            say(f"stopped and saved; continue with: {run.command}")
            return 128 + stop.signal
        _report(run, checkpoints)
    return 0


def evaluate(
    members: Sequence[tuple[build.Evaluator, Variables]],
    data: Dataset,
    split: str,
    output: pathlib.Path,
    origin: Mapping[str, Any],
    tta: str = "none",
    copied: Copied | None = None,
    temperature: float = 1.0,
) -> dict[str, Any]:
    """Answer every image of `split` and write the report; what report.json holds.

    The answers are means over `members` and over the views of `tta`, scaled by `temperature`.
    `origin` says what made the figures: checkpoint, checkpoint_step, selected_on, members,
    command; `copied` which images were in training.
    """
    records, progress = data.split(split), sys.stderr.isatty()
    answers = ensemble([one.predict(var, records, progress, tta) for one, var in members])
    if not is_first():
        return {}
    answers = at_temperature(answers, temperature)
    config = members[0][0].config
    context = {
        **origin,
        "tta": tta,
        "temperature": temperature,
        "split": split,
        "data_path": config.data.path,
        "data_fingerprint": records.fingerprint,
        "label_names": list(labels.LABELS),
    }
    samples = config.evaluation.bootstrap_samples
    copies = copy_groups(records.digests)
    return write_report(
        output,
        answers,
        records.image,
        context,
        bootstrap_samples=samples,
        copies=copies,
        copied=copied,
    )


def weights_fingerprint(config: ConfigDict, folder: str) -> dict[str, str]:
    """{"weights": SHA-256 of the file `init.weights`}; {} where training starts from no file.

    A file that is gone counts as what the run in `folder` has noted of it.
    """
    path = config.init.weights
    if not path and not config.init.frozen_epochs:
        return {}
    file = pathlib.Path(path)
    found = warm_start.fingerprint(file) if file.is_file() else _noted_fingerprint(config, folder)
    mesh.check_same("init.weights", found)
    return {"weights": found}


def is_first() -> bool:
    """Whether this is process 0, the only one that writes and prints."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Print from process 0 alone."""
    if is_first():
        print(text, flush=True)


def results(report: Mapping[str, Any]) -> str:
    """The report's headline, with its interval and what is to be known of it."""
    low, high = report["accuracy_95_interval"]
    figures = f"{report['accuracy']:.2%} accuracy on {report['split']}{in_brackets(report)}"
    lines = [f"{figures} ({report['n']:,} images, 95 %: {low:.2%} to {high:.2%})", report["note"]]
    clean = report["clean"]
    if clean and clean["n"]:
        lines.append(
            f"{clean['accuracy']:.2%} on the {clean['n']:,} images without a copy in training "
            f"({clean['copies']:,} are {clean['against']})"
        )
    return "\n".join(lines)


def _noted_fingerprint(config: ConfigDict, folder: str) -> str:
    path, variant = config.init.weights, config.model.variant
    resumed = path and folder and (pathlib.Path(folder) / workdir.RUN_FILE).exists()
    identity = workdir.read(pathlib.Path(folder))["identity"] if resumed else {}
    if "fingerprint.weights" in identity:
        say(f"init: {path} is gone; the run in {folder} needs it no more once it has a checkpoint")
        return identity["fingerprint.weights"]
    output = f"weights/imagenet_{variant}.safetensors"
    raise UserError(
        f"init.weights={path!r} is no file: make one by python -m fer_jax.convert --source=keras "
        f"--variant={variant} --download --output={output}, then --config.init.weights={output}"
    )


def _already_finished(run: Run) -> bool:
    if not (run.folder / "report" / REPORT_FILE).exists():
        return False
    with run.checkpoints(read_only=True) as checkpoints:
        if (checkpoints.latest or 0) < run.last_step:
            return False
        best = checkpoints.best or run.last_step
        accuracy = checkpoints.metrics(best)["accuracy"]
    say(
        f"already finished at step {run.last_step}: best validation accuracy {accuracy:.2%} "
        f"at step {best}; see {run.folder}/report"
    )
    return True


def _open_log(run: Run, start: int) -> RunLog:
    size = run.config.train.batch_size
    return RunLog(
        run.folder,
        steps_total=run.last_step,
        steps_per_epoch=len(run.trainer.records) / size,
        batch_size=size,
        tensorboard=run.config.log.tensorboard,
        write=is_first(),
        start_step=start,
    )


def _validator(run: Run, log: RunLog) -> Callable[[Variables, int], loop.Metrics]:
    """variables, step -> the logged validation metrics that choose the checkpoint."""
    records = run.data.split(SELECTED_ON)

    def validate(variables: Variables, step: int) -> loop.Metrics:
        answers = run.trainer.evaluator.predict(variables, records, progress=False)
        summary = metrics.summary(answers, bootstrap_samples=1)
        scores = {name: float(summary[name]) for name in HIGHER_IS_BETTER}
        log.validation(step, scores)
        for warning in summary["warnings"]:
            log.message(f"warning: {warning}")
        return scores

    return validate


def _report(run: Run, checkpoints: Checkpoints) -> None:
    """Evaluate the best checkpoint, restored from disk, and say where everything lies."""
    best = checkpoints.best
    if best is None:
        raise UserError(f"{run.folder} has no evaluated checkpoint")
    state = checkpoints.restore(best, run.trainer.template())
    chosen = {
        "checkpoint": str(run.folder),
        "checkpoint_step": best,
        "selected_on": SELECTED_ON,
    }
    origin = {**chosen, "members": [chosen], "command": run.command}
    output, members = run.folder / "report", [(run.trainer.evaluator, state.evaluated)]
    seen = short_hashes(run.data.split("train").digests)
    copied = exact_copies(run.data.split(SELECTED_ON).digests, seen)
    report = evaluate(members, run.data, SELECTED_ON, output, origin, copied=copied)
    if is_first():
        plots.learning_curves(read_metrics(run.folder), run.folder / "learning_curves.png")
        say(f"best checkpoint: step {best} of {run.last_step}, restored: {results(report)}")
        say(f"report {output}/report.md, curves {run.folder}/learning_curves.png")


def _describe_beginning(run: Run) -> None:
    """What training starts from; pictures of the data, and the list of what was left out."""
    if run.trainer.beginning():
        say(run.trainer.beginning())
    counts = {role: part.counts() for role, part in run.data.roles.items()}
    plots.class_distribution(counts, run.folder / "class_distribution.png")
    sheet = train_batches(
        run.trainer.records,
        image_size=run.config.data.image_size,
        batch_size=SHEET_IMAGES,
        seed=run.config.seed,
        augmentation=build.augmentation(run.config),
        start_step=0,
        shard=Shard(0, 1),
        workers=0,
    )
    batch = next(sheet)
    titles = [labels.LABELS[label] for label in np.asarray(batch["label"])]
    plots.contact_sheet(batch["image"], titles, run.folder / "augmented.png")
    if run.data.unreadable:
        lines = (json.dumps({"name": n, "reason": why}) for n, why in run.data.unreadable)
        (run.folder / "quarantine.jsonl").write_text("\n".join(lines) + "\n")
