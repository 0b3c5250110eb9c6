"""How accurate are the answers that stay when unsure ones are withheld: `experiments.abstention`.

`python -m experiments.abstention --data=PATH` answers PublicTest through `fer_jax.load().predict`
and writes coverage and accuracy for each `min_confidence`. The temperature in the shipped file's
header was fitted on the same images, so these confidences are a little better than elsewhere.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

import fer_jax
from fer_jax import cli
from fer_jax.data.sources import open_dataset
from fer_jax.outputs import write_text

DATA = flags.DEFINE_string("data", None, "FER2013 in any layout.", required=True)
MODEL = flags.DEFINE_string("model", None, "Model file or run; if not given, the shipped weights.")
OUTPUT = flags.DEFINE_string("output", "runs/abstention", "Folder of the tables.")
NOTE = "The shipped weights' temperature, one number, was fitted on these images too."
THRESHOLDS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def main(argv: Sequence[str]) -> None:
    """Answer, count, write abstention.json and abstention.md."""
    del argv
    model = fer_jax.load(MODEL.value)
    records = open_dataset(DATA.value, model.model.data).split("validation")
    images = [records[i]["image"] for i in range(len(records))]
    answers = model.predict(images, crop="whole")
    found = np.array([list(face.probabilities.values()) for (face,) in answers])
    right, sure = found.argmax(axis=1) == records.labels, found.max(axis=1)
    rows = [row(f"{least:.1f}", right[sure >= least], len(right)) for least in THRESHOLDS]
    half = np.argsort(-sure, kind="stable")[: len(right) // 2]
    rows.append(row("the surer half", right[half], len(right)))
    folder, text = pathlib.Path(OUTPUT.value), markdown(rows)
    write_text(folder / "abstention.json", json.dumps({"n": len(right), "rows": rows}, indent=1))
    write_text(folder / "abstention.md", text)
    print(text)


def row(least: str, right: np.ndarray, total: int) -> dict[str, Any]:
    """Coverage and accuracy of the answers that stay, bool [N], of `total`."""
    accuracy = float(right.mean()) if len(right) else None
    return {"min_confidence": least, "coverage": len(right) / total, "accuracy": accuracy}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table, and what it must be read with."""
    lines = ["| min_confidence | answered | accuracy of the answers |", "|---|--:|--:|"]
    for one in rows:
        accuracy = "" if one["accuracy"] is None else f"{one['accuracy']:.2%}"
        lines.append(f"| {one['min_confidence']} | {one['coverage']:.2%} | {accuracy} |")
    return "\n".join([*lines, "", NOTE, ""])


if __name__ == "__main__":
    cli.run(main)
