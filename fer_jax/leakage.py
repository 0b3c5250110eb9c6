"""Which images a model has seen in training: told by itself, by a list, by an audit or by data."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fer_jax.data.hashes import is_copy, looks_like
from fer_jax.data.records import Dataset, ReadOptions, Records
from fer_jax.data.sidecars import listed
from fer_jax.data.sources import read_dataset
from fer_jax.errors import UserError, one_line
from fer_jax.evaluation.metrics import Copied
from fer_jax.trained import Trained

TRAIN, AUDIT_FILE = "train", "audit.json"
AUDITED = "exact copies", "exact, near and mirrored copies"  # as an audit tells them
THEIRS = "the model's training images"


def by_models(models: Sequence[Trained], records: Records) -> list[Copied]:
    """Exact copies of what any of the models was trained on, then near ones with them.

    Nothing where a model does not tell what that was.
    """
    known = [model.train_hashes for model in models if model.train_hashes is not None]
    if len(known) < len(models):
        return []
    hashes = np.concatenate(known)
    exact = is_copy(records, hashes)
    near = exact | looks_like(records, hashes)
    kinds = {"exact copies": exact, "exact or near copies": near}
    return [Copied(mask, f"{kind} of {THEIRS}") for kind, mask in kinds.items()]


def by_path(
    path: str, options: ReadOptions, scored: str, data: Dataset, split: str
) -> list[Copied]:
    """By a list of keys of `split`, an audit (its folder or audit.json), or data to compare with.

    These two tell exact copies, then all. `data` is what lies at `scored`, read by `options`.
    UserError where it is none of these or of other images.
    """
    place, records = Path(path).expanduser(), data.split(split)
    audit = place / AUDIT_FILE if place.is_dir() else place
    if audit.name == AUDIT_FILE and audit.is_file():
        return _by_audit(audit, split, records)
    if place.suffix.lower() != ".txt":
        return _by_data(path, options, scored, data, records)
    mask, named = listed(records, path, "--clean_against", split)
    return [Copied(mask, f"listed in {named}")]


def _by_audit(path: Path, split: str, records: Records) -> list[Copied]:
    """All that the audit holds for one photograph with a training image, also mirrored."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        audited, leaking = facts["fingerprints"].get(split), facts["leaking"]
        masks = [records.among(leaking[kind].get(split, [])) for kind in ("exact", "mirrored")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"--clean_against={path} is no audit: {one_line(error)}") from None
    if audited is None:
        parts = ", ".join(facts["fingerprints"])
        raise UserError(
            f"--clean_against={path} is an audit of {parts}, not of {split}: give the data instead"
        )
    if audited != records.fingerprint:
        raise UserError(
            f"--clean_against={path} is an audit of other data: its {split} is "
            f"{str(audited)[:12]}, here it is {records.fingerprint[:12]}; audit this data"
        )
    by = f"of training images, by {path}"
    return [Copied(mask, f"{kind} {by}") for mask, kind in zip(masks, AUDITED, strict=True)]


def _by_data(
    path: str, options: ReadOptions, scored: str, data: Dataset, records: Records
) -> list[Copied]:
    """As the audit compares: exact, near and mirrored copies of the training images at `path`."""
    from fer_jax.auditing.copies import find_copies, gather, leaking

    if Path(path).expanduser().resolve() != Path(scored).expanduser().resolve():
        data = read_dataset(path, dataclasses.replace(options, exclude=""))  # all of train counts
    train = data.split(TRAIN)
    pool = gather(Dataset("", {TRAIN: train, "evaluated": records}, {}, (), ()))
    groups, text = find_copies(pool), f"of the {len(train):,} training images in {path}"
    return [
        Copied(leaking(pool, groups[name])[len(train) :], f"{kind} {text}")
        for name, kind in zip(("exact_copies", "with_mirrored"), AUDITED, strict=True)
    ]
