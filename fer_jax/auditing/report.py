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
from fer_jax.auditing.copies import NEAR, TRAIN, Pool, find_copies, gather, leaking
from fer_jax.data.records import Dataset, fingerprint
from fer_jax.errors import UserError
from fer_jax.evaluation import plots
from fer_jax.labels import LABELS

AUDIT_FILE = "audit.json"
PICTURES = {
    "exact_copies": "Exact copies, in pairs",
    "near_copies": "Near copies, in pairs, from the nearest to the farthest",
    "mirrored_copies": "Mirrored copies, in pairs, from the nearest to the farthest",
    "conflicts": "One photograph, two labels, in pairs",
    "blank": "Blank images",
    "no_face": "No face, or none upright, to most of FER+'s voters",
}
OWN = re.compile(rf"audit\.json|report\.md|exclude_\w+\.txt|({'|'.join(PICTURES)})\.png")
SHOWN = 24  # images of a picture
SEQUENCES = 0.25  # share with a near copy from which on they are frames of films; FER2013: 0.11
NOTES = f"""\
Names are compared by a linear classifier of train. Folders exchanged alike in every split show only
by FER+.

Near copies correlate by {1 - NEAR:g} or more after alignment: one photograph altered, or frames of
one scene. Crops that differ much are not among them. Two labels are only claimed where no part of
the face moves. Lists hold keys of train for `data.exclude`, never of held-out images."""

Facts = dict[str, Any]
Groups = Sequence[np.ndarray]  # int [n] each, places in the pool


@dataclass(frozen=True)
class Findings:
    """What was found, in the forms in which it is written."""

    described: str  # how the data were read
    facts: Facts  # what audit.json holds
    lists: dict[str, list[str]]  # file name -> keys of train that one may want to train without
    pool: Pool
    groups: Mapping[str, Groups]  # kind of finding -> images that belong together


def examine(
    dataset: Dataset, data: str, ferplus: np.ndarray | None, say: Callable[[str], None]
) -> Findings:
    """Look at every image of `dataset`, read from the path `data`.

    `ferplus` are the votes int [rows, 10], if at hand.
    """
    pool = gather(dataset)
    splits = {split: pool.within(split) for split in dict.fromkeys(pool.splits)}
    no_face, votes = (None, None) if ferplus is None else conventions.judge(ferplus, pool)
    say(f"comparing {len(pool):,} images with each other")
    copies = find_copies(pool)
    kinds = {"exact": copies.exact, "near": copies.photographs, "mirrored": copies.with_mirrored}
    leaks = {kind: leaking(pool, found) for kind, found in kinds.items()}
    groups: dict[str, Groups] = {
        "exact_copies": copies.exact,
        "near_copies": [*copies.near.members],
        "mirrored_copies": [*copies.mirrored.members],
        "copies_by_name": [*copies.named],
        "photographs": copies.photographs,
        "conflicts": [found for found in copies.unchanged if len(set(pool.labels[found])) > 1],
        "blank": [*np.flatnonzero(pool.blank())[:, None]],
    } | ({} if no_face is None else {"no_face": [*np.flatnonzero(no_face)[:, None]]})

    listed: dict[str, Groups] = {
        "exact_copies_of_validation": [np.flatnonzero(leaks["exact"])],
        "copies_of_validation": [np.flatnonzero(leaks["mirrored"])],
        "copies_by_name": [copies.named[:, 1]],
        **{name: groups[name] for name in ("conflicts", "blank", "no_face") if name in groups},
    }
    lists = {
        f"exclude_{name}.txt": sorted({k for part in found for k in pool.keys_in(TRAIN, part)})
        for name, found in listed.items()
    }
    facts = _of_dataset(dataset, data) | {
        "names": _compare_names(pool, splits),
        "ferplus": votes,
        "leaks": {
            kind: {split: int((mask & inside).sum()) for split, inside in splits.items()}
            for kind, mask in leaks.items()
        },
        "leaking": {
            split: pool.keys_in(split, np.flatnonzero(leaks["mirrored"])) for split in splits
        },
        "lists": {name: len(keys) for name, keys in lists.items()},
        **{name: [pool.names(members) for members in found] for name, found in groups.items()},
    }
    return Findings(dataset.describe(), facts, lists, pool, groups)


def _of_dataset(dataset: Dataset, data: str) -> Facts:
    return {
        "made_by": "fer_jax.audit",
        "data": data,
        "layout": dataset.layout,
        "fingerprints": fingerprint(dataset),
        "label_names": list(LABELS),
        "counts": {role: part.counts().tolist() for role, part in dataset.roles.items()},
        "ignored": dataset.ignored,
        "notes": list(dataset.notes),
        "unreadable": [{"file": name, "reason": why} for name, why in dataset.unreadable],
    }


