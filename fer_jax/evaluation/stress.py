"""How a model bears worse pictures: accuracy and calibration under corruptions of the images."""

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from fer_jax.data.records import Records
from fer_jax.evaluation.metrics import figures
from fer_jax.evaluation.predictions import Predictions

SEED = 0
SIDE = 48  # pixels of FER2013: what a length in pixels is relative to
LEVELS = 5
TOLERATED = 0.05  # of accuracy: what the report's sentence calls borne

Apply = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
"""uint8 [H, W, C], strength, draws -> as many values in any type and range."""


def _blur(image: np.ndarray, sigma: float, _: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma * min(image.shape[:2]) / SIDE)


def _noise(image: np.ndarray, sigma: float, draws: np.random.Generator) -> np.ndarray:
    return image + sigma * draws.standard_normal(image.shape)


def _jpeg(image: np.ndarray, quality: float, _: np.random.Generator) -> np.ndarray:
    bgr = np.ascontiguousarray(image[..., ::-1])
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED))
    return decoded.reshape(image.shape)[..., ::-1]


def _light(image: np.ndarray, share: float, _: np.random.Generator) -> np.ndarray:
    return image * float(share)


def _contrast(image: np.ndarray, share: float, _: np.random.Generator) -> np.ndarray:
    return image.mean() + (image - image.mean()) * share


def _occlusion(image: np.ndarray, share: float, draws: np.random.Generator) -> np.ndarray:
    size = np.rint(share * np.array(image.shape[:2])).astype(int)
    top, left = (draws.random(2) * (image.shape[:2] - size)).astype(int)
    covered = image.copy()
    covered[top : top + size[0], left : left + size[1]] = 0
    return covered


def _rotation(image: np.ndarray, degrees: float, draws: np.random.Generator) -> np.ndarray:
    return _moved(image, angle=degrees * draws.choice([-1, 1]))


def _scale(image: np.ndarray, zoom: float, _: np.random.Generator) -> np.ndarray:
    return _moved(image, zoom=zoom)


def _offset(image: np.ndarray, share: float, draws: np.random.Generator) -> np.ndarray:
    angle = draws.uniform(0, 2 * np.pi)
    return _moved(
        image, shift=share * min(image.shape[:2]) * np.array([np.cos(angle), np.sin(angle)])
    )


