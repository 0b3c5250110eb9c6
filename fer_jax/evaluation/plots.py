"""Pictures of data, training and predictions, as PNG; no global plotting state, safe in threads."""

import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.ndimage import uniform_filter1d

from fer_jax.evaluation.calibration import Bins, calibration_error
from fer_jax.labels import LABELS
from fer_jax.outputs import in_one_step

INK, MUTED, GRID = "#222222", "#6b6b6b", "#dddddd"
BLUE, ORANGE, GREEN, RED = "#2f6db3", "#e07b39", "#4a9a6f", "#c0392b"
PERCENT = PercentFormatter(xmax=1)
BELOW: Any = {"loc": "outside lower center", "frameon": False}  # a legend that covers nothing
MINIMISED = "train batches: what is minimised, with its weights, smoothing, mixing"
CURVES = {
    "loss": (MINIMISED, "validation: plain cross-entropy"),
    "accuracy": ("train batches, augmented", "validation"),
}
CELL, MARGIN, COLUMNS = 1.45, 0.05, 8  # of a contact sheet; inches
Path = str | os.PathLike[str]


def confusion_matrix(matrix: Sequence[Any], label_names: Sequence[str], path: Path) -> None:
    """Draws counts [K, K], rows true, columns predicted; colour is the share of the row."""
    counts = np.asarray(matrix)
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    size = 2.6 + 0.78 * len(label_names)
    figure, axes = _figure(size, size - 1.3)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        text = f"{counts[row, column]:,}\n{share:.0%}" if totals[row] else "–"
        color = "white" if share > 0.55 else INK
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color=color)
    names = [f"{name} ({total:,})" for name, total in zip(label_names, totals, strict=True)]
    axes.set_xticks(range(len(label_names)), label_names, rotation=35, ha="right")
    axes.set_yticks(range(len(label_names)), names)
    axes.set(xlabel="predicted", ylabel="true (images)")
    figure.colorbar(picture, shrink=0.75, format=PERCENT, label="share of the true class")
    accuracy = np.trace(counts) / max(counts.sum(), 1)
    axes.set_title(f"Confusion matrix: {accuracy:.2%} of {counts.sum():,} images right")
    _save(figure, path)


def reliability_diagram(table: Bins, path: Path, scaled: Bins | None = None) -> None:
    """Draws accuracy over confidence, the gap to the diagonal, and how often each bin occurs.

    `scaled`, the same after temperature scaling, stands to the right.
    """
    shown = {"Reliability": table}
    if scaled is not None:
        shown = {"As answered": table, "After temperature scaling": scaled}
    figure = Figure(figsize=(5.6 * len(shown), 6.6), layout="constrained")
    grid = figure.subplots(
        2, len(shown), sharex=True, sharey="row", height_ratios=(3.2, 1), squeeze=False
    )
    for (upper, lower), (title, bins) in zip(grid.T, shown.items(), strict=True):
        _reliability(upper, lower, bins, title)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), **BELOW, ncols=2 * len(shown))
    _save(figure, path)


def _reliability(upper: Axes, lower: Axes, table: Bins, title: str) -> None:
    names = ("from", "to", "count", "accuracy", "confidence")
    start, end, count, right, sure = (np.array([row[name] or 0 for row in table]) for name in names)
    width, middle = (end - start) * 0.94, (start + end) / 2
    upper.bar(middle, right, width, color=BLUE, label="accuracy")
    over, under = np.maximum(sure - right, 0), np.maximum(right - sure, 0)
    upper.bar(middle, over, width, right, color="#f0b8ae", label="confidence beyond accuracy")
    hatched: Any = {"facecolor": BLUE, "edgecolor": "white", "hatch": "////", "lw": 0}
    upper.bar(middle, under, width, sure, **hatched, label="accuracy beyond confidence")
    upper.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1, label="calibrated")
    upper.set(ylabel="accuracy in the bin", xlim=(0, 1), ylim=(0, 1))
    upper.set_title(f"{title}: expected calibration error {calibration_error(table):.2%}")
    lower.bar(middle, count / count.sum(), width, color=MUTED)
    lower.set(xlabel="confidence (largest probability)", ylabel="share of images")
    lower.xaxis.set_major_formatter(PERCENT)
    _tidy(upper, percent=True)
    _tidy(lower, percent=True)


def contact_sheet(
    images: Sequence[np.ndarray] | np.ndarray,
    titles: Sequence[str],
    path: Path,
    heading: str = "",
) -> None:
    """Draws uint8 images [N, H, W, C] (C 1 or 3) in rows of COLUMNS, each under its title."""
    rows = max(1, math.ceil(len(images) / COLUMNS))
    above = 0.07 + 0.15 * max((title.count("\n") + 1 for title in titles), default=1)
    top = 0.3 if heading else MARGIN

    # Inches, not the automatic layout, which takes seconds for a few dozen images.
    width, height = CELL * COLUMNS, top + rows * (CELL + above)
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    figure.subplots_adjust(
        left=MARGIN / width,
        right=1 - MARGIN / width,
        bottom=MARGIN / height,
        top=1 - (top + above) / height,
        wspace=2 * MARGIN / (CELL - 2 * MARGIN),
        hspace=(above + 2 * MARGIN) / (CELL - 2 * MARGIN),
    )
    for axes in grid:
        axes.set_axis_off()
    for axes, (image, title) in zip(grid, zip(images, titles, strict=True), strict=False):
        axes.imshow(np.broadcast_to(image, (*image.shape[:2], 3)), interpolation="nearest")
        axes.set_title(title, fontsize=8, color=INK, pad=3, parse_math=False)
    figure.suptitle(heading, y=1 - MARGIN / height, va="top", fontsize=11, color=INK)
    _save(figure, path)


