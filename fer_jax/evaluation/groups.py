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
from fer_jax.evaluation.metrics import figures
from fer_jax.evaluation.predictions import Predictions

NAMES = ("key", "row", "file")  # the columns that say which image a line is of
SMALLEST = 30  # images; smaller groups take no part in the gap
MOST = 10  # numbers that are groups of their own; more are cut into quartiles
SHOWN = 5  # small groups named in report.md

Columns = dict[str, list[str]]
"""Column -> each image's value, in the order of the records; "" where there is none."""


def read_metadata(path: str, data: Dataset, records: Records) -> Columns:
    """The columns of the CSV for `records` of `data`.

    Its column `key` holds keys as in predictions.npz, `row` rows of fer2013.csv, `file` names of
    image files, whose folder and suffix do not matter. UserError where it has no such column or
    none beside it, and where a line names no image, or one that another line has.
    """
    fields, lines = _read(path)
    by = next((name for name in NAMES if name in fields), None)
    columns = [field for field in fields if field not in NAMES]
    if by is None or not columns or not lines:
        raise UserError(
            f"--groups={path} has {len(lines):,} lines and the columns {', '.join(fields) or '-'}: "
            f"it needs one of {', '.join(NAMES)}, and another to group by"
        )

    # Which image each line is of.
    given, ours = [_name(by, line[by] or "") for line in lines], _names(by, records)
    known = set(ours).union(*(_names(by, part) for part in data.roles.values()))
    unknown = [line[by] for line, one in zip(lines, given, strict=True) if one not in known]
    used = [one for one in ours if one in set(given)]
    if unknown or not used:
        first = f"{by} {unknown[0] if unknown else lines[0][by]!r}"
        raise UserError(
            f"--groups={path}: {len(unknown) or len(lines):,} of its {len(lines):,} lines, first "
            f"{first}, are of no image of the {'data' if unknown else 'scored split'}, such as "
            f"{ours[0]!r}: list its images"
        )
    for names in (given, used):
        twice, count = Counter(names).most_common(1)[0]
        if count > 1:
            raise UserError(f"--groups={path}: {by} {twice!r} means {count} lines or images, not 1")

    place = dict(zip(given, lines, strict=True))
    return {
        name: [(place.get(one, {}).get(name) or "").strip() for one in ours] for name in columns
    }


def _read(path: str) -> tuple[Sequence[str], list[dict[str, Any]]]:
    try:
        with Path(path).expanduser().open(encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream)
            return table.fieldnames or (), list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read --groups={path}: {one_line(error)}") from None


def _names(by: str, records: Records) -> list[str]:
    given = records.rows.tolist() if by == "row" else records.keys
    return [_name(by, str(one)) for one in given]


def _name(by: str, given: str) -> str:
    """As lines and images are compared; "-1", the row that is not known, is no line's."""
    if by == "row":
        return str(int(given)) if given.strip().isdecimal() else f"row {given}"
    return PurePosixPath(given.replace("\\", "/")).stem if by == "file" else given


def measure(columns: Columns, answers: Predictions, samples: int, seed: int) -> dict[str, Any]:
    """The `groups` of report.json: for each column its groups' figures, and the largest gap."""
    found = {}
    for column, values in columns.items():
        rows = [
            {"group": name}
            | figures(answers.probabilities[inside], answers.labels[inside], samples, seed)
            for name, inside in grouped(values).items()
        ]
        found[column] = {
            "unknown": values.count(""),
            "groups": rows,
            "gap": _gap(rows, samples, seed),
        }
    return found


def grouped(values: Sequence[str]) -> dict[str, np.ndarray]:
    """Group -> bool [N]: one for each text or number, quartiles where there are many numbers.

    What is "" belongs to none.
    """
    texts = np.array(values)
    names = sorted(set(values) - {""})
    try:
        numbers = {name: float(name) for name in names}
    except ValueError:
        return {name: texts == name for name in names}
    if len(names) <= MOST or not np.isfinite(list(numbers.values())).all():
        return {name: texts == name for name in sorted(names, key=numbers.__getitem__)}
    amounts = np.array([numbers.get(text, np.nan) for text in values])
    edges = np.unique(np.nanquantile(amounts, (0, 0.25, 0.5, 0.75, 1)))
    part = np.searchsorted(edges[1:-1], amounts, side="right")
    return {
        f"{i + 1}: {low:.4g} to {high:.4g}": (texts != "") & (part == i)
        for i, (low, high) in enumerate(itertools.pairwise(edges))
    }


def _gap(rows: Sequence[Mapping[str, Any]], samples: int, seed: int) -> dict[str, Any] | None:
    """Between the best and the worst group; None where fewer than two are large enough.

    `by_chance`: 95 % of such gaps are smaller between groups of these sizes that are equally hard.
    """
    large = sorted((r for r in rows if r["n"] >= SMALLEST), key=lambda row: row["accuracy"])
    if len(large) < 2:
        return None
    sizes, shares = (np.array([row[name] for row in large]) for name in ("n", "accuracy"))
    equal = np.average(shares, weights=sizes)
    drawn = np.random.default_rng(seed).binomial(sizes, equal, (samples, len(sizes))) / sizes
    return {
        "best": large[-1]["group"],
        "worst": large[0]["group"],
        "accuracy": large[-1]["accuracy"] - large[0]["accuracy"],
        "by_chance": float(np.quantile(np.ptp(drawn, axis=1), 0.95)),
    }


def markdown(groups: Mapping[str, Any]) -> str:
    """A table for each column, with the largest gap below."""
    return "\n\n".join(_column(name, found) for name, found in groups.items())


def _column(name: str, found: Mapping[str, Any]) -> str:
    small = [f"{row['group']} ({row['n']})" for row in found["groups"] if row["n"] < SMALLEST]
    more = f" and {len(small) - SHOWN} more" if len(small) > SHOWN else ""
    gap, notes = found["gap"], []
    if gap:
        notes.append(
            f"Largest gap: {100 * gap['accuracy']:.1f} points, from {gap['worst']} to "
            f"{gap['best']}; between equally hard groups 95 % of gaps are below "
            f"{100 * gap['by_chance']:.1f}."
        )
    if small:
        listed = ", ".join(small[:SHOWN]) + more
        notes.append(f"Fewer than {SMALLEST} images, left out of table and gap: {listed}.")
    if found["unknown"]:
        notes.append(f"Without a value: {found['unknown']:,} images.")
    lines = [
        f"| {name} | images | accuracy | 95 % bootstrap interval | expected calibration error |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in found["groups"]:
        if row["n"] >= SMALLEST:
            low, high = row["accuracy_95_interval"]
            lines.append(
                f"| {row['group']} | {row['n']:,} | {row['accuracy']:.2%} | {low:.2%} to "
                f"{high:.2%} | {row['expected_calibration_error']:.2%} |"
            )
    return "\n".join([*lines, "", *notes]).rstrip()
