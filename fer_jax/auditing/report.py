"""Examines a data set and writes what was found: report.md and pictures, audit.json, key lists."""

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.auditing import conventions
from fer_jax.auditing.copies import TRAIN, Copies, Pool, find_copies, gather, leaking
from fer_jax.auditing.near_duplicates import NEAR, Pairs
from fer_jax.data.records import Dataset, fingerprint
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
OWN = re.compile(r"audit\.json|report\.md|exclude_\w+\.txt|" + "|".join(PICTURES))
SHOWN = 24  # images of a picture
SEQUENCES = 0.25  # share with a near copy from which on they are frames of films; FER2013: 0.11
NOTES = f"""\
Names are compared by a linear classifier of train. Folders exchanged alike in every split show only
by FER+.

Near copies correlate by {1 - NEAR:g} or more after alignment: one photograph altered, or frames of
one scene. Crops that differ much are not among them. Two labels are only claimed where no part of
the face moves. Lists hold keys of train for `data.exclude`, never of held-out images."""

Facts = dict[str, Any]
Places = np.ndarray  # int [n], in the pool


@dataclass(frozen=True)
class Findings:
    """What was found, in the three forms in which it is written."""

    facts: Facts  # what audit.json holds
    lists: dict[str, list[str]]  # file name -> keys of train that one may want to train without
    shown: dict[str, np.ndarray]  # picture -> places in `pool`, int [groups, images side by side]
    pool: Pool
    described: str  # how the data were read


def examine(
    dataset: Dataset, data: str, ferplus: np.ndarray | None, say: Callable[[str], None]
) -> Findings:
    """Look at every image of `dataset`, read from the path `data`.

    `ferplus` are the votes int [rows, 10], if at hand.
    """
    pool = gather(dataset)
    votes, no_face = None, np.zeros(0, int)
    if ferplus is not None:
        mask, votes = conventions.judge(ferplus, pool)
        no_face = np.flatnonzero(mask)
        votes["no_face"] = pool.names(no_face)
    say(f"comparing {len(pool):,} images with each other")
    copies, blank = find_copies(pool), pool.blank()
    conflicts = [found for found in copies.unchanged if len(set(pool.labels[found])) > 1]
    kinds = {"exact": copies.exact, "near": copies.photographs, "mirrored": copies.with_mirrored}
    leaks = {kind: np.flatnonzero(leaking(pool, found)) for kind, found in kinds.items()}

    listed = {
        "exclude_exact_copies_of_validation.txt": leaks["exact"],
        "exclude_copies_of_validation.txt": leaks["mirrored"],
        "exclude_copies_by_name.txt": copies.named[:, 1],
        "exclude_conflicts.txt": np.concatenate([np.zeros(0, int), *conflicts]),
        "exclude_blank.txt": np.flatnonzero(blank),
    } | ({} if votes is None else {"exclude_no_face.txt": no_face})
    lists = {name: sorted(set(pool.keys_in(TRAIN, places))) for name, places in listed.items()}
    shown: dict[str, Sequence[Any] | np.ndarray] = {
        "exact_copies.png": [(found[0], found[-1]) for found in copies.exact],
        "near_copies.png": copies.near.members,
        "mirrored_copies.png": copies.mirrored.members,
        "conflicts.png": [_two_labels(pool, found) for found in conflicts],
        "blank.png": np.flatnonzero(blank)[:, None],
        "no_face.png": no_face[:, None],
    }
    facts = {
        "made_by": "fer_jax.audit",
        "data": data,
        "layout": dataset.layout,
        "fingerprints": fingerprint(dataset),
        "label_names": list(LABELS),
        "counts": {role: part.counts().tolist() for role, part in dataset.roles.items()},
        "ignored": dataset.ignored,
        "notes": list(dataset.notes),
        "unreadable": [{"file": name, "reason": why} for name, why in dataset.unreadable],
        "blank": pool.names(np.flatnonzero(blank)),
        "names": _compare_names(pool, blank),
        "ferplus": votes,
        "lists": {name: len(keys) for name, keys in lists.items()},
        **_of_copies(pool, copies, conflicts, leaks),
    }
    pictures = {name: np.array(found) for name, found in shown.items() if len(found)}
    return Findings(facts, lists, pictures, pool, dataset.describe())


def _of_copies(
    pool: Pool, copies: Copies, conflicts: Sequence[Places], leaks: Mapping[str, Places]
) -> Facts:
    def pairs(found: Pairs) -> list[Facts]:
        named = [pool.names(members) for members in found.members]
        return [
            {"first": first, "second": second, "distance": round(distance, 5)}
            for (first, second), distance in zip(named, found.distances.tolist(), strict=True)
        ]

    splits = list(dict.fromkeys(pool.splits))
    return {
        "exact_copies": [pool.names(members) for members in copies.exact],
        "near_copies": pairs(copies.near),
        "mirrored_copies": pairs(copies.mirrored),
        "copies_by_name": [pool.names(pair) for pair in copies.named],
        "photographs": [pool.names(members) for members in copies.photographs],
        "conflicts": [
            {"exact": len(set(pool.copies[found])) == 1, "images": pool.names(found)}
            for found in conflicts
        ],
        "leaks": {
            kind: {split: len(pool.keys_in(split, places)) for split in splits}
            for kind, places in leaks.items()
        },
        "leaking": {split: pool.keys_in(split, leaks["mirrored"]) for split in splits},
    }


