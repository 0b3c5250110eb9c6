"""Writes the report of one evaluation: report.json, report.md, predictions.npz and pictures."""

import json
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
    at_temperature,
    calibration_error,
    cross_fitted,
    mean_loss,
    reliability,
)
from fer_jax.evaluation.inference import Evaluator, ensemble
from fer_jax.evaluation.metrics import BOOTSTRAP_SAMPLES, SEED, Copied, summary, without_copies
from fer_jax.evaluation.predictions import PREDICTIONS_FILE, REPORT_FILE, VIEWS, Predictions
from fer_jax.evaluation.tables import cell, interval, share, table
from fer_jax.labels import LABELS
from fer_jax.outputs import filled
from fer_jax.training.mesh import is_first
from fer_jax.training.state import Variables

MISTAKES_SHOWN, CONFUSIONS_SHOWN = 24, 5
ALIKE = 0.9  # correlation of low frequencies from which on two mistakes may be one photograph
STRESS_FILE = "stress.png"
MANY_COPIES = 0.5  # share of the images from which on a warning comes first
CLASSES_HEAD = ("class", "precision", "recall", "F1", "images", "predicted")


def evaluate(
    members: Sequence[tuple[Evaluator, Variables]],
    records: Records,
    split: str,
    output: Path,
    origin: Mapping[str, Any],
    *,
    tta: str = "none",
    temperature: float = 1.0,
    copied: Sequence[Copied] = (),
    calibration: float = 1.0,
    stressed: bool = False,
    columns: groups.Columns | None = None,
) -> dict[str, Any]:
    """Answer every image of `records` and write the report; what report.json holds.

    Answers are means over `members` and the views of `tta`, scaled by `temperature`. `origin` says
    what made them: checkpoint, checkpoint_step, selected_on, members, command, data_path; `copied`
    which images were in training: exact copies, then near ones too. Worse pictures (`stressed`) and
    groups (by `columns`) are at the temperature `calibration`. {} in processes but the first.
    """
    progress, samples = sys.stderr.isatty(), members[0][0].config.bootstrap_samples
    smoothing = smoothing_of(origin["members"])

    def answer(images: Records) -> Predictions:
        return ensemble([one.predict(held, images, progress, tta) for one, held in members])

    def calibrated(images: Records) -> Predictions:
        return at_temperature(answer(images), calibration, smoothing)

    answers, found = answer(records), {}
    own = at_temperature(answers, calibration, smoothing)
    if stressed:
        found["stress"] = stress.measure(records, own, calibrated, samples)
    if columns:
        found["groups"] = groups.measure(columns, own, samples)
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
    scaled, same = at_temperature(answers, temperature, smoothing), copy_groups(records.digests)
    return write_report(output, scaled, records.image, context, same, copied, samples)


def headline(report: Mapping[str, Any]) -> str:
    """The report's warnings and first figure, with its interval and what is to be known of it."""
    figures = f"{report['accuracy']:.2%} accuracy on {report['split']}{_in_brackets(report)}"
    edges = interval(report["accuracy_95_interval"])
    lines = [f"WARNING: {text}" for text in report["warnings"]]
    lines += [f"{figures} ({report['n']:,} images, 95 %: {edges})", report["note"]]
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
    copies: np.ndarray | None = None,
    copied: Sequence[Copied] = (),
    samples: int = BOOTSTRAP_SAMPLES,
) -> dict[str, Any]:
    """Writes all files of the report into `folder` and returns what report.json holds.

    `images_of(i)` is image i of `predictions`, uint8 [H, W, C]. `context` is what `evaluate` makes
    of its arguments; its `temperature` already scales `predictions`, so that the report's own comes
    on top of it. `copies` int [N] is equal for images with the same pixels, None if there are none;
    `copied` is empty if nobody knows. report.json comes last: where it exists, the report is whole.
    UserError where nothing can be measured or written.
    """
    # All that can fail for other reasons than the folder comes first.
    split, chosen = context["split"], context["selected_on"]
    figures = summary(predictions, samples)
    cleans = [without_copies(predictions, one, samples) for one in copied]
    answers = describe_answers(len(context["members"]), context["tta"], context["temperature"])
    report = {
        **context,
        "answers": answers,
        "note": selection_note(split, chosen),
        "split_chose_checkpoint": None if chosen is None else split == chosen,
        **figures,
        "warnings": _seen(cleans) + figures["warnings"],
        "clean": cleans[0] if cleans else None,
        "clean_of_near": cleans[1] if cleans[1:] else None,
        "reliability": reliability(predictions.probabilities, predictions.labels),
        "temperature_scaling": _scaling(predictions, context, copies),
    }
    worst = most_confident_mistakes(predictions, images_of)
    pictures = [images_of(i) for i in worst.tolist()]

    hint = "choose an output folder that can be written"
    refusal = writing(f"cannot write the report to {folder}", hint)
    with refusal, filled(folder, REPORT_FILE, [STRESS_FILE]) as new:
        _draw(new, predictions, report, worst, pictures)
        predictions.save(new / PREDICTIONS_FILE)
        (new / "report.md").write_text(_markdown(report), "utf-8")
        (new / REPORT_FILE).write_text(
            json.dumps(report, indent=2, allow_nan=False) + "\n", "utf-8"
        )
    return report


