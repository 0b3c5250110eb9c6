"""A run's folder: its name, what it was started with, its lock, and the refusal to mix two runs."""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import filelock
import numpy as np

from fer_jax.config import difference
from fer_jax.data.files import sha256
from fer_jax.errors import UserError, one_line, writing
from fer_jax.evaluation.predictions import REPORT_FILE
from fer_jax.outputs import clear_leftovers, in_one_step
from fer_jax.training import mesh
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.state import InitConfig

RUN_FILE, HASHES_FILE, LOCK_FILE = "run.json", "train_hashes.npy", ".lock"
FIELDS = {
    "identity": dict,
    "config": dict,
    "labels": list,
    "fingerprint": dict,
    "selected_on": str,
    "evaluated": str,
}


def file_fingerprints(init: InitConfig, targets: str, variant: str) -> dict[str, str]:
    """SHA-256 of the files `init.weights` and `data.targets`, where training reads them."""
    files = {}
    if init.weights or init.frozen_epochs:
        files["weights"] = pathlib.Path(init.weights)
        if not files["weights"].is_file():
            output = f"weights/imagenet_{variant}.safetensors"
            raise UserError(
                f"init.weights={init.weights!r} is no file: make one by python -m fer_jax.convert "
                f"--source=keras --variant={variant} --download --output={output}, then "
                f"--config.init.weights={output}"
            )
    if targets:
        files["targets"] = pathlib.Path(targets).expanduser()
    prints = {name: sha256(path) for name, path in files.items()}
    for name, digest in prints.items():
        mesh.check_same(str(files[name]), digest)
    return prints


def check(workdir: pathlib.Path, identity: Mapping[str, Any]) -> None:
    """UserError where `workdir` holds a run of another configuration or of other data."""
    if (workdir / RUN_FILE).exists():
        changes = difference(read(workdir)["identity"], identity)
        if changes:
            raise UserError(
                f"workdir {workdir} holds another run ({'; '.join(changes)}): "
                "choose another --workdir, or leave it out"
            )


def already_finished(workdir: pathlib.Path, last: int, select_by: str) -> bool:
    """Whether the run has come to its `last` step and has its report; then it says so."""
    if not (workdir / "report" / REPORT_FILE).exists():
        return False
    with Checkpoints(workdir, select_by, read_only=True) as checkpoints:
        if (checkpoints.latest or 0) < last:
            return False
        best = checkpoints.best or last
        accuracy = checkpoints.metrics(best)["accuracy"]
    clear_leftovers(workdir / "report" / REPORT_FILE)  # of a kill after the last write
    mesh.say(
        f"already finished at step {last}: best validation accuracy {accuracy:.2%} "
        f"at step {best}; see {workdir}/report"
    )
    return True


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """The folder, made if need be, for this process alone; UserError while another works there.

    The system releases the lock with its process, however that ends.
    """
    with writing(f"workdir {workdir} cannot be written", "choose another --workdir"):
        workdir.mkdir(parents=True, exist_ok=True)
        try:
            held = filelock.FileLock(workdir / LOCK_FILE).acquire(timeout=0)
        except filelock.Timeout:
            raise UserError(
                f"workdir {workdir} is in use by another process: wait for its end, or choose "
                "another --workdir"
            ) from None
    with held:
        yield


def claim(workdir: pathlib.Path, about: Mapping[str, Any], train_hashes: np.ndarray) -> None:
    """Write what the run is into its folder; UserError where it cannot be written.

    `train_hashes` are the `hashes.short_hashes` of its training images.
    """
    in_one_step(workdir / HASHES_FILE, lambda new: np.save(new, train_hashes))
    text = json.dumps(about, indent=2) + "\n"
    in_one_step(workdir / RUN_FILE, lambda new: new.write_text(text))  # says that there is a run


def read(workdir: pathlib.Path) -> dict[str, Any]:
    """What `claim` wrote; UserError where there is no run, or a broken file."""
    path = workdir / RUN_FILE
    try:
        about = json.loads(path.read_text())
        if not all(isinstance(about.get(name), kind) for name, kind in FIELDS.items()):
            raise ValueError("it does not describe a run")
    except FileNotFoundError as error:
        if not workdir.exists():
            raise UserError(f"{workdir}: no such file or folder") from error
        raise UserError(f"{workdir} holds no run (no {RUN_FILE}): give a run's workdir") from error
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise UserError(f"cannot read {path}: {error}; choose another workdir") from error
    return about


def train_hashes(workdir: pathlib.Path) -> np.ndarray | None:
    """uint64 [M, 2] that `claim` wrote; None where there are none, UserError for a broken file."""
    path = workdir / HASHES_FILE
    if not path.exists():
        return None
    try:
        found = np.load(path, allow_pickle=False)
        if found.dtype != np.uint64 or found.shape[1:] != (2,):
            raise ValueError("it holds no hashes of training images")
    except Exception as error:  # whatever NumPy makes of a broken file
        raise UserError(f"cannot read {path}: {one_line(error)}; remove it") from error
    return found
