"""Writes an audit: report.md and pictures for people, audit.json and lists of keys for programs."""

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.auditing.findings import Findings
from fer_jax.auditing.near_duplicates import NEAR
from fer_jax.auditing.photographs import TRAIN
from fer_jax.errors import UserError
from fer_jax.evaluation import plots
from fer_jax.labels import LABELS

AUDIT_FILE = "audit.json"
PICTURES = {
    "exact_copies.png": "Exact copies, in pairs",
    "near_copies.png": "Near copies, in pairs, from the nearest to the farthest",
    "mirrored_copies.png": "Mirrored copies, in pairs, from the nearest to the farthest",
    "conflicts.png": "One photograph, two labels, in pairs",
    "blank.png": "Blank images",
    "no_face.png": "No face, or none upright, to most of FER+'s voters",
}
OWN = re.compile(r"audit\.json|report\.md|distances\.png|exclude_\w+\.txt|" + "|".join(PICTURES))
SHOWN = 24  # images of a picture
ROWS = 12  # of a table; audit.json has all
SEQUENCES = 0.25
"""Share of images with a near copy from which on they are frames of films; FER2013: 0.11."""
NOTES = f"""\
Names are compared by a linear classifier of train. Folders exchanged alike in every split show only
in the counts and by FER+.

Near copies correlate by {1 - NEAR:g} or more after alignment: one photograph altered, or frames of
one scene. Crops that differ much are not among them. Two labels are only claimed where no part of
the face moves. Lists hold keys of train for `data.exclude`, never of held-out images."""
Facts = Mapping[str, Any]


def check_output(path: str) -> Path:
    """`path` if an audit may be written there; UserError where something else lies there."""
    output = Path(path).expanduser()
    place = next(part for part in (output.absolute(), *output.absolute().parents) if part.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UserError(f"--output={path}: {place} is no directory that can be written to")
    found = {file.name for file in output.iterdir()} if output.is_dir() else set()
    others = [name for name in found if not OWN.fullmatch(name)]
    if others or (found and AUDIT_FILE not in found):
        what = f"it holds {min(others)}" if others else f"it has no {AUDIT_FILE}"
        raise UserError(f"--output={path} is not an earlier audit ({what}): give a new directory")
    return output


def write(findings: Findings, output: Path) -> list[str]:
    """Writes all files, in place of an earlier audit's or not at all -> what to know, in lines.

    UserError where it cannot be written.
    """
    lines = _verdicts(findings.facts)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{output.name}-unfinished-"
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=prefix) as name:
            new = Path(name) / "new"
            new.mkdir()
            _write_files(findings, lines, new)
            if output.exists():
                check_output(str(output))  # nobody may have put something there meanwhile
                output.rename(Path(name) / "old")
            new.rename(output)
    except OSError as error:
        raise UserError(f"cannot write --output={output}: {error.strerror or error}") from None
    return lines


