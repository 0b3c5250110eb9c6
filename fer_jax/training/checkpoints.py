"""Orbax checkpoints, the best and the latest: the only file that knows Orbax."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from fer_jax.errors import UserError
from fer_jax.sections import Section, key
from fer_jax.training.state import TrainState, Variables

HIGHER_IS_BETTER = {"accuracy": True, "macro_f1": True, "balanced_accuracy": True, "loss": False}
LATEST_KEPT = 2


@dataclasses.dataclass(frozen=True)
class CheckpointConfig(Section):
    """The section `checkpoint`."""

    section = "checkpoint"
    select_by: str = key(choices=tuple(HIGHER_IS_BETTER))  # of validation
    every_steps: int = key(1, 10**9, neutral=True)  # beside each epoch's end


class Checkpoints:
    """The folder `checkpoints` of a workdir: whole states, each with JSON that describes it."""

    def __init__(self, workdir: pathlib.Path, select_by: str, read_only: bool = False):
        """With `read_only` nothing is made or tidied: another process may be training there."""
        sign = 1 if HIGHER_IS_BETTER[select_by] else -1

        def score(metrics: Mapping[str, float]) -> float:
            return sign * metrics[select_by]

        best = checkpoint_managers.BestN(
            get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False
        )
        keep = [checkpoint_managers.LatestN(LATEST_KEPT), best]
        options = ocp.CheckpointManagerOptions(
            best_fn=score,
            best_mode="max",
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=not read_only,
            enable_async_checkpointing=True,
            read_only=read_only,
        )
        self.directory = pathlib.Path(workdir).resolve() / "checkpoints"
        if read_only and not self.directory.is_dir():
            raise UserError(f"{workdir} has no checkpoints yet: train at least one epoch")
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_names=("state", "about")
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """Step of the last whole checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """Step of the best evaluated checkpoint, or None."""
        return self._manager.best_step()

    def save(
        self,
        step: int,
        state: TrainState,
        about: Mapping[str, Any],
        metrics: Mapping[str, float] | None,
    ) -> None:
        """Start to write `state` in the background; `metrics` where it was evaluated."""
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(dict(about))
        )
        self._manager.save(step, args=items, metrics=dict(metrics) if metrics else None)

    def restore(self, step: int, template: TrainState) -> TrainState:
        """The state of `step`, onto the shapes and shardings of `template`."""
        items = ocp.args.Composite(state=ocp.args.StandardRestore(template))
        return self._manager.restore(step, args=items)["state"]

    def variables(self, step: int, template: Variables, averaged: bool) -> Variables:
        """What inference needs of `step`, {"params", "batch_stats"}: the averages or the raw ones.

        Onto the shapes and shardings of `template`; nothing else is read. Needs `read_only`.
        """
        item: dict[str, Any] = {"ema": template} if averaged else template
        restore_args = ocp.checkpoint_utils.construct_restore_args(item)
        part = ocp.args.PyTreeRestore(item=item, restore_args=restore_args, partial_restore=True)
        found = self._manager.restore(step, args=ocp.args.Composite(state=part))["state"]
        return found["ema"] if averaged else found

    def metrics(self, step: int) -> dict[str, float]:
        """The validation metrics of `step`; empty where it was not evaluated."""
        return dict(self._manager.metrics(step) or {})

    def wait(self) -> None:
        """Until all that was begun is on disk."""
        self._manager.wait_until_finished()
