"""Train with the fast operations and without: `python -m experiments.fast_paths --data=PATH`.

Prints how far the first step's loss and gradient and the mean loss are apart; writes the curves.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import plain_model
from experiments.jobs import CONFIGS
from fer_jax import cache, cli
from fer_jax.config import fill, load_config
from fer_jax.errors import UserError
from fer_jax.outputs import write_text
from fer_jax.train import Config

RECIPE = flags.DEFINE_string("recipe", "b2_scratch.py", "A file in configs/.")
DATA = flags.DEFINE_string("data", "", "FER2013 in any known layout, or synthetic.")
STEPS = flags.DEFINE_integer("steps", 50, "Of each training.", lower_bound=1)
BATCH = flags.DEFINE_integer("batch", 16, "Images in a step.", lower_bound=1)
SIZE = flags.DEFINE_integer("size", 64, "Pixels.", lower_bound=32)
OUTPUT = flags.DEFINE_string("output", "runs/fast_paths.json", "The file to write.")


def main(argv: Sequence[str]) -> None:
    """Both trainings from the same seed on the same batches, then their differences."""
    del argv
    if not DATA.value:
        raise UserError("no --data: give FER2013 in any known layout, or synthetic")
    if not (CONFIGS / RECIPE.value).is_file():
        raise UserError(f"--recipe={RECIPE.value}: no such file in configs/")
    cache.keep_programs()
    settings = load_config(CONFIGS / RECIPE.value, RECIPE.value)
    settings.data.path = DATA.value
    settings.data.image_size, settings.train.batch_size = SIZE.value, BATCH.value
    settings.train.sizes = ()
    config = fill(Config, settings)
    fast = plain_model.training(config, STEPS.value)
    with plain_model.plain_operations():
        plain = plain_model.training(config, STEPS.value)
    apart = plain_model.differences(fast, plain)
    for name, value in apart.items():
        print(f"{name}: {value:.1e}")
    given = {"recipe": RECIPE.value, "batch": BATCH.value, "size": SIZE.value}
    found = {**given, "difference": apart, "fast": fast, "plain": plain}
    write_text(Path(OUTPUT.value), json.dumps(found, indent=1) + "\n")
    print(f"wrote {OUTPUT.value}")


if __name__ == "__main__":
    cli.run(main)
