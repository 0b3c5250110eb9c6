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
    if not (workdir / RUN_FILE).exists():
        return
    changes = difference(read(workdir)["identity"], identity)
    if changes:
        raise UserError(
            f"workdir {workdir} holds another run ({'; '.join(changes)}): "
            "choose another --workdir, or leave it out"
        )


def read(workdir: pathlib.Path) -> dict[str, Any]:
    """What `claim` wrote; UserError where there is no run, or a broken file."""
    path = workdir / RUN_FILE
    try:
        about = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{workdir} holds no run (no {RUN_FILE}): give a run's workdir") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; choose another workdir") from error
    if not isinstance(about, dict) or "identity" not in about:
        raise UserError(f"{path} does not describe a run; choose another workdir")
    return about


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
