"""Compare models by their saved answers: `python -m fer_jax.compare A/report B/report`.

Each argument is one model: a report's folder or its predictions.npz; or several runs of one recipe,
joined by commas. With --seeds all arguments are runs of one recipe.
"""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from fer_jax import cli
from fer_jax.errors import UserError
from fer_jax.evaluation.predictions import PREDICTIONS_FILE, REPORT_FILE, Predictions
from fer_jax.outputs import write_text

OUTPUT = flags.DEFINE_string("output", "", "Folder for comparison.json and comparison.md.")
SEEDS = flags.DEFINE_bool("seeds", False, "All arguments are runs of one recipe.")
SAMPLES = flags.DEFINE_integer("bootstrap_samples", 10_000, "Samples of images.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of the bootstrap.", lower_bound=0)


def main(argv: Sequence[str]) -> None:
    """Read all predictions, compare, print the tables, write them to --output."""
    groups = [list(argv[1:])] if SEEDS.value else [given.split(",") for given in argv[1:]]
    paths = [path for group in groups for path in group]
    if len(paths) < 2:
        raise UserError("give two or more reports' folders or predictions.npz: A/report B/report")
    files = [file_of(path).resolve() for path in paths]
    if twice := [path for i, path in enumerate(paths) if files[i] in files[:i]]:
        raise UserError(f"{twice[0]} is given twice: it would count as two runs")
    from fer_jax.evaluation import comparison  # SciPy's statistics: --help does without

    correct = comparison.correct_answers({path: Predictions.load(file_of(path)) for path in paths})
    models = {",".join(group): np.stack([correct[path] for path in group]) for group in groups}
    answers = {",".join(group): answers_of(group) for group in groups}
    result = comparison.compare(models, answers, SAMPLES.value, SEED.value)
    text = comparison.markdown(result)
    print(text, end="")
    if OUTPUT.value:
        body = json.dumps(result, indent=2, allow_nan=False) + "\n"
        for name, content in (("md", f"# Comparison\n\n{text}"), ("json", body)):
            path = Path(OUTPUT.value) / f"comparison.{name}"
            write_text(path, content)
        print(f"wrote {OUTPUT.value}/comparison.md")


def file_of(path: str) -> Path:
    """The predictions of a report's folder, or the file itself."""
    place = Path(path).expanduser()
    return place / PREDICTIONS_FILE if place.is_dir() else place


def answers_of(group: Sequence[str]) -> str | None:
    """What the reports beside one recipe's predictions call their answers; None without reports.

    UserError where they differ: plain and test-time augmented runs have no common mean.
    """
    found: dict[str, str | None] = dict.fromkeys(group)
    for path in group:
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
            text = (file_of(path).parent / REPORT_FILE).read_text(encoding="utf-8")
            found[path] = str(json.loads(text)["answers"])
    if len(set(found.values())) > 1:
        told = ", ".join(f"{path} ({answers or 'no report'})" for path, answers in found.items())
        raise UserError(f"{told} are no runs of one recipe: give them as models of their own")
    return found[group[0]]


if __name__ == "__main__":
    cli.run(main, arguments=True)
