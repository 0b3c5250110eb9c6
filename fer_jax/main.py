"""Train, resume, and report: `python -m fer_jax.main --config=configs/b2.py`."""

import pathlib
import shlex
import sys
from collections.abc import Sequence

from absl import flags

from fer_jax import build, cache, cli, config, run, workdir
from fer_jax.training import mesh

CONFIG = cli.define_config("Python file with get_config(); override with --config.key=value.")
WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run; runs/<config>-<hash> if empty.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Build everything, say what it is, and exit.")
COORDINATOR = flags.DEFINE_string("coordinator", "", "host:port of process 0, or auto (TPU pod).")
PROCESSES = flags.DEFINE_integer("processes", 1, "How many processes there are.")
PROCESS = flags.DEFINE_integer("process", 0, "Which of them this is.")


def main(argv: Sequence[str]) -> int:
    """Train to the end or from where the run stood; 130 or 143 where it was asked to stop."""
    del argv
    settings = cli.config_of(CONFIG)
    build.check(settings)
    cache.keep_programs()
    mesh.start(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    run.say(mesh.devices_line())
    given = run.weights_fingerprint(settings, WORKDIR.value) | build.targets_fingerprint(settings)
    data = build.read_data(settings)
    run.say(data.describe())
    train, _ = data.split("train"), data.split(run.SELECTED_ON)
    prints = {role: records.fingerprint for role, records in data.roles.items()}
    identity = config.identity(settings, prints | given)
    default = workdir.default_workdir(cli.config_file(CONFIG).stem, identity)
    folder = pathlib.Path(WORKDIR.value or default)
    workdir.check(folder, identity)
    trainer = build.make_trainer(settings, train)
    if DRY_RUN.value:
        run.say(trainer.describe())
        return 0
    command = shlex.join(["python", "-m", "fer_jax.main", *sys.argv[1:]])
    return run.execute(run.Run(settings, data, trainer, folder, identity, command))


if __name__ == "__main__":
    cli.run(main)
