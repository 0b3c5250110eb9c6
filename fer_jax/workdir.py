"""A run's folder: its default name, what it was started with, and the refusal to mix two runs."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from fer_jax.config import difference, short_hash
from fer_jax.errors import UserError

RUN_FILE = "run.json"


def default_workdir(config_name: str, identity: Mapping[str, Any]) -> pathlib.Path:
    """`runs/<config>-<short hash>` of what decides the result."""
    return pathlib.Path("runs") / f"{config_name}-{short_hash(identity)}"


def check(workdir: pathlib.Path, identity: Mapping[str, Any]) -> None:
    """UserError where `workdir` holds a run of another configuration or of other data."""
    path = workdir / RUN_FILE
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text())["identity"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot read {path}: {error}; choose another --workdir") from error
    changes = difference(before, identity)
    if changes:
        raise UserError(
            f"workdir {workdir} holds another run ({'; '.join(changes)}): "
            "choose another --workdir, or leave it out"
        )


def claim(workdir: pathlib.Path, about: Mapping[str, Any]) -> None:
    """Create the folder and write what the run is; UserError where it cannot be written."""
    path = workdir / RUN_FILE
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(about, indent=2) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"workdir {workdir} cannot be written ({error.strerror}): choose another --workdir"
        ) from error
