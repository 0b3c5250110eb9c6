"""Models compared on the same images: a paired test, differences, and the spread over seeds."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import binomtest

from fer_jax.errors import UserError
from fer_jax.evaluation.metrics import interval_95
from fer_jax.evaluation.predictions import Predictions
from fer_jax.evaluation.tables import interval, share, table

MODELS_HEAD = ("model", "answers", "runs", "accuracy", "sd (points)", "95 % interval")
PAIRS_HEAD = (
    "difference", "points", "95 % interval", "only it right", "only the other", "McNemar p"
)  # fmt: skip


def correct_answers(files: Mapping[str, Predictions]) -> dict[str, np.ndarray]:
    """Name -> bool [N]: which images each answered rightly, in the order of their keys.

    UserError where two of them are not of the same images with the same labels.
    """
    found, first, truth = {}, "", dict[str, int]()
    for name, answers in files.items():
        labels = dict(zip(answers.keys, answers.labels.tolist(), strict=True))
        if not labels or len(labels) < len(answers):
            raise UserError(f"{name} holds no predictions or a key twice: evaluate the model again")
        first, truth = first or name, truth or labels
        if other := {key for key, _ in truth.items() ^ labels.items()}:
            raise UserError(
                f"{first} and {name} are not of the same images: {len(other)} keys are in only one "
                f"of them or have other labels, first {min(other)!r}; evaluate both models on the "
                "same split of the same data"
            )
        order = np.argsort(np.array(answers.keys), kind="stable")
        found[name] = (answers.predicted == answers.labels)[order]
    return found


def compare(
    models: Mapping[str, np.ndarray], answers: Mapping[str, str | None], samples: int, seed: int
) -> dict[str, Any]:
    """Name -> bool [R, N] (R runs of one recipe, N images) -> all figures, ready for strict JSON.

    `answers` says of each how they were made ("plain", "ensemble of 5"), None where nobody knows.

    Accuracy is the mean over the runs, the standard deviation is theirs (R - 1). Intervals are
    bootstrap percentiles: one drawing of images for all models, so that differences are paired,
    and, within each recipe of several runs, one of runs. McNemar's exact test (two-sided binomial
    test of the images that only one of two answers rightly) is for single runs: None for others.
    """
    drawn = _drawn_means(models, samples, np.random.default_rng(seed))
    return {
        "n": next(iter(models.values())).shape[1],
        "bootstrap": {"samples": samples, "seed": seed},
        "models": [
            {"name": name, "answers": answers[name], **_figures(runs, drawn[name])}
            for name, runs in models.items()
        ],
        "pairs": [
            {"first": a, "second": b, **_pair(models[a], models[b], drawn[b] - drawn[a])}
            for a, b in itertools.combinations(models, 2)
        ],
    }


def bootstrap_accuracies(correct: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Bool [R, N] -> float [samples, R]: accuracies on samples of the N images, each for all R.

    Images that the same runs answer rightly are alike to the bootstrap, so only their numbers are
    drawn, which are multinomial.
    """
    patterns, counts = np.unique(correct, axis=1, return_counts=True)
    total = counts.sum()
    return rng.multinomial(total, counts / total, samples) @ patterns.T.astype(float) / total


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p that bool [N] twice come from models of one accuracy (McNemar 1947, exact)."""
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def _drawn_means(
    models: Mapping[str, np.ndarray], samples: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Name -> float [samples]: the mean accuracy of runs drawn, on images drawn."""
    ends = np.cumsum([len(runs) for runs in models.values()])
    accuracies = bootstrap_accuracies(np.concatenate(list(models.values())), samples, rng)
    drawn = {}
    for name, part in zip(models, np.split(accuracies, ends[:-1], axis=1), strict=True):
        chosen = rng.integers(0, part.shape[1], part.shape)
        drawn[name] = np.take_along_axis(part, chosen, axis=1).mean(axis=1)
    return drawn


def _figures(runs: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    accuracies = [int(run.sum()) / runs.shape[1] for run in runs]
    return {
        "runs": len(runs),
        "accuracies": accuracies,
        "accuracy": float(np.mean(accuracies)),
        "standard_deviation": float(np.std(accuracies, ddof=1)) if len(runs) > 1 else None,
        "accuracy_95_interval": interval_95(drawn),
    }


def _pair(runs: np.ndarray, others: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    """Of the second model against the first; `drawn` are the differences on samples of images."""
    single = len(runs) == len(others) == 1
    return {
        "difference": float(others.mean() - runs.mean()),
        "difference_95_interval": interval_95(drawn),
        "only_first_right": int(np.sum(runs[0] & ~others[0])) if single else None,
        "only_second_right": int(np.sum(others[0] & ~runs[0])) if single else None,
        "mcnemar_p": mcnemar(runs[0], others[0]) if single else None,
    }


# ---- Tables --------------------------------------------------------------------------------------


def markdown(result: Mapping[str, Any]) -> str:
    """Tables to read, aligned for terminals, of what `compare` returns."""
    boot, pairs = result["bootstrap"], result["pairs"]
    notes = [
        f"{result['n']:,} images, the same for all; intervals are 95 % bootstrap percentiles of "
        f"{boot['samples']:,} samples, seed {boot['seed']}."
    ]
    if any(row["runs"] > 1 for row in result["models"]):
        notes.append(
            "Intervals of several runs draw runs as well as images; with few runs they are too "
            "narrow."
        )
    if len(pairs) > 1:
        notes.append(
            "p is of each pair alone: nothing is subtracted for there being several pairs."
        )
    tables = [table(MODELS_HEAD, map(_model_cells, result["models"]), texts=2)]
    tables += [table(PAIRS_HEAD, map(_pair_cells, pairs))] if pairs else []
    return "\n\n".join([*tables, "\n".join(notes)]) + "\n"


def _model_cells(row: Mapping[str, Any]) -> list[str]:
    deviation = row["standard_deviation"]
    return [
        row["name"],
        row["answers"] or "–",
        str(row["runs"]),
        share(row["accuracy"]),
        "–" if deviation is None else f"{100 * deviation:.2f}",
        interval(row["accuracy_95_interval"]),
    ]


def _pair_cells(row: Mapping[str, Any]) -> list[str]:
    tests = {"only_second_right": ",", "only_first_right": ",", "mcnemar_p": ".3g"}
    return [
        f"{row['second']} minus {row['first']}",
        f"{100 * row['difference']:+.2f}",
        "{:+.2f} to {:+.2f}".format(*(100 * edge for edge in row["difference_95_interval"])),
        *("–" if row[name] is None else format(row[name], form) for name, form in tests.items()),
    ]
