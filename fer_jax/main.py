"""Train, resume, and report: `python -m fer_jax.main --config=configs/b2.py`."""

import pathlib
import shlex
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from fer_jax import cli

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A Python file, or a packaged one by name; --config.KEY=VALUE overrides."
)
WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run; runs/<config>-<hash> if empty.")
STEP = flags.DEFINE_integer("step", None, "Go on from this checkpoint, not from the latest.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Build everything, say what it is, and exit.")
COORDINATOR = flags.DEFINE_string("coordinator", "", "host:port of process 0; auto: SLURM, TPU.")
PROCESSES = flags.DEFINE_integer("processes", 1, "How many processes there are.")
PROCESS = flags.DEFINE_integer("process", 0, "Which of them this is.")


def main(argv: Sequence[str]) -> int:
    """Train to the end or from where the run stood; 130 or 143 where it was asked to stop."""
    del argv
    from fer_jax import cache, config, train  # after the flags: --help and mistakes need no JAX
    from fer_jax.training import mesh

    settings = config.fill(train.Config, cli.config_of(CONFIG))
    cache.keep_programs()
    mesh.start(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    mesh.say(mesh.devices_line())
    command = shlex.join(["python", "-m", "fer_jax.main", *sys.argv[1:]])
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    with mesh.ending_together():
        return train.train(settings, WORKDIR.value, name, command, STEP.value, DRY_RUN.value)


if __name__ == "__main__":
    cli.run(main)
