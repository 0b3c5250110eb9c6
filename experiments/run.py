"""Run a study: `python -m experiments.run STUDY --data=PATH`; again after a stop, to go on.

Each variant and seed is a run of fer_jax.main in a folder of its own, with all that a run has: it
resumes, and once finished it is passed over, by another study too. The table is made anew from the
finished runs. With --cluster the runs are tasks on SLURM, or processes here.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import jobs, studies
from experiments.ablations import STUDIES
from experiments.jobs import Job
from fer_jax import cli
from fer_jax.errors import UserError
from fer_jax.outputs import write_text

__doc__ += f"\nSTUDY is one of {', '.join(STUDIES)}.\n"  # for --help
DATA = flags.DEFINE_string("data", "", "FER2013 in any known layout.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "One run of each variant per seed.")
ONLY = flags.DEFINE_list("only", [], "Names of variants, if not all.")
SET = flags.DEFINE_multi_string("set", [], "KEY=VALUE for all variants: --set=train.epochs=2")
OUTPUT = flags.DEFINE_string("output", "runs/studies", "Folder of the studies' folders.")
TABLE = flags.DEFINE_bool("table", False, "Only the table of what is finished.")
CLUSTER = flags.DEFINE_enum("cluster", None, ["slurm", "local"], "Runs as tasks, there or here.")
PARTITION = flags.DEFINE_string("partition", None, "Of SLURM.")
SBATCH = flags.DEFINE_multi_string("sbatch", [], "KEY=VALUE for sbatch: --sbatch=gres=gpu:1")
PARALLEL = flags.DEFINE_integer("parallel", None, "Tasks at once: all on SLURM, 1 here.", 1)


def main(argv: Sequence[str]) -> None:
    """Run what is not finished yet, then print and write the table."""
    names = argv[1:]
    if len(names) != 1 or names[0] not in STUDIES:
        given = f"no study {' '.join(names)!r}: " if names else ""
        raise UserError(f"{given}give one of {', '.join(STUDIES)}")
    if (PARTITION.value or SBATCH.value) and CLUSTER.value != "slurm":
        raise UserError("--partition and --sbatch need --cluster=slurm")
    if PARALLEL.value and not CLUSTER.value:
        raise UserError("--parallel needs --cluster")
    if not DATA.value:
        raise UserError("no --data: give FER2013 in any known layout, or synthetic")
    study, place = STUDIES[names[0]], Path(OUTPUT.value) / names[0]
    given = {"data.path": DATA.value, **studies.overrides(study, SET.value)}
    seeds = jobs.seeds(SEEDS.value, "seeds")
    todo = studies.plan(study, place.with_name("runs"), given, seeds, ONLY.value)
    print(f"{study.question}\n{len(todo)} runs in {place.with_name('runs')}", flush=True)
    if CLUSTER.value and not TABLE.value:
        _perform_on_cluster([job for job in todo if not job.finished])
    elif not TABLE.value:
        for number, job in enumerate(todo, start=1):
            print(f"{number}/{len(todo)} {job.name}, seed {job.seed}", flush=True)
            jobs.perform(job)
    result = studies.summary(study, [job for job in todo if job.finished])
    text = studies.table(result)
    print(text, end="")
    write_text(place / "study.json", json.dumps(result, indent=1) + "\n")
    write_text(place / "study.md", f"# {names[0]}: {study.question}\n\n{text}")
    print(f"wrote {place}/study.md")


def _perform_on_cluster(todo: Sequence[Job]) -> None:
    options = jobs.overrides(SBATCH.value, "sbatch")
    options |= {"partition": PARTITION.value} if PARTITION.value else {}
    try:
        from experiments import cluster
    except ImportError as error:
        raise UserError("--cluster needs submitit: pip install '.[slurm]'") from error
    slurm, most = CLUSTER.value == "slurm", max(1, len(todo))
    parallel = PARALLEL.value or (most if slurm else 1)
    folder = Path(OUTPUT.value) / "cluster"
    executor = cluster.make_executor(CLUSTER.value, folder, parallel, options)
    cluster.perform(todo, executor, most if slurm else parallel)


if __name__ == "__main__":
    cli.run(main, arguments=True)
