"""Which images a model has seen in training: told by itself, by a list, by an audit or by data."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.data import key_lists
from fer_jax.data.duplicates import short_hashes
from fer_jax.data.pipeline import DataConfig
from fer_jax.data.records import Dataset, Records
from fer_jax.data.sources import read_dataset
from fer_jax.errors import UserError, one_line
from fer_jax.evaluation.metrics import Copied, exact_copies
from fer_jax.trained import Trained

TRAIN, AUDIT_FILE = "train", "audit.json"
LISTS = (".txt", ".json", ".jsonl")


def by_models(models: Sequence[Trained], data: Dataset, records: Records) -> Copied | None:
    """Exact copies of what any of the models was trained on; None where one does not tell.

    A model from before hashes were kept tells by its fingerprint, if `data` has the same training
    images.
    """
    hashes = [_hashes(model, data) for model in models]
    known = [part for part in hashes if part is not None]
    if len(known) < len(models):
        return None
    return exact_copies(records.digests, np.concatenate(known))


def by_path(path: str, config: DataConfig, data: Dataset, split: str) -> Copied:
    """By a list of keys of `split`, an audit (its folder or audit.json), or data to compare with.

    `data` is what `config` reads. UserError where it is none of these or of other images.
    """
    place, records = Path(path).expanduser(), data.split(split)
    audit = place / AUDIT_FILE if place.is_dir() else place
    if audit.name == AUDIT_FILE and audit.is_file():
        return _by_audit(audit, split, records)
    if place.suffix.lower() in LISTS:
        return _by_list(path, split, records)
    return _by_data(path, config, data, records)


def _hashes(model: Trained, data: Dataset) -> np.ndarray | None:
    if model.train_hashes is not None:
        return model.train_hashes
    train, known = data.roles.get(TRAIN), model.about.training_data or {}
    same = train is not None and known.get(TRAIN) == train.fingerprint
    return short_hashes(train.digests) if train is not None and same else None


def _by_list(path: str, split: str, records: Records) -> Copied:
    listed = key_lists.read(path, split)
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
    from fer_jax.auditing.photographs import joined_by

    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        audited = facts["fingerprints"].get(split)
        names, links = _links(facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--clean_against={path} is no audit: {one_line(error)}") from None
    if audited != records.fingerprint:
        raise UserError(
            f"--clean_against={path} is an audit of other data: its {split} is "
            f"{str(audited)[:12]}, here it is {records.fingerprint[:12]}; audit this data"
        )
    root = joined_by(len(names), np.array(links, np.int64).reshape(-1, 2))
    in_train = {root[i] for (role, _), i in names.items() if role == TRAIN}
    seen = [key for (role, key), i in names.items() if role == split and root[i] in in_train]
    mask = np.isin(np.array(records.keys), np.array(seen, np.str_))
    return Copied(mask, f"exact, near and mirrored copies of training images, by {path}")


def _links(facts: Mapping[str, Any]) -> tuple[dict[tuple[str, str], int], list[tuple[int, int]]]:
    """(split, key) -> number, and pairs of numbers that are one photograph."""
    groups = [*facts["photographs"], *([p["first"], p["second"]] for p in facts["mirrored_copies"])]
    names: dict[tuple[str, str], int] = {}
    links = []
    for group in groups:
        numbers = [names.setdefault((one["split"], one["key"]), len(names)) for one in group]
        links += [(numbers[0], number) for number in numbers[1:]]
    return names, links


def _by_data(path: str, config: DataConfig, data: Dataset, records: Records) -> Copied:
    """As the audit compares: exact, near and mirrored copies of the training images at `path`."""
    from fer_jax.auditing.photographs import find_copies, leaking
    from fer_jax.auditing.pool import gather

    if Path(path).expanduser().absolute() != Path(config.path).expanduser().absolute():
        data = read_dataset(path, dataclasses.replace(config, exclude=""))  # all of train counts
    train = data.split(TRAIN)
    pool = gather(Dataset("", {TRAIN: train, "evaluated": records}, {}, (), ()))
    leaks = leaking(pool, find_copies(pool).with_mirrored)
    text = f"exact, near and mirrored copies of the {len(train):,} training images in {path}"
    return Copied(leaks[len(train) :], text)
