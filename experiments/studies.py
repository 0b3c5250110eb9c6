"""A study's runs and its table: jobs that are done once, figures of those that are finished."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.ablations import Study
from fer_jax.errors import FerError, UserError
from fer_jax.evaluation import comparison
from fer_jax.evaluation.predictions import PREDICTIONS_FILE, REPORT_FILE, Predictions
from fer_jax.training.logs import read_metrics

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
COMMAND_FILE, SAMPLES = "command.txt", 10_000


@dataclass(frozen=True)
class Job:
    """One run of one variant."""

    variant: str
    seed: str
    folder: Path
    command: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether its report is there, of this very command."""
        asked = self.folder / COMMAND_FILE
        same = asked.is_file() and asked.read_text() == shlex.join(self.command)
        return same and (self.report / REPORT_FILE).is_file()

    @property
    def report(self) -> Path:
        """The folder of its report."""
        return self.folder / "report"


def overrides(study: Study, settings: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE texts -> a dict; UserError where a file that the study needs is not given."""
    wrong = [text for text in settings if not text.partition("=")[1]]
    if wrong:
        raise UserError(f"--set={wrong[0]}: write --set=KEY=VALUE")
    given = dict(text.split("=", 1) for text in settings)
    missing = [key for key in study.needs if key not in given]
    if missing:
        raise UserError(f"this study needs a file that only you can name: --set={missing[0]}=FILE")
    return given


def jobs(
    study: Study, place: Path, given: Mapping[str, str], seeds: Sequence[str], only: Sequence[str]
) -> list[Job]:
    """All runs, seed by seed, so that an early stop leaves whole comparisons.

    UserError where `only` names no variant; without it, all are meant.
    """
    unknown = [name for name in only if name not in study.variants]
    if unknown:
        raise UserError(f"no variant {unknown[0]!r}: choose of {', '.join(study.variants)}")
    return [
        _job(study, name, seed, place, given) for seed in seeds for name in only or study.variants
    ]


def _job(study: Study, variant: str, seed: str, place: Path, given: Mapping[str, str]) -> Job:
    """The command of one run; the variant's own overrides come last."""
    folder = place / f"{variant.replace(' ', '_').replace(',', '')}-{seed}"
    settings = {**given, "seed": seed, **study.variants[variant]}
    command = (
        sys.executable,
        "-m",
        "fer_jax.main",
        f"--config={CONFIGS / study.config}",
        f"--workdir={folder}",
        *(f"--config.{key}={value}" for key, value in settings.items()),
    )
    return Job(variant, seed, folder, command)


def perform(job: Job) -> None:
    """Run it to its end, unless it is there; FerError, with its status, where it ends otherwise."""
    if job.finished:
        print(f"  finished: {job.report}", flush=True)
        return
    try:
        status = subprocess.run(job.command, check=False).returncode
    except KeyboardInterrupt:  # the run has had the same Ctrl-C, and saves
        status = 130
    if status:
        raise StudyStopped(job, status)
    (job.folder / COMMAND_FILE).write_text(shlex.join(job.command))


class StudyStopped(FerError):
    """A run did not come to its end."""

    def __init__(self, job: Job, status: int) -> None:
        self.status = abs(status)
        super().__init__(
            f"the run {job.folder} ended with {status}; the same command goes on with it"
        )


def summary(study: Study, finished: Sequence[Job]) -> dict[str, Any]:
    """Figures per variant, and the difference of each from the first, of the seeds it has."""
    if not finished:
        raise UserError("no run is finished yet: there is no table")
    names = [name for name in study.variants if any(job.variant == name for job in finished)]
    files = {str(job.report): Predictions.load(job.report / PREDICTIONS_FILE) for job in finished}
    correct = comparison.correct_answers(files)
    runs = {name: [job for job in finished if job.variant == name] for name in names}
    models = {name: np.stack([correct[str(job.report)] for job in runs[name]]) for name in names}
    result = comparison.compare(models, dict.fromkeys(names), SAMPLES, 0)
    result["pairs"] = [pair for pair in result["pairs"] if pair["first"] == names[0]]
    result["costs"] = [cost(name, study.variants[name], runs[name]) for name in names]
    return result


def cost(name: str, changes: Mapping[str, Any], runs: Sequence[Job]) -> dict[str, Any]:
    """Means over a variant's runs of what the table has beside accuracy."""
    reports = [json.loads((job.report / REPORT_FILE).read_text()) for job in runs]
    return {
        "name": name,
        "changes": dict(changes),
        "seeds": [job.seed for job in runs],
        "macro_f1": float(np.mean([report["macro_f1"] for report in reports])),
        "last_epoch_accuracy": float(np.mean([last_accuracy(job.folder) for job in runs])),
        "hours": float(np.mean([sum(hours(job.folder)) for job in runs])),
    }


def last_accuracy(folder: Path) -> float:
    """Validation accuracy after the last epoch, whichever epoch was chosen."""
    return [r["accuracy"] for r in read_metrics(folder) if r["kind"] == "validation"][-1]


def hours(folder: Path) -> Iterator[float]:
    """Of the logged steps' training, without validation, compiling and stops."""
    batch = json.loads((folder / "run.json").read_text())["config"]["train"]["batch_size"]
    before = 0
    for record in read_metrics(folder):
        if record["kind"] == "train" and record.get("images_per_second"):
            yield (record["step"] - before) * batch / record["images_per_second"] / 3600
            before = record["step"]


def table(result: Mapping[str, Any]) -> str:
    """Markdown: accuracies with intervals and differences, then macro-F1 and cost."""
    head = "| variant | seeds | macro-F1 | last epoch | hours of training |\n"
    rows = "".join(
        f"| {row['name']} | {len(row['seeds'])} | {row['macro_f1']:.2%} | "
        f"{row['last_epoch_accuracy']:.2%} | {row['hours']:.2f} |\n"
        for row in result["costs"]
    )
    return f"{comparison.markdown(result)}\n{head}|---|--:|--:|--:|--:|\n{rows}"
