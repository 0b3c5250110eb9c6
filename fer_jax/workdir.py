"""A run's folder: its name, what it was started with, its lock, and the refusal to mix two runs."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import filelock
import numpy as np

from fer_jax.config import difference
from fer_jax.data.files import sha256
from fer_jax.errors import UserError, one_line, writing
from fer_jax.evaluation.predictions import REPORT_FILE
from fer_jax.outputs import unfinished
from fer_jax.training import mesh
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.state import InitConfig

RUN_FILE, LOCK_FILE = "run.json", ".lock"
HASHES_FILE = "train_hashes.npy"
FIELDS = {"identity": dict, "config": dict, "labels": list, "fingerprint": dict} | {
    "selected_on": str,
    "evaluated": str,
}


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


def file_fingerprints(folder: str, init: InitConfig, targets: str, variant: str) -> dict[str, str]:
    """SHA-256 of the files `init.weights` and `data.targets`, where training reads them.

    A weights file that is gone counts as what the run in `folder` has noted of it.
    """
    found = {}
    if init.weights or init.frozen_epochs:
        path = pathlib.Path(init.weights)
        known = sha256(path) if path.is_file() else _noted_weights(folder, init.weights, variant)
        found["weights"] = known
        mesh.check_same("init.weights", known)
    if targets:
        found["targets"] = sha256(pathlib.Path(targets).expanduser())
        mesh.check_same("data.targets", found["targets"])
    return found


def _noted_weights(folder: str, path: str, variant: str) -> str:
    resumed = path and folder and (pathlib.Path(folder) / RUN_FILE).exists()
    identity = read(pathlib.Path(folder))["identity"] if resumed else {}
    if "fingerprint.weights" in identity:
        mesh.say(
            f"init: {path} is gone; the run in {folder} needs it no more once it has a checkpoint"
        )
        return identity["fingerprint.weights"]
    output = f"weights/imagenet_{variant}.safetensors"
    raise UserError(
        f"init.weights={path!r} is no file: make one by python -m fer_jax.convert --source=keras "
        f"--variant={variant} --download --output={output}, then --config.init.weights={output}"
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
    mesh.say(
        f"already finished at step {last}: best validation accuracy {accuracy:.2%} "
        f"at step {best}; see {workdir}/report"
    )
    return True


def read(workdir: pathlib.Path) -> dict[str, Any]:
    """What `claim` wrote; UserError where there is no run, or a broken file."""
    path = workdir / RUN_FILE
    try:
        about = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{workdir} holds no run (no {RUN_FILE}): give a run's workdir") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}; choose another workdir") from error
    given = about if isinstance(about, dict) else {}
    if not all(isinstance(given.get(name), kind) for name, kind in FIELDS.items()):
        raise UserError(f"{path} does not describe a run; choose another workdir")
    return about


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """The folder, made if need be, for this process alone; UserError while another works there.

    The system releases the lock with its process, however that ends.
    """
    lock = filelock.FileLock(workdir / LOCK_FILE)
    with _writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        try:
            held = lock.acquire(timeout=0)
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
    with _writing(workdir), unfinished(workdir / RUN_FILE) as new:
        np.save(new / HASHES_FILE, train_hashes)
        (new / RUN_FILE).write_text(json.dumps(about, indent=2) + "\n")
        for name in (HASHES_FILE, RUN_FILE):  # the latter says that there is a run
            os.replace(new / name, workdir / name)


def _writing(workdir: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    return writing(f"workdir {workdir} cannot be written", "choose another --workdir")


def train_hashes(workdir: pathlib.Path) -> np.ndarray | None:
    """uint64 [M, 2] that `claim` wrote; None in a run of before, UserError for a broken file."""
    path = workdir / HASHES_FILE
    if not path.exists():
        return None
    try:
        found = np.load(path, allow_pickle=False)
    except Exception as error:  # whatever NumPy makes of a broken file
        raise UserError(f"cannot read {path}: {one_line(error)}; remove it") from error
    found = found[:, None] if getattr(found, "ndim", 0) == 1 else found  # of a run of before
    if getattr(found, "dtype", None) != np.uint64 or found.shape[1:] not in ((1,), (2,)):
        raise UserError(f"{path} holds no hashes of training images; remove it")
    return found
