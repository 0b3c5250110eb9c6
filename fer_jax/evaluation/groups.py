"""Figures of groups of images, by the columns of a metadata CSV: where a model is worse."""

import csv
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fer_jax.data.records import Dataset, Records
from fer_jax.errors import UserError, one_line
from fer_jax.evaluation.metrics import SEED, figures
from fer_jax.evaluation.predictions import Predictions
from fer_jax.evaluation.tables import table

NAMES = ("key", "row", "file")  # the columns that say which image a line is of
SMALLEST = 30  # images; smaller groups take no part in the gap
HEAD = ("images", "accuracy", "95 % interval", "calibration error")
MOST = 10  # numbers that are groups of their own; more are cut into quarters

Columns = dict[str, list[str]]
"""Column -> each image's value, in the order of the records; "" where there is none."""


def read_metadata(path: str, data: Dataset, records: Records) -> Columns:
    """The columns of the CSV for `records` of `data`.

    Its column `key` holds keys as in predictions.npz, `row` rows of fer2013.csv, `file` names of
    files, whose folder and suffix do not matter. UserError where it has no such column or none
    beside it, and where a line names no image of `data`, or not one alone.
    """
    try:
        with Path(path).expanduser().open(encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream)
            fields, lines = table.fieldnames or (), list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read --groups={path}: {one_line(error)}") from None
    by = next((name for name in NAMES if name in fields), None)
    columns = [field for field in fields if field not in NAMES]
    broken = [line for line in lines if None in line or None in line.values()]
    if by is None or not columns or not lines or broken:
        raise UserError(
            f"--groups={path} has {len(lines)} lines, {len(broken)} of them too long or short, and "
            f"the columns {','.join(fields) or '(none)'}: it needs one of {', '.join(NAMES)}, and "
            "another to group by"
        )

    given, ours = [_name(by, line[by]) for line in lines], _names(by, records)
    known = set(ours).union(*(_names(by, part) for part in data.roles.values()))
    known -= {"-1"} if by == "row" else set()  # as those are called whose row is not known
    used, wrong = set(ours) & set(given), [name for name in given if name not in known]
    if wrong or not used:
        raise UserError(
            f"--groups={path}: {len(wrong or given):,} of its {len(given):,} lines, first {by} "
            f"{(wrong or given)[0]!r}, name no image that is scored, such as {ours[0]!r}"
        )
    name, count = (Counter(given) | Counter(x for x in ours if x in used)).most_common(1)[0]
    if count > 1:
        raise UserError(f"--groups={path}: {by} {name!r} is of {count} lines or images, not 1")
    place = dict(zip(given, lines, strict=True))
    return {column: [place.get(name, {}).get(column, "") for name in ours] for column in columns}


def _names(by: str, records: Records) -> list[str]:
    return [_name(by, str(one)) for one in (records.rows if by == "row" else records.keys)]


def _name(by: str, given: str) -> str:
    """As lines and images are compared."""
    return PurePosixPath(given.replace("\\", "/")).stem if by == "file" else given


def measure(columns: Columns, answers: Predictions, samples: int) -> dict[str, Any]:
    """The `groups` of report.json: for each column its groups' figures, and the largest gap."""
    found = {}
    for column, values in columns.items():
        rows = [
            {"group": name} | figures(answers, samples, inside)
            for name, inside in grouped(values).items()
        ]
        gap = largest_gap([row for row in rows if row["n"] >= SMALLEST], samples)
        found[column] = {"without_value": values.count(""), "groups": rows, "gap": gap}
    return found


def grouped(values: Sequence[str]) -> dict[str, np.ndarray]:
    """Group -> bool [N]: one for each text or number, quarters where there are many numbers.

    What is "" belongs to none.
    """
    texts, names = np.array(values), sorted(set(values) - {""})
    try:
        amounts = np.array([float(text or "nan") for text in values])
    except ValueError:
        return {name: texts == name for name in names}
    if len(names) <= MOST or not np.isfinite(amounts[texts != ""]).all():
        return {name: texts == name for name in sorted(names, key=float)}
    # Edges that are amounts: between two of them a quarter could be empty.
    edges = np.unique(np.nanquantile(amounts, (0, 0.25, 0.5, 0.75, 1), method="higher"))
    part = np.searchsorted(edges[1:-1], amounts, side="right")
    return {
        f"quarter {i + 1} ({low:.4g} to {high:.4g})": (texts != "") & (part == i)
        for i, (low, high) in enumerate(itertools.pairwise(edges))
    }


def largest_gap(rows: Sequence[Mapping[str, Any]], samples: int) -> Any:
    """Between the best and the worst group; None of fewer than two.

    `by_chance`: 95 % of such gaps are smaller between equally hard groups of these sizes.
    """
    if len(rows) < 2:
        return None
    best, worst = (pick(rows, key=lambda row: row["accuracy"]) for pick in (max, min))
    sizes, shares = (np.array([row[name] for row in rows]) for name in ("n", "accuracy"))
    equal = np.average(shares, weights=sizes)
    drawn = np.random.default_rng(SEED).binomial(sizes, equal, (samples, len(rows))) / sizes
    return {
        "best": best["group"],
        "worst": worst["group"],
        "accuracy": best["accuracy"] - worst["accuracy"],
        "by_chance": float(np.quantile(np.ptp(drawn, axis=1), 0.95)),
    }


def markdown(report: Mapping[str, Any]) -> str:
    """The section of report.md, or nothing: a table for each column, the largest gap below."""
    if "groups" not in report:
        return ""
    text = f"## Groups\n\nCalibration is at the temperature {report['calibration']:.4g}.\n\n"
    for name, found in report["groups"].items():
        rows = [
            (row["group"], f"{row['n']:,}", f"{row['accuracy']:.1%}",
             "{:.1%} to {:.1%}".format(*row["accuracy_95_interval"]),
             f"{row['expected_calibration_error']:.1%}")
            for row in found["groups"]
        ]  # fmt: skip
        notes = []
        if gap := found["gap"]:
            notes += [
                f"Largest gap: {100 * gap['accuracy']:.1f} points, {gap['best']} against "
                f"{gap['worst']}; between equally hard groups of these sizes 95 % of gaps are "
                f"below {100 * gap['by_chance']:.1f}."
            ]
        if small := [row["group"] for row in found["groups"] if row["n"] < SMALLEST]:
            notes += [f"Left out of it, with fewer than {SMALLEST} images: {', '.join(small)}."]
        if found["without_value"]:
            notes += [f"Without a value: {found['without_value']:,} images."]
        text += f"{table((name, *HEAD), rows)}\n\n{' '.join(notes)}\n\n"
    return text
