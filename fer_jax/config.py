"""Configurations: Python files, the dataclasses that they fill, and what tells two runs apart."""

import dataclasses
import difflib
import hashlib
import json
import operator
import os
import pathlib
import runpy
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from fer_jax.errors import UserError

T = TypeVar("T")
PACKAGE = pathlib.Path(__file__).resolve().parent
READ = ("train", "validation", "weights", "targets")  # by training, whose fingerprints count
BATCHES = 2  # version of what a seed means to the pipeline: 1 drew order and augmentation otherwise


def packaged(folder: str, name: str) -> pathlib.Path:
    """The file `name` of `weights` or `configs`: inside the package, or beside it in a checkout."""
    inside = PACKAGE / folder / name
    return inside if os.path.exists(inside) else PACKAGE.parent / folder / name


def named_config(argument: str) -> str:
    """`--config=b2` -> that of the packaged b2.py; every other argument as it is."""
    flag, _, name = argument.partition("=")
    if flag != "--config" or pathlib.PurePath(name).name != name or os.path.exists(name):
        return argument
    path = packaged("configs", f"{name}.py")
    return f"{flag}={path}" if os.path.isfile(path) else argument


def load_config(beside: str | pathlib.Path, name: str) -> ConfigDict:
    """The config of file `name`, beside the file `beside` or packaged: a parent to be changed."""
    path = pathlib.Path(beside).resolve().parent / name
    path = path if path.exists() else packaged("configs", name)
    return runpy.run_path(str(path))["get_config"]()


def fill(kind: type[T], values: Any, prefix: str = "") -> T:
    """The dataclass `kind`, with those in its fields, from a mapping that has each key once.

    UserError names a key that is unknown, with the nearest one, or that is missing.
    """
    if not isinstance(values, Mapping | ConfigDict):
        raise UserError(f"{prefix.rstrip('.') or 'the config'} must be a section with keys")
    kinds = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f": did you mean '{prefix}{near[0]}'?" if near else ""
            raise UserError(f"no config key '{prefix}{name}'{hint}")
    missing = [name for name in names if name not in values]
    if missing:
        raise UserError(f"the config has no key '{prefix}{missing[0]}'")
    return kind(**{n: _converted(kinds[n], values[n], f"{prefix}{n}.") for n in names})


def _converted(kind: Any, value: Any, prefix: str) -> Any:
    """A section filled; a tuple from JSON's list; a whole number where any number may stand."""
    if dataclasses.is_dataclass(kind):
        return fill(kind, value, prefix)  # type: ignore[arg-type]
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        item, *_ = typing.get_args(kind)
        return tuple(_converted(item, one, prefix) for one in value)
    # by way of a text, as a number too large for a float would be read from one: inf
    return float(str(value)) if kind is float and type(value) is int else value


def keys(kind: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """(`section.key`, field) of a dataclass and of those in its fields."""
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            yield from keys(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field


def identity(config: Any, fingerprint: Mapping[str, str]) -> dict[str, Any]:
    """All that decides a run's result, flat: `{"optimizer.name": "adam", ...}` and what is READ."""
    deciding = [name for name, field in keys(type(config)) if not field.metadata["neutral"]]
    flat = {name: operator.attrgetter(name)(config) for name in deciding}
    prints = {f"fingerprint.{name}": fingerprint[name] for name in READ if name in fingerprint}
    return json.loads(json.dumps(flat | prints | {"batches": BATCHES}))


def short_hash(identity: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that name a run."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`key: old -> new` for every key in which two identities differ."""
    names = sorted(before.keys() | now.keys())
    pairs = {name: [side.get(name, "(absent)") for side in (before, now)] for name in names}
    return [f"{name}: {old} -> {new}" for name, (old, new) in pairs.items() if old != new]