def _compare_names(pool: Pool, blank: np.ndarray) -> dict[str, conventions.Fit | None]:
    """Split other than train -> how its class names fit those of train; empty without train."""
    parts = {split: pool.within(split) & ~blank for split in dict.fromkeys(pool.splits)}
    train = parts.pop(TRAIN, None)
    if train is None:
        return {}
    learned = pool.images[train], pool.labels[train]
    return {
        split: conventions.compare(*learned, pool.images[part], pool.labels[part])
        for split, part in parts.items()
    }


def _two_labels(pool: Pool, members: Places) -> tuple[int, int]:
    """The first image of a group and the first that is called otherwise."""
    labels = pool.labels[members]
    return members[0], members[(labels != labels[0]).argmax()]


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
    facts, lines = findings.facts, _verdicts(findings.facts)
    texts = {name: "".join(f"{k}\n" for k in keys) for name, keys in findings.lists.items()}
    texts[AUDIT_FILE] = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    parts = [
        f"# Audit of `{facts['data']}`",
        "\n".join(f"- {line}" for line in lines),
        f"```\n{findings.described}\n```",
        "\n".join(f"- `{name}`: {count:,} keys" for name, count in facts["lists"].items()),
        NOTES,
        *(f"![{PICTURES[name]}]({name})" for name in findings.shown),
    ]
    texts["report.md"] = "\n\n".join(parts) + "\n"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{output.name}-unfinished-"
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=prefix) as name:
            new = Path(name) / "new"
            new.mkdir()
            for picture, groups in findings.shown.items():
                _draw(findings.pool, groups, new / picture)
            for file, text in texts.items():
                (new / file).write_text(text, encoding="utf-8")
            if output.exists():
                check_output(str(output))  # nobody may have put something there meanwhile
                output.rename(Path(name) / "old")
            new.rename(output)
    except OSError as error:
        raise UserError(f"cannot write --output={output}: {error.strerror or error}") from None
    return lines


def _draw(pool: Pool, groups: np.ndarray, path: Path) -> None:
    """Groups of images, evenly spaced among all, with split, class and the end of the name."""
    spread = np.linspace(0, len(groups) - 1, min(SHOWN // len(groups[0]), len(groups)))
    indices = groups[spread.round().astype(int)].ravel()
    titles = [
        f"{pool.splits[i]} {LABELS[pool.labels[i]]}\n{pool.keys[i].rsplit('/')[-1][-20:]}"
        for i in indices
    ]
    plots.contact_sheet(pool.images[indices], titles, path, columns=6, heading=PICTURES[path.name])


def _verdicts(facts: Facts) -> list[str]:
    """What to know, one line each, mistakes first."""
    votes, leaks, counts = facts["ferplus"], facts["leaks"], facts["counts"]
    fits = {"a classifier of train": facts["names"]} | ({"FER+": votes["names"]} if votes else {})
    lines = [
        f"EXCHANGED NAMES in {split}, by {by}: "
        + ", ".join(f"what is called {a} is {b}" for a, b in fit["looks_like"].items())
        for by, found in fits.items()
        for split, fit in found.items()
        if fit and fit["exchanged"]
    ]
    total = {name: sum(n) for name, *n in zip(LABELS, *counts.values(), strict=True)}
    present = {name: n for name, n in total.items() if n}
    fewest, most = min(present, key=present.__getitem__), max(present, key=present.__getitem__)
    balance = f"{most} has {total[most] / total[fewest]:.1f} times the images of {fewest}"
    absent = ", ".join(name for name in total if name not in present)
    lines.append(balance + (f"; there is no image of {absent}" if absent else ""))
    lines += [
        f"{leaks['exact'][split]:,} of {sum(counts[split]):,} images of {split} have an exact copy "
        f"in train, {leaks['near'][split]:,} an exact or near one, {leaks['mirrored'][split]:,} if "
        "mirrored ones count"
        for split in counts
        if split != TRAIN and TRAIN in counts
    ]
    n = {name: f"{len(found):,}" for name, found in facts.items() if isinstance(found, list)}
    exact = sum(map(len, facts["exact_copies"]))
    return [
        *lines,
        f"{n['exact_copies']} groups of exact copies ({exact:,} images), "
        f"{n['near_copies']} near pairs beside them, {n['mirrored_copies']} mirrored",
        *_kinds_of_data(facts),
        f"{n['conflicts']} photographs have copies with two labels",
        f"{n['unreadable']} unreadable files, {n['blank']} blank images",
        *([_voted(votes)] if votes else []),
    ]


def _kinds_of_data(facts: Facts) -> list[str]:
    """Frames of films, and classes padded with altered copies."""
    lines, named = [], facts["copies_by_name"]
    near = {(p[i]["split"], p[i]["key"]) for p in facts["near_copies"] for i in ("first", "second")}
    share = len(near) / sum(map(sum, facts["counts"].values()))
    if share > SEQUENCES:
        lines.append(
            f"{share:.0%} of the images have a near copy, as frames of films: split them by person"
        )
    if named:
        classes = Counter(made["label"] for _, made in named).most_common()
        where = ", ".join(f"{label} {count:,}" for label, count in classes)
        lines.append(
            f"{len(named):,} images are made of others, as their names say ({where}), "
            f"such as {named[0][1]['key']}"
        )
    return lines


def _voted(votes: Facts) -> str:
    if not votes["images"]:
        return "FER+ cannot be joined: the rows of fer2013.csv are not known in this layout"
    share = votes["label_among_most_voted"] / max(votes["judged"], 1)
    return (
        f"FER+: {len(votes['no_face']):,} of {votes['images']:,} images show no face; the label is "
        f"among the most voted for {share:.1%} of the others"
    )
