"""A study's runs and its table: figures of those that are finished."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import jobs
from experiments.ablations import FILE, Study
from experiments.jobs import Job
from fer_jax.errors import UserError
from fer_jax.evaluation import comparison
from fer_jax.evaluation.predictions import PREDICTIONS_FILE, REPORT_FILE, Predictions
from fer_jax.training.logs import read_metrics

SAMPLES = 10_000


def overrides(study: Study, settings: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE texts -> a dict; UserError where a file that the study needs is not given."""
    given = jobs.overrides(settings)
    missing = [key for key in study.needs if key not in given]
    if missing:
        raise UserError(f"this study needs a file that only you can name: --set={missing[0]}=FILE")
    return given


def plan(
    study: Study, place: Path, given: Mapping[str, str], seeds: Sequence[str], only: Sequence[str]
) -> list[Job]:
    """All runs, seed by seed, so that an early stop leaves whole comparisons.

    UserError where `only` names no variant; without it, all are meant.
    """
    unknown = [name for name in only if name not in study.variants]
    if unknown:
        raise UserError(f"no variant {unknown[0]!r}: choose of {', '.join(study.variants)}")
    names = dict.fromkeys(only) or study.variants
    return [_job(study, name, seed, place, given) for seed in seeds for name in names]


def _job(study: Study, variant: str, seed: str, place: Path, given: Mapping[str, str]) -> Job:
    """One run; the variant's own overrides come last.

    Its folder in `place` is named by what it changes, so that studies share what they have alike.
    """
    changes = study.variants[variant]
    general = {key: value for key, value in given.items() if key not in study.needs}
    own = {key: given[key] if value == FILE else value for key, value in sorted(changes.items())}
    parts = [f"{key.rpartition('.')[2]}={value}" for key, value in sorted(changes.items())]
    name = "-".join([Path(study.config).stem, *parts, f"seed={seed}"])
    folder = place / re.sub(r"[^\w.=-]+", "_", name)
    return jobs.training(variant, seed, folder, study.config, {**general, **own})


def summary(study: Study, finished: Sequence[Job]) -> dict[str, Any]:
    """Figures per variant, and the difference of each from the first, of the seeds it has."""
    if not finished:
        raise UserError("no run is finished yet: there is no table")
    names = [name for name in study.variants if any(job.name == name for job in finished)]
    files = {str(job.report): Predictions.load(job.report / PREDICTIONS_FILE) for job in finished}
    correct = comparison.correct_answers(files)
    runs = {name: [job for job in finished if job.name == name] for name in names}
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
        "last_epoch_accuracy": float(np.mean([jobs.last_accuracy(job.folder) for job in runs])),
        "hours": float(np.mean([sum(hours(job.folder)) for job in runs])),
    }


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
