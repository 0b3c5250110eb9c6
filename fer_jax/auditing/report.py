"""Writes an audit: report.md and pictures for people, audit.json and lists of keys for programs."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer_jax.auditing import pictures, text
from fer_jax.auditing.conventions import Fit
from fer_jax.auditing.findings import Findings
from fer_jax.auditing.near_duplicates import MOST, NEAR, Pairs
from fer_jax.auditing.pool import Pool
from fer_jax.data.sources import fingerprint
from fer_jax.errors import UserError
from fer_jax.labels import LABELS

AUDIT_FILE = "audit.json"
LISTS = (
    "exclude_exact_copies_of_validation.txt",
    "exclude_copies_of_validation.txt",
    "exclude_conflicts.txt",
    "exclude_blank.txt",
    "exclude_no_face.txt",
)
FILES = frozenset({AUDIT_FILE, "report.md", *LISTS, *pictures.PICTURES})
DIGITS = 5


def check_output(path: str) -> Path:
    """`path` if an audit may be written there; UserError where something else lies there."""
    output = Path(path).expanduser()
    place = next(part for part in (output.absolute(), *output.absolute().parents) if part.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UserError(f"--output={path}: {place} is no directory that can be written to")
    found = {file.name for file in output.iterdir()} if output.is_dir() else set()
    strangers = found - FILES
    if strangers or (found and AUDIT_FILE not in found):
        what = f"it holds {min(strangers)}" if strangers else f"it has no {AUDIT_FILE}"
        raise UserError(f"--output={path} is not an earlier audit ({what}): give a new directory")
    return output


def write(findings: Findings, data: str, output: Path) -> dict[str, Any]:
    """Writes all files, in place of an earlier audit's or not at all; what audit.json holds.

    UserError where it cannot be written.
    """
    facts = collect(findings, data)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=output.parent, prefix=f".{output.name}-unfinished-"
        ) as name:
            new = Path(name) / "new"
            new.mkdir()
            _write_files(findings, facts, new)
            if output.exists():
                check_output(str(output))  # nobody may have put something there meanwhile
                output.rename(Path(name) / "old")
            new.rename(output)
    except OSError as error:
        raise UserError(f"cannot write --output={output}: {error.strerror or error}") from None
    return facts


def _write_files(findings: Findings, facts: dict[str, Any], folder: Path) -> None:
    for name, keys in findings.exclusions().items():
        (folder / name).write_text("".join(f"{key}\n" for key in keys), encoding="utf-8")
    drawn = pictures.draw(findings, folder)
    (folder / "report.md").write_text(text.markdown(facts, drawn), encoding="utf-8")
    body = json.dumps(facts, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    (folder / AUDIT_FILE).write_text(body, encoding="utf-8")


def collect(findings: Findings, data: str) -> dict[str, Any]:
    """What audit.json holds: plain values only."""
    dataset, pool, copies = findings.dataset, findings.pool, findings.copies
    return {
        "made_by": "fer_jax.audit",
        "data": data,
        "layout": dataset.layout,
        "fingerprints": fingerprint(dataset),
        "label_names": list(LABELS),
        "counts": {role: part.counts().tolist() for role, part in dataset.roles.items()},
        "known": _likeness(findings),
        "ignored": dataset.ignored,
        "notes": list(dataset.notes),
        "unreadable": [{"file": name, "reason": why} for name, why in dataset.unreadable],
        "blank": pool.names([i for i in range(len(pool)) if findings.blank[i]]),
        "names": {split: _fit(fit) for split, fit in findings.fits.items()},
        "exact_copies": [pool.names(members) for members in copies.exact],
        "near_copies": _pairs(pool, copies.near),
        "mirrored_copies": _pairs(pool, copies.mirrored),
        "photographs": [pool.names(members) for members in copies.photographs],
        "conflicts": [
            {"exact": len(set(pool.copies[members].tolist())) == 1, "images": pool.names(members)}
            for members in findings.conflicts
        ],
        "leaks": _leaks(findings),
        "near_limit": NEAR,
        "compared": len(copies.compared.distances),
        "all_compared": max(map(_count, (copies.compared, copies.compared_mirrored))) < MOST,
        "made_copies": {
            name: {
                "images": len(values),
                "largest": round(float(values.max(initial=0)), DIGITS),
                "beyond_limit": int((values > NEAR).sum()),
            }
            for name, values in findings.altered.items()
        },
        "ferplus": _judgement(findings),
        "lists": {name: len(keys) for name, keys in findings.exclusions().items()},
    }


def _likeness(findings: Findings) -> dict[str, Any]:
    likeness = findings.likeness
    return {
        "name": likeness.name,
        "same": likeness.same,
        "differences": {split: list(part) for split, part in likeness.differences.items()},
        "missing": list(likeness.missing),
        "exchanged": likeness.exchanged,
    }


def _fit(fit: Fit | None) -> dict[str, Any] | None:
    if fit is None:
        return None
    return {
        "verdict": "exchanged" if fit.exchanged else "agree" if fit.agreed else "undecided",
        "looks_like": fit.moved,
        "gain_in_standard_errors": round(fit.gain, 2),
        "margin_in_standard_errors": round(fit.margin, 2),
        "runner_up_differs_in": list(fit.unsure),
    }


def _pairs(pool: Pool, pairs: Pairs) -> list[dict[str, Any]]:
    return [
        {"first": pool.name(i), "second": pool.name(j), "distance": round(float(distance), DIGITS)}
        for (i, j), distance in zip(pairs.members.tolist(), pairs.distances, strict=True)
    ]


def _leaks(findings: Findings) -> dict[str, dict[str, int]]:
    """Kind -> split -> images with a copy on the other side of train's border."""
    splits = findings.dataset.roles
    return {
        kind: {split: int((mask & findings.pool.within(split)).sum()) for split in splits}
        for kind, mask in findings.leaks.items()
    }


def _judgement(findings: Findings) -> dict[str, Any] | None:
    judgement, pool = findings.judgement, findings.pool
    if judgement is None:
        return None
    return {
        "images": judgement.joined,
        "judged": judgement.judged,
        "label_among_most_voted": judgement.agreeing,
        "no_face": pool.names([i for i in range(len(pool)) if judgement.no_face[i]]),
        "names": {split: _fit(fit) for split, fit in judgement.fits.items()},
    }


def _count(pairs: Pairs) -> int:
    return len(pairs.distances)


def summary(facts: Mapping[str, Any]) -> str:
    """What the front door prints: one line for each finding."""
    return "\n".join(text.verdicts(facts))
