"""Writes the report of one evaluation: report.json, report.md, predictions.npz and pictures."""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.data.records import Records, copy_groups
from fer_jax.errors import UserError
from fer_jax.evaluation.calibration import (
    Reliability,
    Scaled,
    at_temperature,
    cross_fitted,
    fit_temperature,
    mean_loss,
    reliability,
)
from fer_jax.evaluation.clean import Copied
from fer_jax.evaluation.clean import figures as clean_figures
from fer_jax.evaluation.inference import Evaluator, ensemble
from fer_jax.evaluation.metrics import BOOTSTRAP_SAMPLES, summary
from fer_jax.evaluation.predictions import PREDICTIONS_FILE, REPORT_FILE, Predictions
from fer_jax.evaluation.tta import VIEWS
from fer_jax.labels import LABELS
from fer_jax.training.mesh import is_first
from fer_jax.training.state import Variables

MISTAKES_SHOWN = 24
CONTEXT_KEYS = (
    "checkpoint",
    "checkpoint_step",
    "selected_on",
    "split",
    "data_path",
    "data_fingerprint",
    "label_names",
    "command",
    "tta",
    "temperature",
    "members",
)


def evaluate(
    members: Sequence[tuple[Evaluator, Variables]],
    records: Records,
    split: str,
    output: Path,
    origin: Mapping[str, Any],
    tta: str = "none",
    temperature: float = 1.0,
    copied: Copied | None = None,
) -> dict[str, Any]:
    """Answer every image of `records` and write the report; what report.json holds.

    The answers are means over `members` and over the views of `tta`, scaled by `temperature`.
    `origin` says what made the figures: checkpoint, checkpoint_step, selected_on, members,
    command, data_path; `copied` which images were in training. {} in other processes than 0.
    """
    progress = sys.stderr.isatty()
    answers = ensemble([one.predict(var, records, progress, tta) for one, var in members])
    if not is_first():
        return {}
    context = {
        **origin,
        "tta": tta,
        "temperature": temperature,
        "split": split,
        "data_fingerprint": records.fingerprint,
        "label_names": list(LABELS),
    }
    return write_report(
        output,
        at_temperature(answers, temperature),
        records.image,
        context,
        bootstrap_samples=members[0][0].config.bootstrap_samples,
        copies=copy_groups(records.digests),
        copied=copied,
    )


def headline(report: Mapping[str, Any]) -> str:
    """The report's first figure, with its interval and what is to be known of it."""
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


def write_report(
    output_dir: str | os.PathLike[str],
    predictions: Predictions,
    images_of: Callable[[int], np.ndarray],
    context: Mapping[str, Any],
    *,
    bootstrap_samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
    copies: np.ndarray | None = None,
    copied: Copied | None = None,
) -> dict[str, Any]:
    """Writes all files of the report into `output_dir` and returns what report.json holds.

    `images_of(i)` is image i of `predictions`, uint8 [H, W, C]; `context` has exactly CONTEXT_KEYS,
    of them `members` a list of {checkpoint, checkpoint_step, selected_on}, one for each model, and
    `temperature` what already scales `predictions`, so that the report's own comes on top of it;
    `copies` int [N] is equal for images with the same pixels, None if there are none; `copied`
    tells those that were in training, None if nobody knows.
    report.json comes last: where it exists, the report is whole. UserError where nothing can be
    measured or written.
    """
    scaled = cross_fitted(
        predictions.probabilities,
        predictions.labels,
        np.arange(len(predictions)) if copies is None else copies,
        seed,
    )
    report = make_report(
        predictions, context, scaled, copied, bootstrap_samples=bootstrap_samples, seed=seed
    )
    worst = most_confident_mistakes(predictions)
    pictures = [images_of(int(i)) for i in worst]
    folder = Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as name:
            unfinished = Path(name)
            _write_files(unfinished, predictions, report, scaled)
            _write_mistakes(unfinished, predictions, worst, pictures, report["label_names"])
            _publish(unfinished, folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot write the report to {folder} ({reason}): choose an output folder that can be "
            "written"
        ) from error
    return report


