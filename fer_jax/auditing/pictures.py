"""The pictures of an audit: copies side by side with their labels, and how far apart pairs are."""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from fer_jax.auditing.findings import Findings
from fer_jax.auditing.near_duplicates import CANDIDATE, NEAR, Pairs
from fer_jax.auditing.pool import SIDE, Pool
from fer_jax.evaluation import plots
from fer_jax.labels import LABELS

SHOWN = 24
COLUMNS, DPI = 8, 110
FACE, GAP, WORDS, HEADING = 2 * SIDE, 16, 36, 30  # pixels
PICTURES = {
    "distances.png": "How far apart pairs of images are",
    "exact_copies.png": "Exact copies",
    "near_copies.png": "Near copies, from the nearest to the farthest",
    "mirrored_copies.png": "Mirrored copies, from the nearest to the farthest",
    "conflicts.png": "One photograph, two labels",
    "blank.png": "Blank images",
    "no_face.png": "No face, or none upright, to most of FER+'s voters",
}


def draw(findings: Findings, folder: Path) -> list[str]:
    """Writes those of PICTURES that there is something to show for into `folder`: their names."""
    pool, copies = findings.pool, findings.copies
    exact = [(members[0], members[-1]) for members in copies.exact]
    disputed = [_two_labels(pool, members) for members in findings.conflicts]
    _pairs(pool, _telling(pool, exact), folder / "exact_copies.png")
    _pairs(pool, _spread(copies.near), folder / "near_copies.png")
    _pairs(pool, _spread(copies.mirrored), folder / "mirrored_copies.png")
    _pairs(pool, _evenly(disputed), folder / "conflicts.png")
    _images(pool, np.flatnonzero(findings.blank), folder / "blank.png")
    if findings.judgement is not None:
        _images(pool, np.flatnonzero(findings.judgement.no_face), folder / "no_face.png")
    if len(copies.compared.distances):
        distances(findings, folder / "distances.png")
    return [name for name in PICTURES if (folder / name).exists()]


def distances(findings: Findings, path: Path) -> None:
    """Draws how many candidates lie how far apart, beside copies that were made on purpose."""
    figure = Figure(figsize=(8.6, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    edges = np.logspace(-4.5, -0.5, 61)
    copies = findings.copies
    for pairs, name, color in (
        (copies.compared, "pairs of this data", plots.BLUE),
        (copies.compared_mirrored, "the same, one mirrored", plots.ORANGE),
    ):
        upper.hist(_within(pairs.distances, edges), edges, color=color, alpha=0.6, label=name)
    upper.set(ylabel="pairs", yscale="symlog")
    upper.set_title(f"Pairs whose low frequencies differ by at most {CANDIDATE:g}")
    for (name, values), color in zip(
        findings.altered.items(), (plots.GREEN, plots.RED, plots.MUTED, plots.INK), strict=True
    ):
        line = _within(values, edges)
        lower.hist(line, edges, histtype="step", linewidth=1.4, color=color, label=name)
    lower.set(ylabel="images", xlabel="distance: 1 − correlation after alignment", xscale="log")
    lower.set_title("Copies made on purpose from images of this data")
    for axes in (upper, lower):
        axes.axvline(NEAR, color=plots.INK, linestyle="--", linewidth=1, label=f"limit {NEAR:g}")
        axes.legend(frameon=False, fontsize=8, loc="upper left")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})


def _within(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """What lies beyond the outermost edges counts in the outermost bins."""
    return np.clip(values, edges[0], edges[-1])


def _two_labels(pool: Pool, members: np.ndarray) -> tuple[int, int]:
    """The first image of a group and the first that is called otherwise."""
    labels = pool.labels[members]
    return members[0], members[np.flatnonzero(labels != labels[0])[0]]


def _telling(pool: Pool, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Some pairs: those across splits first, then those with two labels."""
    return sorted(
        pairs,
        key=lambda pair: (
            pool.splits[pair[0]] == pool.splits[pair[1]],
            pool.labels[pair[0]] == pool.labels[pair[1]],
            pair,
        ),
    )[:SHOWN]


def _spread(pairs: Pairs) -> list[tuple[int, int]]:
    """Pairs evenly spaced from the nearest to the farthest."""
    return _evenly([(int(i), int(j)) for i, j in pairs.members])


def _evenly(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(SHOWN, len(pairs))).round().astype(int))
    return [pairs[i] for i in chosen]


def _pairs(pool: Pool, pairs: Sequence[tuple[int, int]], path: Path) -> None:
    """A sheet of pairs, four in a row."""
    if pairs:
        _sheet(pool, [index for pair in pairs for index in pair], 2, path)


def _images(pool: Pool, indices: np.ndarray, path: Path) -> None:
    """A sheet of the first images."""
    if len(indices):
        _sheet(pool, [int(i) for i in indices[:SHOWN]], 1, path)


def _sheet(pool: Pool, indices: Sequence[int], together: int, path: Path) -> None:
    """Eight images in a row, split and label above each, groups of `together` side by side.

    All are one picture on one axis: an axis for each takes seconds.
    """
    rows = math.ceil(len(indices) / COLUMNS)
    wide, high = COLUMNS * FACE + (COLUMNS // together + 1) * GAP, rows * (FACE + WORDS) + HEADING
    canvas = np.full((high, wide), 255, np.uint8)
    figure = Figure(figsize=(wide / DPI, high / DPI))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for position, index in enumerate(indices):
        row, column = divmod(position, COLUMNS)
        top = HEADING + row * (FACE + WORDS) + WORDS
        left = GAP + column * FACE + column // together * GAP
        face = cv2.resize(pool.images[index], (FACE, FACE), interpolation=cv2.INTER_NEAREST)
        canvas[top : top + FACE, left : left + FACE] = face
        words = f"{pool.splits[index]}\n{LABELS[pool.labels[index]]}"
        axes.text(left + 2, top - 4, words, fontsize=7, color=plots.INK, va="bottom")
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axes.text(GAP, 8, PICTURES[path.name], fontsize=11, color=plots.INK, va="top")
    figure.savefig(path, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
