"""How a model bears worse pictures: accuracy and calibration under corruptions of the images."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from fer_jax.data.records import Records
from fer_jax.evaluation.metrics import SEED, figures
from fer_jax.evaluation.predictions import Predictions
from fer_jax.evaluation.tables import table

SIDE = 48  # pixels of FER2013's images, to which lengths in pixels are relative
TOLERATED = 0.05  # of accuracy: what the report's sentence calls borne
CORRUPTIONS: dict[str, tuple[str, tuple[float, ...]]] = {  # unit, and five strengths
    "blur": ("deviation, pixels of 48", (0.5, 1, 1.5, 2, 3)),
    "noise": ("deviation, grey levels", (5, 10, 20, 30, 50)),
    "JPEG": ("quality", (50, 30, 20, 10, 5)),
    "darkness": ("times the light", (0.7, 0.5, 0.3, 0.2, 0.1)),
    "overexposure": ("times the light", (1.2, 1.4, 1.6, 2, 2.5)),
    "low contrast": ("times the contrast", (0.7, 0.5, 0.3, 0.2, 0.1)),
    "occlusion": ("black square, of the side", (0.2, 0.3, 0.4, 0.5, 0.6)),
    "rotation": ("degrees, either way", (5, 10, 20, 30, 45)),
    "loose crop": ("times the face's size", (0.9, 0.8, 0.7, 0.6, 0.5)),
    "tight crop": ("times the face's size", (1.1, 1.2, 1.35, 1.5, 1.75)),
    "crop offset": ("of the side, any way", (0.05, 0.1, 0.15, 0.2, 0.3)),
}


class Corrupted(Records):
    """Records whose images are corrupted as they are read, at their own size.

    Draws follow from an image's pixels: the same at all strengths, in any split and layout.
    """

    def __init__(self, records: Records, kind: str, strength: float) -> None:
        """Both as in CORRUPTIONS."""
        self.__dict__.update(vars(records))
        self.kind, self.strength = kind, strength

    def image(self, index: int) -> np.ndarray:
        """uint8 [H, W, C]."""
        draws = np.random.default_rng([SEED, *self.digests[index].tolist()])
        return corrupt(super().image(index), self.kind, self.strength, draws)


def corrupt(
    image: np.ndarray, kind: str, strength: float, draws: np.random.Generator
) -> np.ndarray:
    """uint8 [H, W, C] -> the same."""
    side = min(image.shape[:2])
    match kind:
        case "blur":
            changed = cv2.GaussianBlur(image, (0, 0), strength * side / SIDE)
        case "noise":
            changed = image + strength * draws.standard_normal(image.shape)
        case "JPEG":
            changed = _jpeg(image, int(strength))
        case "darkness" | "overexposure":
            changed = image * float(strength)
        case "low contrast":
            changed = image.mean() + (image - image.mean()) * strength
        case "occlusion":
            size = np.rint(strength * np.array(image.shape[:2])).astype(int)
            top, left = (draws.random(2) * (image.shape[:2] - size)).astype(int)
            changed = image.copy()
            changed[top : top + size[0], left : left + size[1]] = 0
        case "rotation":
            changed = _moved(image, angle=strength * draws.choice([-1, 1]))
        case "loose crop" | "tight crop":
            changed = _moved(image, zoom=strength)
        case "crop offset":
            angle = draws.uniform(0, 2 * np.pi)
            direction = np.array([np.cos(angle), np.sin(angle)])
            changed = _moved(image, shift=strength * side * direction)
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8).reshape(image.shape)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    bgr = np.ascontiguousarray(image[..., ::-1])
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED))
    return decoded.reshape(image.shape)[..., ::-1]


def _moved(image: np.ndarray, angle: float = 0, zoom: float = 1, shift: Any = 0) -> np.ndarray:
    """Turned and scaled about the centre, then shifted; mirrored at the borders as in training."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, zoom)
    matrix[:, 2] += shift
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)


def measure(
    records: Records, plain: Predictions, answer: Callable[[Records], Predictions], samples: int
) -> dict[str, Any]:
    """The `stress` of report.json: figures of unchanged images, of each corruption and strength.

    `plain` is the `answer` to `records`; `samples` are the bootstrap's.
    """
    bar = tqdm(CORRUPTIONS.items(), "stress", unit="kind", leave=False, disable=None)
    corruptions = {
        kind: [
            {"strength": strength} | figures(answer(Corrupted(records, kind, strength)), samples)
            for strength in strengths
        ]
        for kind, (_, strengths) in bar
    }
    found = {"seed": SEED, "plain": figures(plain, samples), "corruptions": corruptions}
    return {**found, "sentence": sentence(found)}


def sentence(stress: Mapping[str, Any]) -> str:
    """What a user must know: how strong each corruption may be, and how far confidence errs."""
    plain, corruptions, borne = stress["plain"]["accuracy"], stress["corruptions"], []
    for kind, rows in corruptions.items():
        held = list(itertools.takewhile(lambda row: row["accuracy"] >= plain - TOLERATED, rows))
        borne.append(f"{kind} {held[-1]['strength']:g}" if held else f"no {kind}")
    pairs = [(kind, row) for kind, rows in corruptions.items() for row in rows]
    kind, worst = max(pairs, key=lambda pair: pair[1]["confidence"] - pair[1]["accuracy"])
    return (
        f"Of {plain:.1%} accuracy it loses at most {TOLERATED * 100:g} points up to "
        f"{', '.join(borne)}; do not rely on its confidence beyond: at {kind} "
        f"{worst['strength']:g} it is {worst['confidence']:.0%} sure on average and right in "
        f"{worst['accuracy']:.0%}."
    )


def markdown(report: Mapping[str, Any]) -> str:
    """The section of report.md, or nothing: the sentence, a row a corruption, the picture."""
    if "stress" not in report:
        return ""
    stress = report["stress"]
    figure = "{strength:g}: {accuracy:.1%} ({expected_calibration_error:.1%})".format
    rows = [
        (f"{kind}, {CORRUPTIONS[kind][0]}", *(figure(**row) for row in rows))
        for kind, rows in stress["corruptions"].items()
    ]
    return f"""\
## Worse pictures

{stress["sentence"]}

Strength: accuracy (expected calibration error, at the temperature {report["calibration"]:.4g}); of
unchanged images {figure(strength=0, **stress["plain"])}.

{table(("corruption", *"12345"), rows, texts=6)}

![Accuracy and confidence on worse pictures](stress.png)

"""
