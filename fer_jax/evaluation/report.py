"""Writes the report of one evaluation: report.json, report.md, predictions.npz and pictures."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.data.hashes import FREQUENCIES, small, spectra
from fer_jax.data.records import Records, copy_groups
from fer_jax.errors import writing
from fer_jax.evaluation import groups, stress
from fer_jax.evaluation.calibration import (
    Scaled,
    at_temperature,
    calibration_error,
    cross_fitted,
    mean_loss,
    reliability,
)
from fer_jax.evaluation.inference import Evaluator, ensemble
from fer_jax.evaluation.metrics import BOOTSTRAP_SAMPLES, Copied, summary, without_copies
from fer_jax.evaluation.predictions import PREDICTIONS_FILE, REPORT_FILE, VIEWS, Predictions
from fer_jax.labels import LABELS
from fer_jax.outputs import unfinished
from fer_jax.training.mesh import is_first
from fer_jax.training.state import Variables

MISTAKES_SHOWN, CONFUSIONS_SHOWN = 24, 5
ALIKE = 0.9  # correlation of low frequencies from which on two mistakes may be one photograph
MANY_COPIES = 0.5  # share of the images from which on a warning comes first

Answer = Callable[[Records], Predictions]
Measure = Callable[[Predictions, Answer, int], dict[str, Any]]
"""The split's answers, how others are got, bootstrap samples -> a further part of the report."""


def evaluate(
    members: Sequence[tuple[Evaluator, Variables]],
    records: Records,
    split: str,
    output: Path,
    origin: Mapping[str, Any],
    tta: str = "none",
    temperature: float = 1.0,
    copied: Sequence[Copied] = (),
    calibration: float = 1.0,
    further: Mapping[str, Measure] | None = None,
) -> dict[str, Any]:
    """Answer every image of `records` and write the report; what report.json holds.

    The answers are means over `members` and over the views of `tta`, scaled by `temperature`.
    `origin` says what made the figures: checkpoint, checkpoint_step, selected_on, members, command,
    data_path; `copied` which images were in training: exact copies, then near ones with them;
    `further` measures, at the temperature `calibration`, what report.json has by that name. {} in
    processes but the first.
    """
    progress, samples = sys.stderr.isatty(), members[0][0].config.bootstrap_samples
    smoothing = smoothing_of(origin["members"])

    def answer(images: Records) -> Predictions:
        return ensemble([one.predict(var, images, progress, tta) for one, var in members])

    def calibrated(given: Predictions) -> Predictions:
        return at_temperature(given, calibration, smoothing)

    answers = answer(records)
    own, others = calibrated(answers), lambda images: calibrated(answer(images))
    found = {name: measure(own, others, samples) for name, measure in (further or {}).items()}
    if not is_first():
        return {}
    context = {
        **origin,
        "split": split,
        "data_fingerprint": records.fingerprint,
        "label_names": list(LABELS),
        "tta": tta,
        "temperature": temperature,
        "calibration": calibration,
        **found,
    }
    return write_report(
        *(output, at_temperature(answers, temperature, smoothing), records.image, context),
        bootstrap_samples=samples,
        copies=copy_groups(records.digests),
        copied=copied,
    )


def headline(report: Mapping[str, Any]) -> str:
    """The report's warnings and first figure, with its interval and what is to be known of it."""
    low, high = report["accuracy_95_interval"]
    figures = f"{report['accuracy']:.2%} accuracy on {report['split']}{_in_brackets(report)}"
    lines = [f"WARNING: {text}" for text in report["warnings"]]
    lines += [f"{figures} ({report['n']:,} images, 95 %: {low:.2%} to {high:.2%})", report["note"]]
    lines += [
        f"{clean['accuracy']:.2%} on {clean['n']:,} images, without {clean['copies']:,} "
        f"{clean['against']}"
        for clean in _cleans(report)
        if clean["n"]
    ]
    return "\n".join(lines)


