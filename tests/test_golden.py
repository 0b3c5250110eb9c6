"""The first training step of a fixed run, in numbers kept in a file: a change is seen."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from support import arrays, slow_but, small_config

from fer_jax.data.sources import open_dataset
from fer_jax.train import make_trainer

FILES = {  # of all kinds of layers, and soon compiled
    "tiny": Path(__file__).parent / "golden" / "first_step.json",
    "mini": Path(__file__).parent / "golden" / "first_step_mini.json",
}
UPDATE = "UPDATE_GOLDEN=1 python -m pytest tests/test_golden.py"
TOLERANCES = {  # relative; between versions of JAX and kinds of CPU, sums are rounded differently
    "gradient_norm": 1e-3,
    "loss": 1e-4,
}
OTHERWISE = 1e-5
ADVICE = f"""
The first training step is no longer what it was: {{differences}}.
If nothing was meant to change it, this is a bug: data order, augmentation, initial parameters,
model, loss, optimizer and statistics all show here; the first name that differs tells which.
If a change was meant, then checkpoints of older versions do not continue as they would have:
say so in the commit message, count config.BATCHES up if images or labels differ, write the new
numbers with
    {UPDATE}
and commit {{file}} with the change.
"""


def sums(tree) -> float:
    """The sum of all magnitudes: moves with every leaf, whatever the signs."""
    return float(sum(np.abs(leaf.astype(np.float64)).sum() for leaf in arrays(tree).values()))


def first_step(data, variant) -> dict[str, float]:
    """In the order in which one thing leads to the next."""
    size = {"data__image_size": 32, "model__head_filters": 128}
    config = small_config(data, model__variant=variant, **size)
    records = open_dataset(config.data.path, config.data).roles["train"]
    trainer = make_trainer(config, records)
    batch, state = next(trainer.batches(0)), trainer.init()
    labels = np.asarray(batch["label"]).astype(float)
    numbers = {
        "images": float(np.asarray(batch["image"]).astype(np.float64).sum()),
        "labels": float(labels @ np.arange(1, len(labels) + 1)),
        "parameters": float(sum(leaf.size for leaf in jax.tree.leaves(state.params))),
        "initial_parameters": sums(state.params),
    }
    state, metrics = trainer.train_step(state, batch)
    numbers |= {name: float(metrics[name]) for name in ("loss", "accuracy", "gradient_norm")}
    numbers |= {
        "updated_parameters": sums(state.params),
        "updated_statistics": sums(state.batch_stats),
        "averages": sums(state.ema),
    }
    return numbers


@pytest.mark.parametrize("variant", slow_but(("mini",), FILES))
def test_the_first_step_is_what_it_was(small_csv, variant):
    numbers, file = first_step(small_csv, variant), FILES[variant]
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(json.dumps(numbers, indent=2) + "\n")
        pytest.skip(f"wrote {file}")
    differences = compare(json.loads(file.read_text()), numbers)
    assert not differences, ADVICE.format(differences="; ".join(differences), file=file.name)


def compare(golden, numbers) -> list[str]:
    """`loss: 2.3 -> 2.4` for each number beyond its tolerance, first cause first."""
    assert list(golden) == list(numbers)
    return [
        f"{name}: {golden[name]} -> {value}"
        for name, value in numbers.items()
        if value != pytest.approx(golden[name], rel=TOLERANCES.get(name, OTHERWISE))
    ]


def test_a_change_of_any_number_is_seen():
    golden = json.loads(FILES["tiny"].read_text())
    assert not compare(golden, golden)
    for name in golden:
        (line,) = compare(golden, golden | {name: golden[name] * 1.01 + 0.01})
        assert line.startswith(f"{name}: ")
