"""Examines a data set and writes what was found: report.md and pictures, audit.json, key lists."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.auditing import conventions
from fer_jax.auditing.copies import NEAR, TRAIN, Pool, find_copies, gather, leaking
from fer_jax.data.records import Dataset, fingerprint
from fer_jax.evaluation import plots
from fer_jax.labels import LABELS
from fer_jax.outputs import filled

AUDIT_FILE = "audit.json"
PICTURES = {
    "exact_copies": "Exact copies, in pairs",
    "near_copies": "Near copies, in pairs, from the nearest to the farthest",
    "mirrored_copies": "Mirrored copies, in pairs, from the nearest to the farthest",
    "conflicts": "One photograph, two labels, in pairs",
    "blank": "Blank images",
}
SHOWN = 24  # images of a picture
LONG = re.compile(".+(?=.{20}$)")  # what there is no room for of a name
SEQUENCES = 0.25  # share with a near copy from which on they are frames of films; FER2013: 0.11
NOTES = f"""\
Names are compared by a linear classifier of train: folders exchanged alike in every split do not
show.

Near copies correlate by {1 - NEAR:g} or more after alignment: one photograph altered, or frames of
one scene. Crops that differ much are not among them. Two labels are only claimed where no part of
the face moves. Lists hold keys of train for `data.exclude`, never of held-out images."""

Facts = dict[str, Any]
Groups = Mapping[str, list[np.ndarray]]  # kind of finding -> places in the pool, int [n] each


def examine(dataset: Dataset, data: str) -> tuple[Facts, Pool, Groups]:
    """Look at every image of `dataset`, read from the path `data`.

    -> what audit.json holds, all images, and groups of them by what was found.
    """
    pool = gather(dataset)
    groups = find_copies(pool)
    kinds = {"exact": "exact_copies", "near": "photographs", "mirrored": "with_mirrored"}
    leaks = {kind: [np.flatnonzero(leaking(pool, groups[name]))] for kind, name in kinds.items()}
    listed: Groups = {
        "exact_copies_of_validation": leaks["exact"],
        "copies_of_validation": leaks["mirrored"],
        "copies_by_name": [made[1:] for made in groups["copies_by_name"]],
        "conflicts": groups["conflicts"],
        "blank": groups["blank"],
    }
    shown = ~np.isin(np.arange(len(pool)), groups["blank"])
    parts = {split: (pool.splits == split) & shown for split in dataset.roles}
    leaked = {kind: {s: pool.keys_in(s, found) for s in parts} for kind, found in leaks.items()}
    train = (pool.splits == TRAIN) & shown
    facts: Facts = {
        "data": data,
        "described": dataset.describe(),
        "fingerprints": fingerprint(dataset),
        "counts": {split: part.counts().tolist() for split, part in dataset.roles.items()},
        "unreadable": [{"file": name, "reason": why} for name, why in dataset.unreadable],
        "names": {
            split: conventions.compare(
                pool.images[train], pool.labels[train], pool.images[part], pool.labels[part]
            )
            for split, part in parts.items()
            if split != TRAIN and TRAIN in parts
        },
        "leaks": {kind: {s: len(keys) for s, keys in of.items()} for kind, of in leaked.items()},
        "leaking": leaked,
        "lists": {f"exclude_{n}.txt": pool.keys_in(TRAIN, found) for n, found in listed.items()},
    }
    facts |= {name: [pool.names(members) for members in found] for name, found in groups.items()}
    return facts, pool, groups


def write(facts: Facts, pool: Pool, groups: Groups, output: Path) -> list[str]:
    """Writes all files, in place of an earlier audit's -> what to know, in lines."""
    lines, shown = _verdicts(facts), [name for name in PICTURES if groups.get(name)]
    parts = [
        f"# Audit of `{facts['data']}`",
        "\n".join(f"- {line}" for line in lines),
        f"```\n{facts['described']}\n```",
        "\n".join(f"- `{name}`: {len(keys):,} keys" for name, keys in facts["lists"].items()),
        NOTES,
        *(f"![{PICTURES[name]}]({name}.png)" for name in shown),
    ]
    texts = {name: "".join(f"{k}\n" for k in keys) for name, keys in facts["lists"].items()}
    texts["report.md"] = "\n\n".join(parts) + "\n"
    texts[AUDIT_FILE] = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    with filled(output, AUDIT_FILE, [f"{name}.png" for name in PICTURES]) as new:
        for picture in shown:
            _draw(pool, groups[picture], PICTURES[picture], new / f"{picture}.png")
        for file, text in texts.items():
            (new / file).write_text(text, encoding="utf-8")
    return lines


def _draw(pool: Pool, groups: list[np.ndarray], heading: str, path: Path) -> None:
    """Groups, evenly spaced among all: one image, or two, of different labels if there are such."""
    columns = min(2, len(groups[0]))
    spread = np.linspace(0, len(groups) - 1, min(SHOWN // columns, len(groups))).round().astype(int)
    indices = []
    for members in (groups[i] for i in spread):
        by_label = members[np.argsort(pool.labels[members], kind="stable")]
        indices += [by_label[0], by_label[-1]][:columns]
    titles = [
        f"{pool.splits[i]} {LABELS[pool.labels[i]]}\n{LONG.sub('…', pool.keys[i].rsplit('/')[-1])}"
        for i in indices
    ]
    plots.contact_sheet(pool.images[indices][..., None], titles, path, heading)


def _verdicts(facts: Facts) -> list[str]:
    """What to know, one line each, mistakes first."""
    leaks, counts = facts["leaks"], facts["counts"]
    lines = [
        f"EXCHANGED NAMES in {split}, by a classifier of train: "
        + ", ".join(f"what is called {a} is {b}" for a, b in fit["looks_like"].items())
        for split, fit in facts["names"].items()
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
        where = ", ".join(f"{label} {count:,} of {total[label]:,}" for label, count in classes)
        made = f"{len(named):,} images are made of others, as their names say ({where})"
        lines.append(f"{made}, such as {named[0][1]['key']}")
    lines.append(f"{n['conflicts']} photographs have copies with two labels")
    return [*lines, f"{n['unreadable']} unreadable files, {n['blank']} blank images"]