def learning_curves(records: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Draws loss and accuracy over epochs from the records of metrics.jsonl."""
    rows = list(records)
    figure = Figure(figsize=(10.5, 4.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), CURVES, strict=True):
        train, validation = CURVES[name]
        epochs, values = _series(rows, "train", name)
        axes.plot(epochs, values, color=BLUE, alpha=0.25, linewidth=1)
        if len(values):  # a moving mean over about a fortieth of the curve
            smooth = uniform_filter1d(values, 2 * (len(values) // 80) + 1, mode="nearest")
            axes.plot(epochs, smooth, color=BLUE, linewidth=1.8, label=train)
        epochs, values = _series(rows, "validation", name)
        axes.plot(epochs, values, color=ORANGE, marker="o", markersize=5, label=validation)
        if len(values):
            best = int(np.argmin(values) if name == "loss" else np.argmax(values))
            text = f"{values[best]:.4f}" if name == "loss" else f"{values[best]:.2%}"
            label = f"best {text} (epoch {epochs[best]:.3g})"
            axes.plot(epochs[best], values[best], "o", label=label, ms=11, mfc="none", mec=RED)
        axes.set(title=name.capitalize(), xlabel="epoch", xlim=(0, None))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _tidy(axes, percent=name == "accuracy")
    _save(figure, path)


def _series(rows: Sequence[Mapping[str, Any]], kind: str, name: str) -> np.ndarray:
    """Epochs and values, float [2, N], of the records that have them."""
    chosen = [row for row in rows if row["kind"] == kind and row.get(name) is not None]
    return np.array([[row["epoch"] for row in chosen], [row[name] for row in chosen]], float)


def class_distribution(counts: Mapping[str, Sequence[int] | np.ndarray], path: Path) -> None:
    """Draws, per role (train, validation, ...), each class's share; counts int [K] as text."""
    figure, axes = _figure(max(8.0, 2 + 0.42 * len(counts) * len(LABELS)), 4.4)
    width = 0.84 / max(len(counts), 1)
    for position, (role, values) in enumerate(counts.items()):
        numbers = np.asarray(values)
        places = np.arange(len(LABELS)) + (position - (len(counts) - 1) / 2) * width
        bars = axes.bar(
            places,
            numbers / max(numbers.sum(), 1),
            width=width * 0.94,
            color=(BLUE, ORANGE, GREEN, RED)[position % 4],
            label=f"{role} ({numbers.sum():,} images)",
        )
        axes.bar_label(bars, [f"{n:,}" for n in numbers], fontsize=7, padding=2, color=INK)
    axes.set_xticks(range(len(LABELS)), LABELS)
    axes.set(ylabel="share of the split")
    axes.set_title("Share of each class in its split, and number of images")
    axes.margins(y=0.1)
    axes.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
    figure.legend(**BELOW, ncols=max(len(counts), 1))
    _tidy(axes, percent=True)
    _save(figure, path)


def stress_curves(
    plain: Mapping[str, Any],
    corruptions: Mapping[str, Sequence[Mapping[str, Any]]],
    units: Mapping[str, str],
    path: Path,
) -> None:
    """Accuracy and mean confidence over strength: where they part, confidence misleads.

    Figures of unchanged images, then rows of each corruption, as in `stress.measure`.
    """
    columns = 4
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    grid = figure.subplots(-(-len(corruptions) // columns), columns, sharey=True).flat
    for (kind, rows), axes in zip(corruptions.items(), grid, strict=False):
        shown = [plain, *rows]
        for name, color in (("accuracy", BLUE), ("confidence", ORANGE)):
            axes.plot([row[name] for row in shown], "o-", color=color, markersize=4, label=name)
        axes.set(title=kind, xlabel=units[kind], ylim=(0, 1))
        axes.set_xticks(range(len(shown)), ["none", *(f"{row['strength']:g}" for row in rows)])
        axes.yaxis.set_major_formatter(PERCENT)
        axes.grid(axis="y", color=GRID, linewidth=0.7)
    figure.legend(*axes.get_legend_handles_labels(), **BELOW, ncols=2)
    for empty in grid:
        empty.set_axis_off()
    _save(figure, path)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _tidy(axes: Axes, percent: bool) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    if percent:
        axes.yaxis.set_major_formatter(PERCENT)


def _save(figure: Figure, path: Path) -> None:
    told: Any = {"format": "png", "dpi": 130, "metadata": {"Software": None}}
    in_one_step(pathlib.Path(path), lambda new: figure.savefig(new, **told))
