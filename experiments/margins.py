"""How much around a detected face FER2013 shows: `python -m experiments.margins --data=PATH`.

MTCNN looks at PublicTest's images, enlarged four times on black. FER2013's square is compared with
the boxes found, and accuracy is measured on squares of other sizes, cut anew from the 48 pixels.
"""

import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from absl import flags

import fer_jax
from fer_jax import cli
from fer_jax.data.sources import open_dataset
from fer_jax.labels import LABELS
from fer_jax.outputs import write_text
from fer_jax.recognition import faces

DATA = flags.DEFINE_string("data", None, "FER2013 in any layout.", required=True)
EACH = flags.DEFINE_integer("each", 2, "Take every so many-th image.", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", "runs/margins", "Folder of the tables.")
ENLARGED, BORDER, LEAST = 4, 96, 80  # times; pixels around; pixels of the smallest face
MARGINS = (0.8, 0.85, 0.9, 0.95, 1.0, 1.1, 1.2, 1.35)


def main(argv: Sequence[str]) -> None:
    """Detect, compare, answer; write margins.md."""
    del argv
    model = fer_jax.load()
    records = open_dataset(DATA.value, model.model.data).split("validation")
    chosen = range(0, len(records), EACH.value)
    pictures = [records[i]["image"] for i in chosen]
    detect = faces.open_detector("auto")
    found = [best(detect, picture) for picture in pictures]
    kept = [i for i, row in enumerate(found) if row is not None]
    rows = np.array([found[i] for i in kept])
    pictures, labels = [pictures[i] for i in kept], records.labels[np.array(chosen)[kept]]

    def accuracy(images: list[np.ndarray]) -> str:
        said = [face.label for (face,) in model.predict(images, crop="whole")]
        return f"{np.mean([LABELS.index(s) for s in said] == labels):.2%}"

    lines = [
        f"a face in {len(rows):,} of {len(found):,} images; of its box FER2013's square has",
        "",
    ]
    for name, ratio in {"width": 48 / rows[:, 2], "height": 48 / rows[:, 3]}.items():
        low, middle, high = np.quantile(ratio, (0.25, 0.5, 0.75))
        lines.append(f"- {middle:.2f} of the {name} (half of the images: {low:.2f} to {high:.2f})")
    lines += ["", "| square, of the longer side | turned upright | not turned |", "|---|--:|--:|"]
    lines.append(f"| FER2013's own | | {accuracy(pictures)} |")
    for margin in MARGINS:
        cells = [accuracy(cuts(pictures, rows, margin, turned)) for turned in (True, False)]
        lines.append(f"| {margin:g} | {' | '.join(cells)} |")
    write_text(pathlib.Path(OUTPUT.value, "margins.md"), "\n".join(lines) + "\n")
    print("\n".join(lines))


def best(detect: faces.Detector, picture: np.ndarray) -> np.ndarray | None:
    """The first row that is found in uint8 [48, 48, 1], in its pixels; None without any."""
    large = cv2.resize(picture, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_LINEAR)
    large = cv2.copyMakeBorder(large, *[BORDER] * 4, cv2.BORDER_CONSTANT)
    rows = detect(np.repeat(large[..., None], 3, axis=2), LEAST)
    if not len(rows):
        return None
    rows[0, [0, 1, *range(4, 14)]] -= BORDER
    rows[0, :14] /= ENLARGED
    return rows[0]


def cuts(
    pictures: Sequence[np.ndarray], rows: np.ndarray, margin: float, turned: bool
) -> list[np.ndarray]:
    """The squares of `margin` times the boxes' longer sides."""
    made = []
    for picture, row in zip(pictures, rows, strict=True):
        centre, half = row[:2] + row[2:4] / 2, margin * row[2:4].max() / 2
        _, turn = faces.upright(row[:4], row[4:14].reshape(5, 2))
        box = np.array([*(centre - half), 2 * half, 2 * half])
        made.append(faces.cut(picture, box, turn if turned else 0.0))
    return made


if __name__ == "__main__":
    cli.run(main)