def write_report(
    folder: Path,
    predictions: Predictions,
    images_of: Callable[[int], np.ndarray],
    context: Mapping[str, Any],
    *,
    bootstrap_samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
    copies: np.ndarray | None = None,
    copied: Sequence[Copied] = (),
) -> dict[str, Any]:
    """Writes all files of the report into `folder` and returns what report.json holds.

    `images_of(i)` is image i of `predictions`, uint8 [H, W, C]; `context` is what `evaluate` makes
    of its arguments: `members` has for each model {checkpoint, checkpoint_step, selected_on,
    label_smoothing}, and `temperature` already scales `predictions`, so that the report's own comes
    on top of it; `copies` int [N] is equal for images with the same pixels, None if there are none;
    `copied` tells those that were in training, by pixels, then by look; empty if nobody knows.
    report.json comes last: where it exists, the report is whole. UserError where nothing can be
    measured or written.
    """
    # All that can fail for other reasons than the folder comes first.
    groups = np.arange(len(predictions)) if copies is None else copies
    smoothing = smoothing_of(context["members"]) if context["temperature"] == 1 else 0.0
    scaled = cross_fitted(predictions.probabilities, predictions.labels, groups, seed, smoothing)
    report = make_report(predictions, context, scaled, copied, bootstrap_samples, seed)
    worst = most_confident_mistakes(predictions, images_of)
    pictures = [images_of(int(i)) for i in worst]

    # Whole beside its place, then moved into it: no report.json stands beside another's files.
    hint = "choose an output folder that can be written"
    refusal = writing(f"cannot write the report to {folder}", hint)
    with refusal, unfinished(folder / REPORT_FILE) as new:
        _draw(new, predictions, report, worst, pictures)
        predictions.save(new / PREDICTIONS_FILE)
        (new / "report.md").write_text(_markdown(report), encoding="utf-8")
        text = json.dumps(report, indent=2, allow_nan=False) + "\n"
        (new / REPORT_FILE).write_text(text, encoding="utf-8")
        (folder / REPORT_FILE).unlink(missing_ok=True)
        for file in sorted(new.iterdir(), key=lambda path: path.name == REPORT_FILE):
            os.replace(file, folder / file.name)
    return report


