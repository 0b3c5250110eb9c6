"""The metadata that FER2013 allows, for `evaluate --groups`: `python -m experiments.metadata`.

Brightness, contrast and sharpness of each image, and how far FER+'s ten voters agree on it. The
size of the face in its photograph cannot be had: FER2013's images are cut and scaled to 48 pixels.
"""

import csv
import pathlib
from collections.abc import Sequence

import cv2
from absl import flags

from fer_jax import cli, reading
from fer_jax.data import sidecars
from fer_jax.data.sources import read_dataset

DATA = flags.DEFINE_string("data", None, "FER2013 in any layout.", required=True)
FERPLUS = flags.DEFINE_string("ferplus", "", "FER+'s fer2013new.csv, if at hand.")
SPLIT = flags.DEFINE_string("split", "validation", "Whose images.")
OUTPUT = flags.DEFINE_string("output", "metadata.csv", "The CSV to write.")
READING = reading.define()


def main(argv: Sequence[str]) -> None:
    """One line an image: key, brightness, contrast, sharpness and agreement."""
    del argv
    records = read_dataset(DATA.value, READING()).split(SPLIT.value)
    columns = {"key": list(records.keys), "brightness": [], "contrast": [], "sharpness": []}
    for i in range(len(records)):
        grey = records.image(i).mean(axis=2)
        columns["brightness"].append(f"{grey.mean():.1f}")
        columns["contrast"].append(f"{grey.std():.1f}")
        columns["sharpness"].append(f"{cv2.Laplacian(grey, cv2.CV_64F).var():.0f}")
    if FERPLUS.value:
        votes = sidecars.join_votes(sidecars.read_votes(FERPLUS.value), records.rows)
        pairs = zip(votes.max(axis=1), votes.sum(axis=1), strict=True)
        columns["agreement"] = [f"{most / total:.1f}" if total else "" for most, total in pairs]
    with pathlib.Path(OUTPUT.value).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
    print(f"wrote {OUTPUT.value}: {len(records):,} images of {SPLIT.value}")


if __name__ == "__main__":
    cli.run(main)
