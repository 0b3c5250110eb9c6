"""Run a study: `python -m experiments.run STUDY --data=PATH`; again after a stop, to go on.

Each variant and seed is a run of fer_jax.main in a folder of its own, with all that a run has: it
resumes, and once finished it is passed over, by another study too. The table is made anew from the
finished runs.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import jobs, studies
from experiments.ablations import STUDIES
from fer_jax import cli
from fer_jax.errors import UserError

DATA = flags.DEFINE_string("data", "", "FER2013 in any known layout.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "One run of each variant per seed.")
ONLY = flags.DEFINE_list("only", [], "Names of variants, if not all.")
SET = flags.DEFINE_multi_string("set", [], "KEY=VALUE for all variants: --set=train.epochs=2")
OUTPUT = flags.DEFINE_string("output", "runs/studies", "Folder of the studies' folders.")
TABLE = flags.DEFINE_bool("table", False, "Only the table of what is finished.")


def main(argv: Sequence[str]) -> None:
    """Run what is not finished yet, then print and write the table."""
    names = argv[1:]
    if len(names) != 1 or names[0] not in STUDIES:
        raise UserError(f"give one study of {', '.join(STUDIES)}")
    if not DATA.value:
        raise UserError("no --data: give FER2013 in any known layout, or synthetic")
    study, place = STUDIES[names[0]], Path(OUTPUT.value) / names[0]
    given = {"data.path": DATA.value, **studies.overrides(study, SET.value)}
    todo = studies.plan(study, place.with_name("runs"), given, SEEDS.value, ONLY.value)
    print(f"{study.question}\n{len(todo)} runs in {place.with_name('runs')}", flush=True)
    for number, job in enumerate([] if TABLE.value else todo, start=1):
        print(f"{number}/{len(todo)} {job.name}, seed {job.seed}", flush=True)
        jobs.perform(job)
    result = studies.summary(study, [job for job in todo if job.finished])
    text = studies.table(result)
    print(text, end="")
    place.mkdir(exist_ok=True)
    (place / "study.json").write_text(json.dumps(result, indent=1) + "\n")
    (place / "study.md").write_text(f"# {names[0]}: {study.question}\n\n{text}")
    print(f"wrote {place}/study.md")


if __name__ == "__main__":
    cli.run(main, arguments=True)
