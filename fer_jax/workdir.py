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
from fer_jax.outputs import clear_leftovers, in_one_step, write_text
from fer_jax.training import mesh
from fer_jax.training.logs import read_metrics
from fer_jax.training.state import InitConfig

RUN_FILE, HASHES_FILE, LOCK_FILE = "run.json", "train_hashes.npy", ".lock"
REPORT = pathlib.Path("report", REPORT_FILE)
NO_WEIGHTS = (
    "make pretrained makes that of b2_lite2.py and lite2.py, python -m fer_jax.convert others "
    "(docs/weights.md), for --config.init.weights=FILE"
)
FIELDS = {
    "identity": dict,
    "config": dict,
    "labels": list,
    "fingerprint": dict,
    "selected_on": str,
    "evaluated": str,
}


def file_fingerprints(init: InitConfig, targets: str) -> dict[str, str]:
    """SHA-256 of the files `init.weights` and `data.targets`, where training reads them."""
    if (init.weights or init.frozen_epochs) and not os.path.isfile(init.weights):
        raise UserError(f"init.weights={init.weights!r} is no file: {NO_WEIGHTS}")
    files = {"weights": init.weights, "targets": os.path.expanduser(targets)}
    prints = {name: sha256(pathlib.Path(path)) for name, path in files.items() if path}
    for name, digest in prints.items():
        mesh.check_same(files[name], digest)
    return prints


def check(workdir: pathlib.Path, identity: Mapping[str, Any]) -> None:
    """UserError where `workdir` holds a run of another configuration or of other data."""
    if os.path.exists(workdir / RUN_FILE):  # which, unlike pathlib, never raises
        changes = difference(read(workdir)["identity"], identity)
        if changes:
            raise UserError(
                f"workdir {workdir} holds another run ({'; '.join(changes)}): "
                "choose another --workdir, or leave it out"
            )


def already_finished(workdir: pathlib.Path, last: int) -> bool:
    """Whether the run has logged its `last` step and has its report; then it says so."""
    report = workdir / REPORT
    done = os.path.exists(report) and [r for r in read_metrics(workdir) if "accuracy" in r]
    if not done or done[-1]["step"] < last:
        return False
    clear_leftovers(report)  # of a kill after the last write
    best = max(record["accuracy"] for record in done if record["kind"] == "validation")
    told = f"best validation accuracy {best:.2%}; see {report.with_suffix('.md')}"
    mesh.say(f"already finished at step {last}: {told}")
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
    write_text(workdir / RUN_FILE, text)  # says that there is a run


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
