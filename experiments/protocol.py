"""From seeds to a distilled model: `python -m experiments.protocol --data=PATH`; again to go on.

Trains a recipe over seeds, answers plainly and over flips and crops, joins the models into an
ensemble, and distils that into single models. Validation chooses and scores; no other is read.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import jobs, stages
from fer_jax import cli
from fer_jax.errors import UserError

DATA = flags.DEFINE_string("data", "", "FER2013 in any known layout.")
RECIPE = flags.DEFINE_string("recipe", "b2_lite2.py", "A file in configs/.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Of the ensemble's members.")
STUDENTS = flags.DEFINE_list("students", ["100", "101", "102"], "Seeds of the distilled models.")
SET = flags.DEFINE_multi_string("set", [], "KEY=VALUE for all runs: --set=train.epochs=20")
OUTPUT = flags.DEFINE_string("output", "", "Folder of all runs; runs/protocol/RECIPE if empty.")


def main(argv: Sequence[str]) -> None:
    """Do what is not done yet; after each stage, write the table of what is finished."""
    del argv
    if not DATA.value:
        raise UserError("no --data: give FER2013 in any known layout, or synthetic")
    if not (jobs.CONFIGS / RECIPE.value).is_file():
        raise UserError(f"--recipe={RECIPE.value}: no such file in configs/")
    seeds = jobs.seeds(SEEDS.value, "seeds", least=2)  # of an ensemble
    students = jobs.seeds(STUDENTS.value, "students")
    place = Path(OUTPUT.value or f"runs/protocol/{Path(RECIPE.value).stem}")
    settings = jobs.overrides(SET.value)
    protocol = stages.Protocol(place, RECIPE.value, DATA.value, settings, seeds, students)
    rows = []
    for stage in protocol.stages():
        for job in stage:
            print(f"{job.name} {job.seed}".rstrip(), flush=True)
            jobs.perform(job)
        rows.append(stages.figures(stage))
        stages.write(place, RECIPE.value, rows)
    print(f"{stages.table(rows)}wrote {place}/protocol.md")


if __name__ == "__main__":
    cli.run(main)