def make_report(
    predictions: Predictions,
    context: Mapping[str, Any],
    scaled: Scaled | None,
    copied: Copied | None,
    *,
    bootstrap_samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """What report.json holds: `context`, the summary, reliability and its mending, and a note."""
    if set(context) != set(CONTEXT_KEYS):
        raise ValueError(f"context has {sorted(context)}, not {sorted(CONTEXT_KEYS)}")
    names = list(context["label_names"])
    figures = summary(
        predictions, label_names=names, bootstrap_samples=bootstrap_samples, seed=seed
    )
    return {
        **{key: context[key] for key in CONTEXT_KEYS},
        "label_names": names,
        "answers": describe_answers(
            len(context["members"]), context["tta"], context["temperature"]
        ),
        "note": selection_note(context["split"], context["selected_on"]),
        "split_chose_checkpoint": split_chose(context["split"], context["selected_on"]),
        **figures,
        "clean": clean_figures(predictions, copied, bootstrap_samples, seed) if copied else None,
        "reliability": _table(predictions).rows(),
        "temperature_scaling": None if scaled is None else _scaling(predictions, scaled, seed),
    }


def split_chose(split: str, selected_on: str | None) -> bool | None:
    """Whether the scored split chose the checkpoint, and so flatters it; None if nobody knows."""
    return None if selected_on is None else split == selected_on


def selection_note(split: str, selected_on: str | None) -> str:
    """What `selected_on`, the split that chose the checkpoint, means for a figure on `split`."""
    if selected_on is None:
        return "It is not known which split chose this checkpoint; the figure may be optimistic."
    if split == selected_on:
        return (
            f"The split {split!r} chose this checkpoint, so its figures are optimistic; only a "
            "split that chose nothing gives an honest estimate."
        )
    return f"The checkpoint was chosen on {selected_on!r}; {split!r} took no part in the choice."


def describe_answers(members: int, tta: str, temperature: float = 1.0) -> str:
    """How many models and views made each answer: what must not be mixed up; "plain" for one.

    And the temperature that scaled it, where that is not 1.
    """
    if tta not in VIEWS:
        raise ValueError(f"tta={tta!r} is not one of {', '.join(VIEWS)}")
    parts = [f"ensemble of {members}"] if members > 1 else []
    parts += [f"test-time augmentation {tta}, {VIEWS[tta]} views"] if tta != "none" else []
    parts += [f"temperature {temperature}"] if temperature != 1 else []
    return ", ".join(parts) or "plain"


def _scaling(predictions: Predictions, scaled: Scaled, seed: int) -> dict[str, Any]:
    """The `temperature_scaling` of report.json; `temperature` is for such answers to others."""
    raw, labels = predictions.probabilities, predictions.labels
    after = reliability(scaled.probabilities, labels)
    return {
        "method": "two halves, each scaled by the temperature fitted on the other",
        "images": np.bincount(scaled.fold, minlength=2).tolist(),
        "seed": seed,
        "temperatures": list(scaled.temperatures),
        "temperature": fit_temperature(raw, labels),
        "expected_calibration_error": {
            "before": _table(predictions).expected_calibration_error,
            "after": after.expected_calibration_error,
        },
        "loss": {
            "before": mean_loss(raw, labels),
            "after": mean_loss(scaled.probabilities, labels),
        },
        "reliability": after.rows(),
    }


def _write_files(
    folder: Path, predictions: Predictions, report: Mapping[str, Any], scaled: Scaled | None
) -> None:
    from fer_jax.evaluation import plots  # Matplotlib takes a second to import

    names = report["label_names"]
    predictions.save(folder / PREDICTIONS_FILE)
    matrix = np.array(report["confusion_matrix"])
    plots.confusion_matrix(matrix, names, folder / "confusion_matrix.png")
    after = None if scaled is None else reliability(scaled.probabilities, predictions.labels)
    plots.reliability_diagram(_table(predictions), folder / "reliability.png", after)
    (folder / "report.md").write_text(_markdown(report), encoding="utf-8")
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    (folder / REPORT_FILE).write_text(text, encoding="utf-8")


def _write_mistakes(
    folder: Path,
    predictions: Predictions,
    worst: np.ndarray,
    pictures: Sequence[np.ndarray],
    names: Sequence[str],
) -> None:
    from fer_jax.evaluation import plots

    plots.mistakes(
        pictures,
        [names[label] for label in predictions.labels[worst]],
        [names[label] for label in predictions.predicted[worst]],
        predictions.confidence[worst].tolist(),
        folder / "mistakes.png",
    )


def _publish(unfinished: Path, folder: Path) -> None:
    """Moves the files into place; no report.json stands beside files of another report."""
    (folder / REPORT_FILE).unlink(missing_ok=True)
    for path in sorted(unfinished.iterdir(), key=lambda path: (path.name == REPORT_FILE, path)):
        os.replace(path, folder / path.name)


def most_confident_mistakes(predictions: Predictions, count: int = MISTAKES_SHOWN) -> np.ndarray:
    """Positions, int [<= count], of the wrong answers, the most confident first."""
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    order = np.argsort(-predictions.confidence[wrong], kind="stable")
    return wrong[order][:count]


def _table(predictions: Predictions) -> Reliability:
    return reliability(predictions.probabilities, predictions.labels)


def _markdown(report: Mapping[str, Any]) -> str:
    parts = [
        f"# {report['accuracy']:.2%} accuracy on `{report['split']}`{in_brackets(report)}",
        *(f"> **Warning:** {text}." for text in report["warnings"]),
        f"> {report['note']}",
        _figures(report),
        _clean(report),
        "## Classes",
        _classes(report),
        *_absent(report),
        "![Confusion matrix](confusion_matrix.png)",
        _confusions(report),
        "## Calibration",
        _calibration(report),
        "![Reliability diagram](reliability.png)",
        "## Most confident mistakes",
        "![Most confident mistakes](mistakes.png)",
        "## Where this comes from",
        _origin(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def in_brackets(report: Mapping[str, Any]) -> str:
    """` (ensemble of 5)` or the like to follow a figure; empty for a plain one."""
    return "" if report["answers"] == "plain" else f" ({report['answers']})"


def _figures(report: Mapping[str, Any]) -> str:
    low, high = report["accuracy_95_interval"]
    return _markdown_table(
        ("figure", "value"),
        [
            ("images", f"{report['n']:,}"),
            ("accuracy", f"{report['accuracy']:.2%}"),
            ("95 % bootstrap interval", f"{low:.2%} to {high:.2%}"),
            ("macro-F1", f"{report['macro_f1']:.4f}"),
            ("balanced accuracy", f"{report['balanced_accuracy']:.2%}"),
            ("cross-entropy (nats)", f"{report['loss']:.4f}"),
            ("expected calibration error", f"{report['expected_calibration_error']:.2%}"),
        ],
    )


def _classes(report: Mapping[str, Any]) -> str:
    predicted = np.sum(report["confusion_matrix"], axis=0)
    rows = []
    for (name, row), answers in zip(report["per_class"].items(), predicted, strict=True):
        figures = [_share(row[key]) for key in ("precision", "recall", "f1")]
        rows.append((name, *figures, f"{row['support']:,}", f"{answers:,}"))
    return _markdown_table(("class", "precision", "recall", "F1", "images", "predicted"), rows)


def _clean(report: Mapping[str, Any]) -> str:
    clean = report["clean"]
    if clean is None:
        return (
            "How many of these images were also in training is not known: give "
            "`--clean_against=PATH` of the training data, of its audit, or of a list of keys."
        )
    rows = [
        ("with a copy in training", f"{clean['copies']:,}", _share(clean["copies_accuracy"]), ""),
        (
            "without (clean)",
            f"{clean['n']:,}",
            _share(clean["accuracy"]),
            "{:.2%} to {:.2%}".format(*clean["accuracy_interval"]) if clean["n"] else "",
        ),
    ]
    head = ("images", "number", "accuracy", "95 % bootstrap interval")
    return f"{_markdown_table(head, rows)}\n\nCopies are {clean['against']}."


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _calibration(report: Mapping[str, Any]) -> str:
    scaling = report["temperature_scaling"]
    if scaling is None:
        return "Too few images to fit a temperature on some and to measure on others."
    first, second = scaling["temperatures"]
    applied = report["temperature"]
    total, already = applied * scaling["temperature"], f", the {applied} applied here included"
    rows = [
        (name, f"{error:.2%}", f"{scaling['loss'][name]:.4f}")
        for name, error in scaling["expected_calibration_error"].items()
    ]
    text = (
        f"Temperature scaling by two random halves: each is scaled by what was fitted on the "
        f"other (T = {first:.3f} and {second:.3f}). On other images use "
        f"`--temperature={total:.3f}`, fitted on all of these{already * (applied != 1)}."
    )
    head = ("temperature scaling", "expected calibration error", "cross-entropy (nats)")
    return f"{text}\n\n{_markdown_table(head, rows)}"


def _absent(report: Mapping[str, Any]) -> list[str]:
    names = ", ".join(report["absent_classes"])
    text = (
        f"Without an image in this split, and left out of macro-F1 and balanced accuracy: {names}."
    )
    return [text] if names else []


def _confusions(report: Mapping[str, Any], count: int = 5) -> str:
    matrix, names = np.array(report["confusion_matrix"]), report["label_names"]
    support = matrix.sum(axis=1)
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:count]
    pairs = [divmod(int(flat), len(names)) for flat in order if matrix.flat[flat]]
    texts = [
        f"- {names[row]} taken for {names[column]}: {matrix[row, column]:,} "
        f"({matrix[row, column] / support[row]:.1%} of {names[row]})"
        for row, column in pairs
    ]
    return "\n".join(["Most frequent confusions:", "", *texts]) if texts else "No mistakes."


def _origin(report: Mapping[str, Any]) -> str:
    chosen = report["selected_on"] or "unknown"
    boot = report["bootstrap"]
    rows = [
        *(
            row
            for member in report["members"]
            for row in (
                ("checkpoint", f"`{member['checkpoint']}`"),
                ("step", str(member["checkpoint_step"])),
            )
        ),
        ("answers", report["answers"]),
        ("chosen on", chosen),
        ("evaluated on", report["split"]),
        ("data", f"`{report['data_path']}`"),
        ("data fingerprint", f"`{report['data_fingerprint']}`"),
        ("bootstrap", f"{boot['samples']:,} samples of the images, seed {boot['seed']}"),
        ("command", f"`{report['command']}`"),
    ]
    return _markdown_table(("", ""), rows)


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1) if len(head) > 2 else ["---"] * 2, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