def _seen(cleans: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning where most images were in training."""
    if not cleans:
        return []
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


def _scaling(
    predictions: Predictions, context: Mapping[str, Any], copies: np.ndarray | None
) -> dict[str, Any] | None:
    """The `temperature_scaling` of report.json; `temperature` is for such answers to others."""
    labels, plain = predictions.labels, predictions.probabilities
    alike = np.arange(len(labels)) if copies is None else copies
    smoothing = smoothing_of(context["members"]) if context["temperature"] == 1 else 0.0
    scaled = cross_fitted(plain, labels, alike, SEED, smoothing)
    if scaled is None:
        return None
    states = {"before": plain, "after": scaled[0]}
    tables = {state: reliability(answers, labels) for state, answers in states.items()}
    return {
        **scaled[1],
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
    plots.contact_sheet(pictures, titles, folder / "mistakes.png", heading)
    if found := report.get("stress"):
        units = {kind: unit for kind, (unit, _) in stress.CORRUPTIONS.items()}
        plots.stress_curves(found["plain"], found["corruptions"], units, folder / STRESS_FILE)


# ---- report.md -----------------------------------------------------------------------------------


def _markdown(report: Mapping[str, Any]) -> str:
    warnings = "".join(f"> **Warning:** {text}.\n\n" for text in report["warnings"])
    return f"""\
# {report["accuracy"]:.2%} accuracy on `{report["split"]}`{_in_brackets(report)}

{warnings}> {report["note"]}

| figure | value |
| --- | --- |
| images | {report["n"]:,} |
| accuracy | {report["accuracy"]:.2%} |
| 95 % bootstrap interval | {interval(report["accuracy_95_interval"])} |
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
    rows = []
    for clean in cleans:
        edges = interval(clean["accuracy_interval"])
        rows += [(clean["against"], f"{clean['copies']:,}", share(clean["copies_accuracy"]), "")]
        rows += [("all others", f"{clean['n']:,}", share(clean["accuracy"]), edges)]
    return table(("images", "number", "accuracy", "95 % bootstrap interval"), rows)


def _classes(report: Mapping[str, Any]) -> str:
    answers, absent = np.sum(report["confusion_matrix"], axis=0), report["absent_classes"]
    rows = [
        (name, *map(share, (row["precision"], row["recall"], row["f1"])), f"{row['support']:,}",
         f"{count:,}")
        for (name, row), count in zip(report["per_class"].items(), answers, strict=True)
    ]  # fmt: skip
    note = (
        "\n\nWithout an image in this split, and left out of macro-F1 and balanced accuracy: "
        f"{', '.join(absent)}."
    )
    return table(CLASSES_HEAD, rows) + note * bool(absent)


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
    total, smoothing = applied * scaling["temperature"], scaling["label_smoothing"]
    taken_off = f" after the training's label smoothing of {smoothing:g} is taken off"
    already = f", the {applied} applied here included"
    rows = [
        (state, share(error), f"{scaling['loss'][state]:.4f}")
        for state, error in scaling["expected_calibration_error"].items()
    ]
    head = ("temperature scaling", "expected calibration error", "cross-entropy (nats)")
    return f"""\
Temperature scaling by two random halves: each is scaled by what was fitted on the \
other{taken_off * (smoothing > 0)} (T = {first:.3f} and {second:.3f}). On other images use \
`--temperature={total:.3f}`, fitted on all of these{already * (applied != 1)}.

{table(head, rows)}"""


def _origin(report: Mapping[str, Any]) -> str:
    boot, rows = report["bootstrap"], [("", ""), ("---", "---")]
    for one in report["members"]:
        rows += [("checkpoint", f"`{one['checkpoint']}`")]
        rows += [("step", f"{one['checkpoint_step']}")] * (one["checkpoint_step"] is not None)
    rows += [
        ("answers", report["answers"]),
        ("chosen on", report["selected_on"] or "unknown"),
        ("evaluated on", report["split"]),
        ("data", f"`{report['data_path']}`"),
        ("data fingerprint", f"`{report['data_fingerprint']}`"),
        ("bootstrap", f"{boot['samples']:,} samples of the images, seed {boot['seed']}"),
        ("command", f"`{report['command']}`"),
    ]
    return "\n".join(f"| {name} | {cell(text)} |" for name, text in rows)