def make_report(
    predictions: Predictions,
    context: Mapping[str, Any],
    scaled: Scaled | None,
    copied: Sequence[Copied] = (),
    bootstrap_samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """What report.json holds: `context`, the summary, reliability and its mending, and a note."""
    names, split, chosen = (context[key] for key in ("label_names", "split", "selected_on"))
    cleans = [without_copies(predictions, one, bootstrap_samples, seed) for one in copied]
    figures = summary(
        predictions, label_names=names, bootstrap_samples=bootstrap_samples, seed=seed
    )
    figures["warnings"] = (_seen(cleans) if cleans else []) + figures["warnings"]
    answers = describe_answers(len(context["members"]), context["tta"], context["temperature"])
    return {
        **context,
        "answers": answers,
        "note": selection_note(split, chosen),
        "split_chose_checkpoint": None if chosen is None else split == chosen,
        **figures,
        "clean": cleans[0] if cleans else None,
        "clean_of_near": cleans[1] if cleans[1:] else None,
        "reliability": reliability(predictions.probabilities, predictions.labels),
        "temperature_scaling": scaled and _scaling(predictions, scaled, seed),
    }


def _seen(cleans: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning where most images were in training."""
    others, copies, what = (cleans[-1][name] for name in ("n", "copies", "against"))
    if copies < MANY_COPIES * (copies + others):
        return []
    seen = f"{copies:,} of {copies + others:,}" if others else f"ALL {copies:,}"
    return [f"{seen} images are {what}: accuracy says little of other faces"]


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


def smoothing_of(members: Sequence[Mapping[str, Any]]) -> float:
    """Of the labels that all members were taught; 0 where they differ, as if it were not known."""
    found = {member["label_smoothing"] for member in members}
    return found.pop() if len(found) == 1 else 0.0


def describe_answers(members: int, tta: str, temperature: float) -> str:
    """How many models and views made each answer, and its temperature; "plain" for one of each."""
    parts = [f"ensemble of {members}"] if members > 1 else []
    parts += [f"test-time augmentation {tta}, {VIEWS[tta]} views"] if tta != "none" else []
    parts += [f"temperature {temperature}"] if temperature != 1 else []
    return ", ".join(parts) or "plain"


def _scaling(predictions: Predictions, scaled: Scaled, seed: int) -> dict[str, Any]:
    """The `temperature_scaling` of report.json; `temperature` is for such answers to others."""
    labels = predictions.labels
    states = {"before": predictions.probabilities, "after": scaled.probabilities}
    tables = {state: reliability(answers, labels) for state, answers in states.items()}
    return {
        "method": "two halves, each scaled by the temperature fitted on the other",
        "images": np.bincount(scaled.fold, minlength=2).tolist(),
        "seed": seed,
        "temperatures": list(scaled.temperatures),
        "temperature": scaled.temperature,
        "label_smoothing": scaled.smoothing,
        "expected_calibration_error": {s: calibration_error(table) for s, table in tables.items()},
        "loss": {state: mean_loss(answers, labels) for state, answers in states.items()},
        "reliability": tables["after"],
    }


def most_confident_mistakes(
    predictions: Predictions, images_of: Callable[[int], np.ndarray], count: int = MISTAKES_SHOWN
) -> np.ndarray:
    """Positions, int [<= count], of wrong answers to different photographs, the surest first."""
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    chosen, looks = list[int](), np.zeros((0, FREQUENCIES**2 - 1))
    for i in wrong[np.argsort(-predictions.confidence[wrong], kind="stable")].tolist():
        look = spectra(small(images_of(i))[None])
        if (looks @ look.T).max(initial=0) < ALIKE:
            chosen, looks = [*chosen, i], np.concatenate([looks, look])
        if len(chosen) == count:
            break
    return np.array(chosen, np.int64)


def _draw(
    folder: Path,
    predictions: Predictions,
    report: Mapping[str, Any],
    worst: np.ndarray,
    pictures: Sequence[np.ndarray],
) -> None:
    from fer_jax.evaluation import plots  # Matplotlib takes a second to import

    names, scaling = report["label_names"], report["temperature_scaling"]
    plots.confusion_matrix(report["confusion_matrix"], names, folder / "confusion_matrix.png")
    after = scaling and scaling["reliability"]
    plots.reliability_diagram(report["reliability"], folder / "reliability.png", after)
    columns = (predictions.labels, predictions.predicted, predictions.confidence)
    titles = [
        f"{names[true]} → {names[answer]}\n{sure:.1%} sure"
        for true, answer, sure in zip(*(column[worst] for column in columns), strict=True)
    ]
    heading = "Most confident mistakes (true → predicted)" if titles else "No mistakes"
    plots.contact_sheet(pictures, titles, folder / "mistakes.png", columns=6, heading=heading)
    if found := report.get("stress"):
        units = {kind: unit for kind, (unit, _) in stress.CORRUPTIONS.items()}
        plots.stress_curves(found["plain"], found["corruptions"], units, folder / "stress.png")


# ---- report.md -----------------------------------------------------------------------------------


def _markdown(report: Mapping[str, Any]) -> str:
    warnings = "".join(f"> **Warning:** {text}.\n\n" for text in report["warnings"])
    low, high = report["accuracy_95_interval"]
    return f"""\
# {report["accuracy"]:.2%} accuracy on `{report["split"]}`{_in_brackets(report)}

{warnings}> {report["note"]}

| figure | value |
| --- | --- |
| images | {report["n"]:,} |
| accuracy | {report["accuracy"]:.2%} |
| 95 % bootstrap interval | {low:.2%} to {high:.2%} |
| macro-F1 | {report["macro_f1"]:.4f} |
| balanced accuracy | {report["balanced_accuracy"]:.2%} |
| cross-entropy (nats) | {report["loss"]:.4f} |
| expected calibration error | {report["expected_calibration_error"]:.2%} |

{_copies(_cleans(report))}

## Classes

{_classes(report)}

![Confusion matrix](confusion_matrix.png)

{_confusions(report)}

## Calibration

{_calibration(report)}

![Reliability diagram](reliability.png)

## Most confident mistakes

![Most confident mistakes](mistakes.png)

{stress.markdown(report)}{groups.markdown(report)}## Where this comes from

{_origin(report)}
"""


def _in_brackets(report: Mapping[str, Any]) -> str:
    """` (ensemble of 5)` or the like to follow a figure; empty for a plain one."""
    return "" if report["answers"] == "plain" else f" ({report['answers']})"


def _cleans(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [report[name] for name in ("clean", "clean_of_near") if report[name]]


def _copies(cleans: Sequence[Mapping[str, Any]]) -> str:
    if not cleans:
        return (
            "How many of these images were also in training is not known: give "
            "`--clean_against=PATH` of the training data, of its audit, or of a list of keys."
        )
    text = "| images | number | accuracy | 95 % bootstrap interval |\n| --- | ---: | ---: | ---: |"
    for clean in cleans:
        interval = "{:.2%} to {:.2%}".format(*clean["accuracy_interval"]) if clean["n"] else ""
        text += f"""
| {clean["against"]} | {clean["copies"]:,} | {_share(clean["copies_accuracy"])} |  |
| all others | {clean["n"]:,} | {_share(clean["accuracy"])} | {interval} |"""
    return text


def _classes(report: Mapping[str, Any]) -> str:
    predicted = np.sum(report["confusion_matrix"], axis=0)
    rows = [
        f"| {name} | {_share(row['precision'])} | {_share(row['recall'])} | {_share(row['f1'])} | "
        f"{row['support']:,} | {answers:,} |"
        for (name, row), answers in zip(report["per_class"].items(), predicted, strict=True)
    ]
    head = "| class | precision | recall | F1 | images | predicted |"
    absent = ", ".join(report["absent_classes"])
    left_out = (
        "\n\nWithout an image in this split, and left out of macro-F1 and balanced accuracy: "
    )
    note = f"{left_out}{absent}." if absent else ""
    return "\n".join([head, "| --- | ---: | ---: | ---: | ---: | ---: |", *rows]) + note


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _confusions(report: Mapping[str, Any]) -> str:
    matrix, names = np.array(report["confusion_matrix"]), report["label_names"]
    support = matrix.sum(axis=1)
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:CONFUSIONS_SHOWN]
    pairs = [divmod(int(flat), len(names)) for flat in order if matrix.flat[flat]]
    texts = [
        f"- {names[row]} taken for {names[column]}: {matrix[row, column]:,} "
        f"({matrix[row, column] / support[row]:.1%} of {names[row]})"
        for row, column in pairs
    ]
    return "\n".join(["Most frequent confusions:", "", *texts]) if texts else "No mistakes."


def _calibration(report: Mapping[str, Any]) -> str:
    scaling, applied = report["temperature_scaling"], report["temperature"]
    if scaling is None:
        return "Too few images to fit a temperature on some and to measure on others."
    first, second = scaling["temperatures"]
    total, already = applied * scaling["temperature"], f", the {applied} applied here included"
    smoothing = scaling["label_smoothing"]
    taken_off = f" after the training's label smoothing of {smoothing:g} is taken off"
    rows = [
        f"| {state} | {error:.2%} | {scaling['loss'][state]:.4f} |"
        for state, error in scaling["expected_calibration_error"].items()
    ]
    return "\n".join(
        [
            "Temperature scaling by two random halves: each is scaled by what was fitted on the "
            f"other{taken_off * (smoothing > 0)} (T = {first:.3f} and {second:.3f}). On other "
            f"images use `--temperature={total:.3f}`, fitted on all of these"
            f"{already * (applied != 1)}.",
            "",
            "| temperature scaling | expected calibration error | cross-entropy (nats) |",
            "| --- | ---: | ---: |",
            *rows,
        ]
    )


def _origin(report: Mapping[str, Any]) -> str:
    members = "".join(
        f"| checkpoint | `{one['checkpoint']}` |\n| step | {one['checkpoint_step']} |\n"
        for one in report["members"]
    )
    boot = report["bootstrap"]
    return f"""\
|  |  |
| --- | --- |
{members}| answers | {report["answers"]} |
| chosen on | {report["selected_on"] or "unknown"} |
| evaluated on | {report["split"]} |
| data | `{report["data_path"]}` |
| data fingerprint | `{report["data_fingerprint"]}` |
| bootstrap | {boot["samples"]:,} samples of the images, seed {boot["seed"]} |
| command | `{report["command"]}` |"""