def _write_files(findings: Findings, lines: Sequence[str], folder: Path) -> None:
    for name, groups in findings.shown.items():
        _draw(findings, groups, folder / name)
    texts = {name: "".join(f"{k}\n" for k in keys) for name, keys in findings.lists.items()}
    texts["report.md"] = _markdown(findings, lines)
    texts[AUDIT_FILE] = json.dumps(findings.facts, indent=1, ensure_ascii=False) + "\n"
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _draw(findings: Findings, groups: np.ndarray, path: Path) -> None:
    """Groups of images, evenly spaced among all, with split, class and the end of the name."""
    pool = findings.pool
    spread = np.linspace(0, len(groups) - 1, min(SHOWN // len(groups[0]), len(groups)))
    indices = groups[spread.round().astype(int)].ravel()
    names = [pool.keys[i].rsplit("/")[-1][-20:] for i in indices]
    titles = [
        f"{pool.splits[i]} {LABELS[pool.labels[i]]}\n{name}"
        for i, name in zip(indices, names, strict=True)
    ]
    plots.contact_sheet(pool.images[indices], titles, path, columns=6, heading=PICTURES[path.name])


# ---- in words ----------------------------------------------------------------------------------


def _verdicts(facts: Facts) -> list[str]:
    """What to know, one line each, mistakes first."""
    count = {name: f"{len(found):,}" for name, found in facts.items() if isinstance(found, list)}
    exact = sum(map(len, facts["exact_copies"]))
    return [
        *_exchanged(facts),
        *_classes(facts),
        *_leaked(facts),
        f"{count['exact_copies']} groups of exact copies ({exact:,} images), "
        f"{count['near_copies']} near pairs beside them, {count['mirrored_copies']} mirrored",
        *_sequences(facts),
        f"{count['conflicts']} photographs have copies with two labels",
        f"{count['unreadable']} unreadable files, {count['blank']} blank images",
        *_voted(facts["ferplus"]),
    ]


def _exchanged(facts: Facts) -> list[str]:
    """Everything that says that names are exchanged: pictures, votes, counts."""
    votes, known = facts["ferplus"] or {"names": {}}, facts["known"]
    found = [
        (split, by, fit["looks_like"])
        for by, fits in (("a classifier of train", facts["names"]), ("FER+", votes["names"]))
        for split, fit in fits.items()
        if fit and fit["exchanged"]
    ]
    found += [
        (s, f"the counts of {known['name']}", names) for s, names in known["exchanged"].items()
    ]
    return [
        f"EXCHANGED NAMES in {split}, by {by}: "
        + ", ".join(f"what is called {called} is {other}" for called, other in names.items())
        for split, by, names in found
    ]


def _classes(facts: Facts) -> list[str]:
    """The known data set, if it is one, and the balance of the classes."""
    known, total = facts["known"], np.sum([*facts["counts"].values()], axis=0)
    apart = sum(abs(n) for part in known["differences"].values() for n in part)
    name = f"like {known['name']}" if apart else known["name"] or "no data set that is known"
    name += f", without its {', '.join(known['missing'])}" if known["missing"] else ""
    name += f", but {apart:,} images more or fewer" if apart else ""

    order = [int(i) for i in np.argsort(total, kind="stable") if total[i]]
    fewest, most = order[0], order[-1]
    absent = ", ".join(LABELS[i] for i in np.flatnonzero(total == 0))
    return [
        f"by its counts {name}",
        f"{LABELS[most]} has {total[most] / total[fewest]:.1f} times the images of {LABELS[fewest]}"
        + (f"; there is no image of {absent}" if absent else ""),
    ]


def _leaked(facts: Facts) -> list[str]:
    """Held-out images that training sees."""
    leaks = facts["leaks"]
    return [
        f"{leaks['exact'][split]:,} of {sum(counts):,} images of {split} have an exact copy in "
        f"train, {leaks['near'][split]:,} an exact or near one, {leaks['mirrored'][split]:,} if "
        "mirrored ones count"
        for split, counts in facts["counts"].items()
        if split != TRAIN and TRAIN in facts["counts"]
    ]


def _sequences(facts: Facts) -> list[str]:
    """Copies by kind of data: frames of films, classes padded with altered copies."""
    lines, named = [], facts["copies_by_name"]
    near = {(p[i]["split"], p[i]["key"]) for p in facts["near_copies"] for i in ("first", "second")}
    share = len(near) / sum(map(sum, facts["counts"].values()))
    if share > SEQUENCES:
        lines.append(
            f"{share:.0%} of the images have a near copy, as frames of films: split them by person"
        )
    if named:
        classes = Counter(made["label"] for _, made in named)
        where = ", ".join(f"{label} {count:,}" for label, count in classes.most_common())
        lines.append(
            f"{len(named):,} images are made of others, as their names say ({where}), "
            f"such as {named[0][1]['key']}"
        )
    return lines


def _voted(votes: Facts | None) -> list[str]:
    if votes is None:
        return []
    if votes["images"] == 0:
        return ["FER+ cannot be joined: the rows of fer2013.csv are not known in this layout"]
    share = votes["label_among_most_voted"] / max(votes["judged"], 1)
    return [
        f"FER+: {len(votes['no_face']):,} of {votes['images']:,} images show no face; the label is "
        f"among the most voted for {share:.1%} of the others"
    ]


def _markdown(findings: Findings, lines: Sequence[str]) -> str:
    """The report, with the pictures beside it."""
    facts = findings.facts
    numbers = [(split, *counts, sum(counts)) for split, counts in facts["counts"].items()]
    odd = [("unreadable", f"`{row['file']}`: {row['reason']}") for row in facts["unreadable"]]
    odd += [("blank", _image(image)) for image in facts["blank"]]
    odd += [("labels", ", ".join(map(_image, found["images"]))) for found in facts["conflicts"]]
    parts = [
        f"# Audit of `{facts['data']}`",
        "\n".join(f"- {line}" for line in lines),
        _table("Images per class", ("split", *facts["label_names"], "all"), numbers),
        _table("Unreadable, blank, two labels", ("what", "which"), odd),
        _table("Lists", ("file", "keys"), [*facts["lists"].items()]),
        NOTES,
        *(f"![{PICTURES[name]}]({name})" for name in findings.shown),
    ]
    return "\n\n".join(parts) + "\n"


def _image(image: Facts) -> str:
    return f"{image['split']} `{image['key']}` {image['label']}"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A section with the first rows, or that there is none."""
    if not rows:
        return f"## {title}\n\nNone."
    cells = [[f"{c:,}" if isinstance(c, int) else str(c) for c in row] for row in rows[:ROWS]]
    lines = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *cells)]
    more = f"\n\nand {len(rows) - ROWS:,} more in {AUDIT_FILE}" if len(rows) > ROWS else ""
    return f"## {title}\n\n" + "\n".join(lines) + more
