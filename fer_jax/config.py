"""Configurations as plain Python files: loading a parent, naming, and what tells two runs apart."""

import copy
import hashlib
import importlib.util
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from fer_jax import packaged
from fer_jax.errors import UserError

# What may change between two starts of one run without changing its result.
RESULT_NEUTRAL = (
    "init.weights",  # its content counts, as a fingerprint
    "data.path",
    "data.exclude",  # what it leaves of train counts, as that fingerprint
    "data.targets",  # as of init.weights
    "data.cache_mib",
    "data.max_pixels",
    "data.workers",
    "evaluation.batch_size",
    "evaluation.bootstrap_samples",
    "checkpoint.every_steps",
    "log.every_steps",
    "log.tensorboard",
)

BATCHES = 2  # version of what a seed means to the pipeline: 1 drew order and augmentation otherwise

NEWER = {  # keys that older runs lack, and what those ran by
    "data.exclude": "",
    "init.weights": "",
    "init.partial": False,
    "init.frozen_epochs": 0,
    "init.layer_decay": 1.0,
    "init.residual_scale": 1.0,
    "data.targets": "",
    "augment.crop_area": 1.0,
    "model.stem_stride": 2,
    "optimizer.sam_rho": 0.0,
    "loss.logit_adjustment": 0.0,
    "loss.targets_weight": 1.0,
    "mixing.mixup": 0.0,
    "mixing.cutmix": 0.0,
    "train.sizes": (),
}

LIMITS = {  # smallest and largest legal value
    "seed": (0, 2**32 - 1),
    "data.image_size": (1, 4096),
    "data.max_pixels": (1, 10**9),
    "data.cache_mib": (0, 10**7),
    "data.workers": (0, 1024),
    "model.stem_stride": (1, 2),
    "model.bn_epsilon": (0.0, 1.0),
    "model.bn_momentum": (0.0, 1.0),
    "model.head_filters": (1, 10**5),
    "model.hidden": (1, 10**5),
    "model.drop_connect": (0.0, 0.99),
    "model.dropout": (0.0, 0.99),
    "init.frozen_epochs": (0, 10**6),
    "init.layer_decay": (0.0, 1.0),
    "init.residual_scale": (0.0, 1.0),
    "optimizer.learning_rate": (0.0, 1e3),
    "optimizer.momentum": (0.0, 1.0),
    "optimizer.b2": (0.0, 1.0),
    "optimizer.epsilon": (0.0, 1.0),
    "optimizer.weight_decay": (0.0, 1e3),
    "optimizer.clip_norm": (0.0, 1e9),
    "optimizer.sam_rho": (0.0, 10.0),
    "schedule.warmup_steps": (0, 10**9),
    "schedule.final_fraction": (0.0, 1.0),
    "loss.label_smoothing": (0.0, 1.0),
    "loss.logit_adjustment": (0.0, 10.0),
    "loss.targets_weight": (0.0, 1.0),
    "mixing.mixup": (0.0, 100.0),
    "mixing.cutmix": (0.0, 100.0),
    "train.epochs": (1, 10**6),
    "train.batch_size": (1, 10**6),
    "train.ema_decay": (0.0, 1.0),
    "evaluation.batch_size": (1, 10**6),
    "evaluation.bootstrap_samples": (1, 10**7),
    "checkpoint.every_steps": (1, 10**9),
    "log.every_steps": (1, 10**9),
}
CHOICES = {
    "model.padding": ("same", "symmetric"),
    "model.head_padding": ("VALID", "SAME"),
    "model.dtype": ("float32", "bfloat16"),
    "loss.class_weights": ("none", "balanced", "max_ratio"),
    "checkpoint.select_by": ("accuracy", "macro_f1", "balanced_accuracy", "loss"),
}


def check(config: Mapping[str, Any]) -> None:
    """UserError for a value outside its limits or choices."""
    flat = dict(_flatten(config))
    for key, (low, high) in LIMITS.items():
        if not low <= flat[key] <= high:
            raise UserError(f"{key}={flat[key]} must be from {low:g} to {high:g}")
    for key, known in CHOICES.items():
        if flat[key] not in known:
            raise UserError(f"{key}={flat[key]!r} is not one of {', '.join(known)}")


def load_config(beside: str | pathlib.Path, name: str) -> ConfigDict:
    """The config of file `name`, beside the file `beside` or packaged: a parent to be changed."""
    path = pathlib.Path(beside).resolve().parent / name
    path = path if path.exists() else packaged.find("configs", name)
    spec = importlib.util.spec_from_file_location(f"_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return copy.deepcopy(module.get_config())


def identity(config: Mapping[str, Any], fingerprint: Mapping[str, str]) -> dict[str, Any]:
    """All that decides a run's result, flat: `{"optimizer.name": "adam", ...}` and what it reads.

    `fingerprint` is of the roles and, where training reads them, of the files `weights`, `targets`.
    """
    flat = {key: value for key, value in _flatten(config) if key not in RESULT_NEUTRAL}
    read = ("train", "validation", *(f for f in ("weights", "targets") if f in fingerprint))
    prints = {f"fingerprint.{name}": fingerprint[name] for name in read}
    return json.loads(json.dumps(flat | prints | {"batches": BATCHES}))


def complete(stored: Mapping[str, Any]) -> ConfigDict:
    """A run's stored config, with the keys that are newer than the run."""
    config, known = ConfigDict(stored), dict(_flatten(stored))
    for key, value in NEWER.items():
        section, name = key.split(".")
        if section not in config:
            config[section] = ConfigDict()
        if key not in known:
            config[section][name] = value
    return config


def short_hash(identity: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that name a run."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`key: old -> new` for every key in which two identities differ."""
    newer = json.loads(json.dumps(NEWER | {"batches": 1}))  # as identities hold them
    before = {key: value for key, value in newer.items() if key in now} | dict(before)
    keys = sorted(before.keys() | now.keys())
    absent = "(absent)"
    return [
        f"{key}: {before.get(key, absent)} -> {now.get(key, absent)}"
        for key in keys
        if before.get(key, absent) != now.get(key, absent)
    ]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
