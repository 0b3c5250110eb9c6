"""Which images a model has seen in training: told by itself, by a list, by an audit or by data."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fer_jax.data.pipeline import DataConfig
from fer_jax.data.records import Dataset, Records, short_hashes
from fer_jax.data.sidecars import read_keys
from fer_jax.data.sources import read_dataset
from fer_jax.errors import UserError, one_line
from fer_jax.evaluation.metrics import Copied, exact_copies
from fer_jax.trained import Trained

TRAIN, AUDIT_FILE = "train", "audit.json"


def by_models(models: Sequence[Trained], data: Dataset, records: Records) -> Copied | None:
    """Exact copies of what any of the models was trained on; None where one does not tell.

    A model without hashes tells by its fingerprint, if `data` has the same training images.
    """
    train, known = data.roles.get(TRAIN), []
    for model in models:
        hashes, trained_on = model.train_hashes, (model.about.training_data or {}).get(TRAIN)
        if hashes is None and train is not None and trained_on == train.fingerprint:
            hashes = short_hashes(train.digests)
        if hashes is None:
            return None
        known.append(hashes)
    return exact_copies(records.digests, np.concatenate(known))


def by_path(path: str, config: DataConfig, data: Dataset, split: str) -> Copied:
    """By a list of keys of `split`, an audit (its folder or audit.json), or data to compare with.

    `data` is what `config` reads. UserError where it is none of these or of other images.
    """
    place, records = Path(path).expanduser(), data.split(split)
    audit = place / AUDIT_FILE if place.is_dir() else place
    if audit.name == AUDIT_FILE and audit.is_file():
        return _by_audit(audit, split, records)
    if place.suffix.lower() != ".txt":
        return _by_data(path, config, data, records)
    listed = read_keys(path)
    mask = np.isin(np.array(records.keys), np.array(listed, np.str_))
    unknown = len(listed) - int(mask.sum())
    if listed and not mask.any():
        raise UserError(
            f"--clean_against={path}: none of its {len(listed)} keys, first {listed[0]!r}, is of "
            f"{split} (such as {records.keys[0]!r}): list images of the split that is evaluated"
        )
    of_others = f", {unknown} of whose keys name no image of {split}" if unknown else ""
    return Copied(mask, f"listed in {path}{of_others}")


def _by_audit(path: Path, split: str, records: Records) -> Copied:
    """All that the audit holds for one photograph with a training image, also mirrored."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        audited, seen = facts["fingerprints"].get(split), facts["leaking"].get(split, [])
        mask = np.isin(np.array(records.keys), np.array(seen, np.str_))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"--clean_against={path} is no audit: {one_line(error)}") from None
    if audited != records.fingerprint:
        raise UserError(
            f"--clean_against={path} is an audit of other data: its {split} is "
            f"{str(audited)[:12]}, here it is {records.fingerprint[:12]}; audit this data"
        )
    return Copied(mask, f"exact, near and mirrored copies of training images, by {path}")


def _by_data(path: str, config: DataConfig, data: Dataset, records: Records) -> Copied:
    """As the audit compares: exact, near and mirrored copies of the training images at `path`."""
    from fer_jax.auditing.copies import find_copies, gather, leaking

    if Path(path).expanduser().absolute() != Path(config.path).expanduser().absolute():
        data = read_dataset(path, dataclasses.replace(config, exclude=""))  # all of train counts
    train = data.split(TRAIN)
    pool = gather(Dataset("", {TRAIN: train, "evaluated": records}, {}, (), ()))
    leaks = leaking(pool, find_copies(pool)["with_mirrored"])
    text = f"exact, near and mirrored copies of the {len(train):,} training images in {path}"
    return Copied(leaks[len(train) :], text)
