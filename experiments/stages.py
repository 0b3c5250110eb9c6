"""The protocol's stages and its table: single models, their ensemble, models distilled from it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import jobs
from experiments.jobs import Job
from fer_jax.evaluation import comparison
from fer_jax.evaluation.predictions import PREDICTIONS_FILE, REPORT_FILE, Predictions
from fer_jax.outputs import write_text

SAMPLES = 10_000
PLAIN, AUGMENTED = "none", "flip_crops"
Stages = Iterator[list[Job]]


@dataclass(frozen=True)
class Protocol:
    """What is trained on what: a file in configs/, overrides of its keys, seeds."""

    place: Path
    config: str
    data: str
    settings: Mapping[str, Any]
    seeds: Sequence[str]
    students: Sequence[str]

    def stages(self) -> Stages:
        """Lists of jobs, each for one row of the table, in an order in which inputs are there."""
        yield from self._models("single", self.seeds, {})
        members = [self.place / "single" / seed for seed in self.seeds]
        yield [self._answers("ensemble", "", "ensemble", members, PLAIN)]
        yield [self._answers("ensemble", "", f"ensemble-{AUGMENTED}", members, AUGMENTED)]
        teacher = self._answers("teacher", "", "teacher", members, PLAIN, "train")
        yield [teacher]
        taught = {"data.targets": teacher.report / PREDICTIONS_FILE}
        yield from self._models("distilled", self.students, taught)

    def _models(self, name: str, seeds: Sequence[str], taught: Mapping[str, Any]) -> Stages:
        """Training over seeds, which reports plain answers; then the augmented ones."""
        settings = {"data.path": self.data, **self.settings, **taught}
        places = {seed: self.place / name / seed for seed in seeds}
        yield [jobs.training(name, s, place, self.config, settings) for s, place in places.items()]
        yield [
            self._answers(name, seed, f"{name}/{seed}-{AUGMENTED}", [place], AUGMENTED)
            for seed, place in places.items()
        ]

    def _answers(
        self,
        name: str,
        seed: str,
        folder: str,
        models: Sequence[Path],
        tta: str,
        split: str = "validation",
    ) -> Job:
        flags = {"data": self.data, "split": split, "tta": tta}
        return jobs.evaluation(name, seed, self.place / folder, models, flags)


def figures(stage: Sequence[Job]) -> dict[str, Any]:
    """One row of finished jobs: a figure per seed, and where their reports lie."""
    reports = [json.loads((job.report / REPORT_FILE).read_text()) for job in stage]
    scaled = [report["temperature_scaling"] for report in reports if report["temperature_scaling"]]
    errors = [scaling["expected_calibration_error"] for scaling in scaled]
    return {
        "name": stage[0].name,
        "answers": reports[0]["answers"],
        "split": reports[0]["split"],
        "seeds": [job.seed for job in stage],
        "accuracy": [report["accuracy"] for report in reports],
        "last_epoch": [jobs.last_accuracy(job.folder) for job in stage if job.folder != job.report],
        "clean": [share for report in reports for share in _clean(report)],
        "macro_f1": [report["macro_f1"] for report in reports],
        "calibration_error": [error["before"] for error in errors],
        "after_scaling": [error["after"] for error in errors],
        "reports": [str(job.report) for job in stage],
    }


def _clean(report: Mapping[str, Any]) -> list[float]:
    """Accuracy without copies of training images, where any image is none."""
    clean = report["clean"]
    return [] if clean is None or clean["accuracy"] is None else [clean["accuracy"]]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of `figures`: means, and standard deviations over seeds."""
    text = (
        "| model | answers | split | seeds | accuracy | last epoch | without copies | macro-F1 | "
        "calibration error | after scaling |\n|---|---|---|--:|--:|--:|--:|--:|--:|--:|\n"
    )
    columns = (
        "accuracy", "last_epoch", "clean", "macro_f1", "calibration_error", "after_scaling"
    )  # fmt: skip
    for row in rows:
        cells = [row["name"], row["answers"], row["split"], str(len(row["seeds"]))]
        cells += [mean(row[column]) for column in columns]
        text += f"| {' | '.join(cells)} |\n"
    return text


def mean(shares: Sequence[float]) -> str:
    """`71.20% ± 0.31`: mean, standard deviation (R - 1) in percent; empty where there is none."""
    if not shares:
        return ""
    percent = 100 * np.array(shares)
    spread = f" ± {percent.std(ddof=1):.2f}" if len(shares) > 1 else ""
    return f"{percent.mean():.2f}%{spread}"


def comparisons(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Validation's rows with intervals, and the best run of each; pairs with the best single one.

    A best run is chosen and scored on the same images, as all that validation chooses.
    """
    groups, answers = {}, {}
    for row in rows:
        if row["split"] != "validation":
            continue
        name = f"{row['name']}, {row['answers']}"
        groups[name] = row["reports"]
        if len(row["reports"]) > 1:
            groups[f"best {name}"] = [row["reports"][int(np.argmax(row["accuracy"]))]]
        answers |= dict.fromkeys((name, f"best {name}"), row["answers"])
    paths = {path for group in groups.values() for path in group}
    files = {path: Predictions.load(Path(path) / PREDICTIONS_FILE) for path in sorted(paths)}
    correct = comparison.correct_answers(files)
    models = {name: np.stack([correct[path] for path in group]) for name, group in groups.items()}
    result = comparison.compare(models, answers, SAMPLES, 0)
    reference = next(name for name in models if name.startswith("best single"))
    result["pairs"] = [pair for pair in result["pairs"] if pair["first"] == reference]
    return result


def write(place: Path, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """`protocol.json` and `protocol.md` in `place`."""
    result = comparisons(rows)
    found = json.dumps({"rows": rows, "comparison": result}, indent=1)
    write_text(place / "protocol.json", f"{found}\n")
    text = f"# {title}\n\n{table(rows)}\n{comparison.markdown(result)}"
    write_text(place / "protocol.md", text)
