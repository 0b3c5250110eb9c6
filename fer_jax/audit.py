"""Front door: what is wrong with a data set, `python -m fer_jax.audit --data=PATH`.

Copies within and across splits, labels that conflict, class folders exchanged by mistake, files
that are unreadable or show nothing: as a report with pictures, and as lists of keys.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from fer_jax import cli, reading
from fer_jax.data.sources import read_dataset
from fer_jax.errors import UserError, writing
from fer_jax.evaluation.predictions import REPORT_FILE

DATA = flags.DEFINE_string("data", "", "The data, in any known layout.")
OUTPUT = flags.DEFINE_string(
    "output", "audit", "The report's folder; an earlier audit is replaced."
)
READING = reading.define()


def main(argv: Sequence[str]) -> None:
    """Read --data, examine every image, write --output."""
    del argv
    from fer_jax.auditing import report  # scikit-learn: --help does without

    output = Path(OUTPUT.value)
    if (output / REPORT_FILE).exists():
        raise UserError(f"--output={output} holds an evaluation's report: give another folder")
    dataset = read_dataset(DATA.value, READING(on_corrupt="skip"))
    print(dataset.describe(), flush=True)
    refusal = f"cannot write --output={output}", "give a folder that can be written"
    with writing(*refusal):
        output.mkdir(parents=True, exist_ok=True)  # before the work
    found = report.examine(dataset, DATA.value)
    with writing(*refusal):
        lines = report.write(*found, output)
    print("\n".join([*lines, f"report {output}/report.md"]))


if __name__ == "__main__":
    cli.run(main)
