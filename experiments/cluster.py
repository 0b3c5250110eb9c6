"""A study's runs as tasks: an array on SLURM, or processes on this machine, both by submitit.

A task is one of the resumable runs that `experiments.run` performs one after another, so one that
was requeued, or is submitted anew, goes on where its run stood.
"""

import contextlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import submitit
from submitit.core.utils import DelayedSubmission, FailedJobError

from experiments import jobs
from experiments.jobs import Job
from fer_jax.errors import FerError, UserError, one_line

POLL = 5  # seconds
YEAR = 365 * 24 * 60  # minutes: for submitit, which then queues again after SLURM's time limit

Tasks = dict[Job, submitit.Job]


class Task:
    """What runs on the node."""

    def __init__(self) -> None:
        self._gpus = os.environ.get("CUDA_VISIBLE_DEVICES")

    def __call__(self, job: Job) -> None:
        """Run the job; the task fails with it."""
        if os.environ["SUBMITIT_EXECUTOR"] == "local":  # which hides the GPUs
            os.environ.pop("CUDA_VISIBLE_DEVICES")
            os.environ |= {"CUDA_VISIBLE_DEVICES": self._gpus} if self._gpus else {}
        try:
            jobs.perform(job)
        except jobs.JobStopped as stop:
            sys.exit(str(stop))

    def checkpoint(self, job: Job) -> DelayedSubmission:
        """Shortly before the time limit, of which SLURM tells the run too: wait until it saved."""
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(self, job)


def perform(todo: Sequence[Job], executor: submitit.AutoExecutor, at_once: int) -> None:
    """Submit what is not queued yet, `at_once` together, and wait; FerError where some failed."""
    slurm = executor.cluster == "slurm"
    tasks = _queued(executor.folder, todo) if slurm else {}
    waiting = [job for job in todo if job not in tasks]
    print(f"{len(tasks)} in the queue, {len(waiting)} to submit", flush=True)
    failed = 0
    while tasks or waiting:
        room = at_once - len(tasks)
        tasks |= _submit(executor, waiting[:room])
        waiting = waiting[room:]

        # A shared file system may show a report later than the queue shows its task's end.
        going = _alive(tasks, slurm)
        time.sleep(POLL)
        over = {job: task for job, task in tasks.items() if job not in going}
        for job in [job for job in over if not job.finished]:
            failed += 1
            print(f"failed: {job.name}, seed {job.seed}: see {over[job].paths.stdout}")
        tasks, left = going, len(going) + len(waiting)
        if over:
            print(f"{len(todo) - failed - left} finished, {failed} failed, {left} left", flush=True)
    if failed:
        raise FerError(
            f"{failed} of {len(todo)} runs failed, named above; the same command goes on with "
            "them, --table makes the table of the others"
        )


def make_executor(
    cluster: str, folder: Path, parallel: int, options: Mapping[str, str]
) -> submitit.AutoExecutor:
    """For `slurm`, with `options` of sbatch, or `local`; logs go to `folder`."""
    try:
        executor = submitit.AutoExecutor(folder, cluster)
    except RuntimeError as error:
        raise UserError(f"--cluster={cluster}: {one_line(error)}") from error
    executor.update_parameters(
        name="fer_jax",
        timeout_min=YEAR,
        stderr_to_stdout=True,
        slurm_array_parallelism=parallel,
        slurm_additional_parameters={"time": "1-00:00:00", **options},
    )
    return executor


def _submit(executor: submitit.AutoExecutor, todo: Sequence[Job]) -> Tasks:
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # which says the error's lines too
            return dict(zip(todo, executor.map_array(Task(), todo), strict=True)) if todo else {}
    except FailedJobError as error:
        raise UserError(f"SLURM refuses the tasks: {one_line(error)}") from error


def _queued(folder: Path, todo: Sequence[Job]) -> Tasks:
    """Those of `todo` that an earlier command submitted to SLURM and that are not over."""
    tasks = [submitit.SlurmJob(folder, number) for number in _queue() or ()]
    ours = [task for task in tasks if task.paths.submitted_pickle.exists()]
    known = {task.submission().args[0]: task for task in ours}
    return {job: known[job] for job in todo if job in known}


def _alive(tasks: Tasks, slurm: bool) -> Tasks:
    """Those that wait or run; all of SLURM's where it does not answer, since it may come back."""
    if not slurm:
        return {job: task for job, task in tasks.items() if not task.done()}
    ids = _queue()
    return {job: task for job, task in tasks.items() if ids is None or task.job_id in ids}


def _queue() -> list[str] | None:
    """Ids of this user's tasks on SLURM; None where it does not answer."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if answer.returncode else answer.stdout.split()
