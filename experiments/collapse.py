"""What makes a model that learned answer one class: `experiments.collapse --checkpoint=RUN`.

Faults that the notebook's inference may have had are put into a trained model, one at a time. Its
metrics in training would show none of them: they come of the batch's own statistics and scaling.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from fer_jax import cli, trained
from fer_jax.data.sources import open_dataset
from fer_jax.evaluation.inference import make_evaluator
from fer_jax.labels import LABELS
from fer_jax.models.classifier import Classifier
from fer_jax.outputs import write_text
from fer_jax.training.state import Variables

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A run or a model file.", required=True)
DATA = flags.DEFINE_string("data", "", "The data, in any known layout; the run's own if empty.")
OUTPUT = flags.DEFINE_string("output", "runs/collapse", "Folder for collapse.json and collapse.md.")

MOMENTUM, STEPS = 0.99, (0, 10, 100, 300, 1000)  # Keras' default, and steps that statistics had
Fault = tuple[str, Classifier, Variables]


def main(argv: Sequence[str]) -> None:
    """Answer the validation images with each fault, print and write the table."""
    del argv
    model = trained.load(Path(CHECKPOINT.value))
    plain = model.evaluator
    records = open_dataset(DATA.value or model.data.path, model.data).split("validation")
    rows = []
    for name, network, variables in faults(plain.model, model.variables):
        same = network == plain.model
        evaluator = plain if same else make_evaluator(network, plain.image_size, plain.config)
        answers = evaluator.predict(variables, records, progress=False)
        rows.append(row(name, answers.probabilities.argmax(axis=1), answers.labels))
        print(f"{name}: {rows[-1]['accuracy']:.2%}", flush=True)
    output = Path(OUTPUT.value)
    write_text(output / "collapse.json", json.dumps(rows, indent=1) + "\n")
    write_text(output / "collapse.md", table(rows))
    print(f"{table(rows)}wrote {output}/collapse.md")


def faults(model: Classifier, variables: Variables) -> Iterator[Fault]:
    """The model as it is, then each fault's."""
    yield "none", model, variables
    for name, factor in (("input scaled twice", 255.0), ("input not scaled", 1 / 255)):
        std = tuple(factor * value for value in model.input_std)
        yield name, model.clone(input_std=std), variables
    for steps in STEPS:
        found = {**variables, "batch_stats": statistics_after(steps, variables["batch_stats"])}
        yield f"moving statistics after {steps} steps", model, found


def statistics_after(steps: int, goal: Any) -> Any:
    """Averages of momentum 0.99 that began at mean 0, variance 1 and have moved towards `goal`."""
    rest = MOMENTUM**steps

    def moved(path: Any, leaf: jax.Array) -> jax.Array:
        start = jnp.ones_like(leaf) if path[-1].key == "var" else jnp.zeros_like(leaf)
        return rest * start + (1 - rest) * leaf

    return jax.tree_util.tree_map_with_path(moved, goal)


def row(name: str, answers: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Accuracy, and how many images got each answer."""
    counts = np.bincount(answers, minlength=len(LABELS))
    return {
        "fault": name,
        "images": len(labels),
        "accuracy": float(np.mean(answers == labels)),
        "answers": dict(zip(LABELS, counts.tolist(), strict=True)),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    text = (
        "| fault in inference | accuracy | most frequent answer | its share |\n|---|--:|---|--:|\n"
    )
    for found in rows:
        first = max(found["answers"], key=found["answers"].get)
        share = found["answers"][first] / found["images"]
        text += f"| {found['fault']} | {found['accuracy']:.2%} | {first} | {share:.1%} |\n"
    return text


if __name__ == "__main__":
    cli.run(main)
