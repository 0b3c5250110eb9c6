"""Front door: any understood layout -> one directory of a few files, easy to copy and to check.

`python -m fer_jax.prepare --source=PATH --output=DIR`, then train with `data.path=DIR`.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from fer_jax import cli, reading
from fer_jax.data.records import fingerprint
from fer_jax.data.sources import INFO_FILE, Dataset, read_dataset
from fer_jax.errors import UserError, one_line
from fer_jax.outputs import clear_leftovers, unfinished

SOURCE = flags.DEFINE_string("source", "", "The data, in any known layout.")
OUTPUT = flags.DEFINE_string("output", None, "Directory to write; new or empty.", required=True)
READING = reading.define()


def main(argv: Sequence[str]) -> None:
    """Read --source, report what it holds, write --output."""
    del argv
    output = check_output(OUTPUT.value)
    dataset = read_dataset(SOURCE.value, READING())
    print(dataset.describe(), flush=True)
    for name, reason in dataset.unreadable:
        print(f"left out: {name}: {reason}")
    if (output / INFO_FILE).exists():  # as after a kill at the very end
        if fingerprint(read_dataset(str(output), READING())) != fingerprint(dataset):
            raise UserError(f"--output={output} holds other data: give a new one, or empty it")
        print(f"already prepared: {output}")
        return
    prepare(dataset, output)
    size = sum(file.stat().st_size for file in output.iterdir())
    print(f"wrote {len(list(output.iterdir()))} files, {size / 2**20:.1f} MiB: {output}")


def check_output(path: str) -> Path:
    """`path` if it can be made, or holds prepared data; UserError if there is something else."""
    output = Path(path)
    for leftover in clear_leftovers(output):  # also of one that was killed once it had written
        print(f"removed {leftover}, which a killed run left")
    if (output / INFO_FILE).exists():
        return output
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"--output={path} is no empty directory: give a new one, or empty it first")
    if output.exists() and output.samefile("."):
        raise UserError(f"--output={path} is where you are, and would be replaced: give a new one")
    return output


def prepare(dataset: Dataset, output: Path) -> None:
    """Write `dataset` to `output`, which appears whole, by one rename, or not at all."""
    from fer_jax.data import fer2013  # TFDS takes a second to import: refusals come before it

    try:
        with unfinished(output) as folder:
            fer2013.write(dataset.roles, folder).rename(output)
    except (OSError, RuntimeError) as error:  # array_record raises the latter on a full disk
        raise UserError(f"cannot write --output={output}: {one_line(error)}") from None


if __name__ == "__main__":
    cli.run(main)
