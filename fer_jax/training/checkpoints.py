"""Orbax checkpoints, the best and the latest: the only file that knows Orbax."""

import contextlib
import dataclasses
import functools
import gc
import logging
import pathlib
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from fer_jax.errors import UserError, one_line
from fer_jax.sections import Section, key
from fer_jax.training.state import TrainState, Variables

SCORES = {"accuracy": 1, "macro_f1": 1, "balanced_accuracy": 1, "loss": -1}  # -1: less is better
LATEST_KEPT = 2
ORBAX = str(pathlib.Path("orbax", "checkpoint"))  # in its files' paths
TOLD = re.compile("orbax|tensorstore|ocdbt|zarr|local file", re.IGNORECASE)  # of their failures


@dataclasses.dataclass(frozen=True)
class CheckpointConfig(Section):
    """The section `checkpoint`."""

    section = "checkpoint"
    select_by: str = key(choices=tuple(SCORES))  # of validation
    every_steps: int = key(1, 10**9, neutral=True)  # beside each epoch's end


class Checkpoints:
    """The folder `checkpoints` of a workdir: whole states, and their validation metrics."""

    def __init__(self, workdir: pathlib.Path, select_by: str, read_only: bool = False):
        """With `read_only` nothing is made or tidied: another process may be training there."""
        self.directory = pathlib.Path(workdir).resolve() / "checkpoints"
        if read_only and not self.directory.is_dir():
            raise UserError(f"{workdir} has no checkpoints yet: train at least one epoch")

        def score(metrics: Mapping[str, float]) -> float:
            return SCORES[select_by] * metrics[select_by]

        latest = checkpoint_managers.LatestN(LATEST_KEPT)
        best = checkpoint_managers.BestN(
            get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=score,
            preservation_policy=checkpoint_managers.AnyPreservationPolicy([latest, best]),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        _silence_orphans()
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_names=("state",)
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        tolerated = () if kind is None else (Exception,)  # what ended the block says more
        with contextlib.suppress(*tolerated), self._writing():
            self._manager.close()

    @property
    def latest(self) -> int | None:
        """Step of the last whole checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def last_good(self) -> str:
        """The same in words."""
        step = self.latest
        return "no checkpoint yet" if step is None else f"last good checkpoint: step {step}"

    @property
    def best(self) -> int | None:
        """Step of the best evaluated checkpoint, or None."""
        return self._manager.best_step()

    def metrics(self, step: int) -> dict[str, float]:
        """The validation metrics of `step`; empty where it was not evaluated."""
        return dict(self._manager.metrics(step) or {})

    def save(self, step: int, state: TrainState, metrics: Mapping[str, float] | None) -> None:
        """Start to write `state` in the background; `metrics` where it was evaluated."""
        if step not in self._manager.all_steps():
            items = ocp.args.Composite(state=ocp.args.StandardSave(state))
            with self._writing():
                self._manager.save(step, args=items, metrics=metrics)

    def wait(self) -> None:
        """Until all that was begun is on disk; UserError where it cannot be written."""
        with self._writing():
            self._manager.wait_until_finished()

    def check_step(self, step: int) -> None:
        """UserError where there is no checkpoint of `step`."""
        steps = sorted(self._manager.all_steps())
        if step not in steps:
            known = ", ".join(map(str, steps)) or "none"
            raise UserError(f"--step={step}: {self.directory} has no such checkpoint, only {known}")

    def go_back_to(self, step: int) -> None:
        """Remove what is later than the checkpoint of `step`."""
        for later in self._manager.all_steps():
            if later > step:
                self._manager.delete(later)

    def restore(self, step: int, template: TrainState) -> TrainState:
        """The state of `step`, onto the shapes and shardings of `template`.

        UserError where its files are damaged, as for `variables`; it names a step that is whole.
        """
        return self._read(step, ocp.args.StandardRestore(template))

    def variables(self, step: int, template: Variables, averaged: bool) -> Variables:
        """What inference needs of `step`, {"params", "batch_stats"}: the averages or the raw ones.

        Onto the shapes and shardings of `template`; nothing else is read. Needs `read_only`.
        """
        item: dict[str, Any] = {"ema": template} if averaged else template
        restore_args = ocp.checkpoint_utils.construct_restore_args(item)
        part = ocp.args.PyTreeRestore(item=item, restore_args=restore_args, partial_restore=True)
        found = self._read(step, part)
        return found["ema"] if averaged else found

    def _read(self, step: int, part: Any) -> Any:
        args = ocp.args.Composite(state=part)
        try:
            return self._manager.restore(step, args=args)["state"]
        except Exception as error:  # Orbax and TensorStore raise what they will; other reads go on
            reason = one_line(error).partition(". See")[0]

        hint = "there is no whole one beside it: train anew in another --workdir"
        for other in sorted(set(self._manager.all_steps()) - {step}, reverse=True):
            with contextlib.suppress(Exception):
                self._manager.restore(other, args=args)
                hint = f"that of step {other} is whole: go on from it with --step={other}"
                break

        _collect_orphans()
        raise UserError(f"checkpoint {self.directory}/{step} is damaged; {hint} ({reason})")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            _collect_orphans()
            raise UserError(
                f"cannot write a checkpoint to {self.directory}, {self.last_good}: make room, then "
                f"the same command goes on ({one_line(error)})"
            ) from error


def _collect_orphans() -> None:
    """After a failure: as many as can be, and no warning of coroutines, which tell no origin."""
    warnings.filterwarnings("ignore", ".*was never awaited", RuntimeWarning)
    gc.collect()


@functools.cache
def _silence_orphans() -> None:
    """Keep away what Python and asyncio print of reads and writes that none waits for any more.

    Where one fails, Orbax gives up the others beside it: they end in TensorStore's threads, or are
    broken off when they are collected, at any time later. What it raises it also logs, with a
    traceback, from a thread of its own. Once for a process.
    """
    hook = sys.unraisablehook

    def chosen(found: Any) -> None:
        code = getattr(found.object, "cr_code", None)  # of a coroutine
        answer = found.object is None and str(found.exc_value) == "Event loop is closed"
        if not answer and not (code and ORBAX in code.co_filename):
            hook(found)

    sys.unraisablehook = chosen
    told, raised = logging.getLogger("asyncio"), logging.getLogger("absl")
    told.addFilter(lambda record: not TOLD.search(record.getMessage()))
    raised.addFilter(lambda record: not (record.exc_info and ORBAX in record.pathname))