def _compare_names(
    pool: Pool, splits: Mapping[str, np.ndarray]
) -> dict[str, conventions.Fit | None]:
    """Split other than train -> how its class names fit those of train; empty without train."""
    parts = {split: inside & ~pool.blank() for split, inside in splits.items()}
    train = parts.pop(TRAIN, None)
    if train is None:
        return {}
    learned = pool.images[train], pool.labels[train]
    return {
        split: conventions.compare(*learned, pool.images[part], pool.labels[part])
        for split, part in parts.items()
    }


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
    shown = [name for name in PICTURES if findings.groups.get(name)]
    parts = [
        f"# Audit of `{facts['data']}`",
        "\n".join(f"- {line}" for line in lines),
        f"```\n{findings.described}\n```",
        "\n".join(f"- `{name}`: {count:,} keys" for name, count in facts["lists"].items()),
        NOTES,
        *(f"![{PICTURES[name]}]({name}.png)" for name in shown),
    ]
    texts = {name: "".join(f"{k}\n" for k in keys) for name, keys in findings.lists.items()}
    texts["report.md"] = "\n\n".join(parts) + "\n"
    texts[AUDIT_FILE] = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{output.name}-unfinished-"
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=prefix) as name:
            new = Path(name) / "new"
            new.mkdir()
            for picture in shown:
                _draw(findings.pool, findings.groups[picture], PICTURES[picture], new / picture)
            for file, text in texts.items():
                (new / file).write_text(text, encoding="utf-8")
            if output.exists():
                check_output(str(output))  # nobody may have put something there meanwhile
                output.rename(Path(name) / "old")
            new.rename(output)
    except OSError as error:
        raise UserError(f"cannot write --output={output}: {error.strerror or error}") from None
    return lines


def _draw(pool: Pool, groups: Groups, heading: str, path: Path) -> None:
    """Groups, evenly spaced among all: one image, or two, of different labels if there are such."""
    columns = min(2, len(groups[0]))
    spread = np.linspace(0, len(groups) - 1, min(SHOWN // columns, len(groups))).round().astype(int)
    indices = []
    for members in (groups[i] for i in spread):
        by_label = members[np.argsort(pool.labels[members], kind="stable")]
        indices += [by_label[0], by_label[-1]][:columns]
    titles = [
        f"{pool.splits[i]} {LABELS[pool.labels[i]]}\n{pool.keys[i].rsplit('/')[-1][-20:]}"
        for i in indices
    ]
    place = path.with_suffix(".png")
    plots.contact_sheet(pool.images[indices], titles, place, columns=6, heading=heading)


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
    by_size = sorted(filter(total.get, LABELS), key=total.__getitem__)
    fewest, most, absent = by_size[0], by_size[-1], [name for name in LABELS if not total[name]]
    balance = f"{most} has {total[most] / total[fewest]:.1f} times the images of {fewest}"
    lines.append(balance + (f"; there is no image of {', '.join(absent)}" if absent else ""))
    lines += [
        f"{leaks['exact'][split]:,} of {sum(counts[split]):,} images of {split} have an exact copy "
        f"in train, {leaks['near'][split]:,} an exact or near one, {leaks['mirrored'][split]:,} if "
        "mirrored ones count"
        for split in counts
        if split != TRAIN and TRAIN in counts
    ]

    n = {name: f"{len(found):,}" for name, found in facts.items() if isinstance(found, list)}
    exact, near = (facts[name] for name in ("exact_copies", "near_copies"))
    lines.append(
        f"{n['exact_copies']} groups of exact copies ({sum(map(len, exact)):,} images), "
        f"{n['near_copies']} near pairs beside them, {n['mirrored_copies']} mirrored"
    )
    share = len({(i["split"], i["key"]) for pair in near for i in pair}) / sum(total.values())
    if share > SEQUENCES:
        films = "have a near copy, as frames of films: split them by person"
        lines.append(f"{share:.0%} of the images {films}")
    if named := facts["copies_by_name"]:
        classes = Counter(made["label"] for _, made in named).most_common()
        where = ", ".join(f"{label} {count:,}" for label, count in classes)
        example = f"such as {named[0][1]['key']}"
        lines.append(
            f"{len(named):,} images are made of others, as their names say ({where}), {example}"
        )
    lines.append(f"{n['conflicts']} photographs have copies with two labels")
    lines.append(f"{n['unreadable']} unreadable files, {n['blank']} blank images")
    return [*lines, *([_voted(votes, n["no_face"])] if votes else [])]


def _voted(votes: Facts, no_face: str) -> str:
    if not votes["images"]:
        return "FER+ cannot be joined: the rows of fer2013.csv are not known in this layout"
    share = votes["label_among_most_voted"] / max(votes["judged"], 1)
    return (
        f"FER+: {no_face} of {votes['images']:,} images show no face; the label is "
        f"among the most voted for {share:.1%} of the others"
    )