def _moved(image: np.ndarray, angle: float = 0, zoom: float = 1, shift: Any = 0) -> np.ndarray:
    """About the centre, bilinear, mirrored at the borders as in training."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, zoom)
    matrix[:, 2] += shift
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)


class Corruption(NamedTuple):
    """What is done to an image, in which unit, and its LEVELS strengths."""

    unit: str
    strengths: tuple[float, ...]
    apply: Apply


CORRUPTIONS = {
    "blur": Corruption("deviation, pixels of 48", (0.5, 1, 1.5, 2, 3), _blur),
    "noise": Corruption("deviation, grey levels", (5, 10, 20, 30, 50), _noise),
    "JPEG": Corruption("quality", (50, 30, 20, 10, 5), _jpeg),
    "darkness": Corruption("times the light", (0.7, 0.5, 0.3, 0.2, 0.1), _light),
    "overexposure": Corruption("times the light", (1.2, 1.4, 1.6, 2, 2.5), _light),
    "low contrast": Corruption("times the contrast", (0.7, 0.5, 0.3, 0.2, 0.1), _contrast),
    "occlusion": Corruption("black square, of the side", (0.2, 0.3, 0.4, 0.5, 0.6), _occlusion),
    "rotation": Corruption("degrees, either way", (5, 10, 20, 30, 45), _rotation),
    "loose crop": Corruption("times the face's size", (0.9, 0.8, 0.7, 0.6, 0.5), _scale),
    "tight crop": Corruption("times the face's size", (1.1, 1.2, 1.35, 1.5, 1.75), _scale),
    "crop offset": Corruption("of the side, any way", (0.05, 0.1, 0.15, 0.2, 0.3), _offset),
}


class Corrupted(Records):
    """Records whose images are corrupted as they are read, at their own size.

    Level 0 changes nothing. Draws follow from the image's own pixels, so they are the same for all
    levels and in any order, split or layout.
    """

    def __init__(self, records: Records, kind: str, level: int) -> None:
        """`kind` of CORRUPTIONS, `level` 0..LEVELS."""
        self.__dict__.update(vars(records))
        self.corruption, self.level = CORRUPTIONS[kind], level

    def image(self, index: int) -> np.ndarray:
        """uint8 [H, W, C]."""
        image = super().image(index)
        if not self.level:
            return image
        draws = np.random.default_rng([SEED, *self.digests[index].tolist()])
        strength = self.corruption.strengths[self.level - 1]
        changed = self.corruption.apply(image, strength, draws).reshape(image.shape)
        return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


def measure(
    plain: Predictions,
    records: Records,
    answer: Callable[[Records], Predictions],
    samples: int,
    progress: bool,
) -> dict[str, Any]:
    """The `stress` of report.json: figures of calibrated answers, unchanged and for each level.

    `plain` are the `answer` to `records`; `samples` are the bootstrap's.
    """

    def row(answers: Predictions) -> dict[str, Any]:
        return figures(answers.probabilities, answers.labels, samples, SEED)

    cases = [(kind, level) for kind in CORRUPTIONS for level in range(1, LEVELS + 1)]
    bar = tqdm(cases, "stress", unit="pass", leave=False, disable=not progress)
    rows = [
        {"corruption": kind, "level": level, "strength": CORRUPTIONS[kind].strengths[level - 1]}
        | row(answer(Corrupted(records, kind, level)))
        for kind, level in bar
    ]
    found = {"seed": SEED, "plain": row(plain), "rows": rows}
    return {**found, "sentence": sentence(found)}


def sentence(stress: Mapping[str, Any]) -> str:
    """What a user must know: what each corruption may be, and what the worst of them do."""
    limit = stress["plain"]["accuracy"] - TOLERATED
    borne: list[str] = []
    not_borne: list[str] = []
    for kind, corruption in CORRUPTIONS.items():
        rows = [row for row in stress["rows"] if row["corruption"] == kind]
        lost = next((i for i, row in enumerate(rows) if row["accuracy"] < limit), LEVELS)
        strengths = corruption.strengths
        (borne if lost else not_borne).append(f"{kind} {strengths[max(lost, 1) - 1]:g}")
    worst = max(stress["rows"], key=lambda row: row["confidence"] - row["accuracy"])
    return (
        f"Of {stress['plain']['accuracy']:.1%} it loses at most {TOLERATED * 100:g} points up to "
        f"{', '.join(borne) or 'none of these'}"
        f"{', and more than that from ' * bool(not_borne)}{', '.join(not_borne)}; its confidence "
        f"does not warn of the rest: under {worst['corruption']} {worst['strength']:g} it is right "
        f"in {worst['accuracy']:.0%} and on average {worst['confidence']:.0%} sure."
    )


def markdown(stress: Mapping[str, Any]) -> str:
    """The sentence, and a row for each corruption: accuracy and calibration error of each level."""
    plain = stress["plain"]
    lines = [
        f"{stress['sentence']}",
        "",
        f"Accuracy and, in brackets, expected calibration error; unchanged images have "
        f"{plain['accuracy']:.2%} ({plain['expected_calibration_error']:.1%}).",
        "",
        "| corruption | " + " | ".join(f"strength {level + 1}" for level in range(LEVELS)) + " |",
        "| --- |" + " --- |" * LEVELS,
    ]
    for kind, corruption in CORRUPTIONS.items():
        cells = [
            f"{row['strength']:g}: {row['accuracy']:.1%} ({row['expected_calibration_error']:.1%})"
            for row in stress["rows"]
            if row["corruption"] == kind
        ]
        lines.append(f"| {kind} ({corruption.unit}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(stress: Mapping[str, Any], path: str | PathLike[str]) -> None:
    """For each corruption accuracy and mean confidence over strength; where they part, it errs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.4), layout="constrained")
    grid = figure.subplots(3, 4, sharey=True).flat
    for axes, (kind, corruption) in zip(grid, CORRUPTIONS.items(), strict=False):
        rows = [stress["plain"], *(r for r in stress["rows"] if r["corruption"] == kind)]
        for name, colour in (("accuracy", "#2f6db3"), ("confidence", "#e07b39")):
            label = {"accuracy": "accuracy", "confidence": "mean confidence"}[name]
            axes.plot([row[name] for row in rows], "o-", color=colour, markersize=4, label=label)
        axes.set_title(kind)
        axes.set(xlabel=corruption.unit, ylim=(0, 1))
        axes.set_xticks(range(LEVELS + 1), ["–", *(f"{s:g}" for s in corruption.strengths)])
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    for rest in grid:
        rest.set_axis_off()
    figure.legend(*axes.get_legend_handles_labels(), loc="lower right", frameon=False)
    figure.savefig(path, format="png", dpi=110, facecolor="white", metadata={"Software": None})
