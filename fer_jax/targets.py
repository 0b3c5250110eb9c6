"""FER+'s votes as soft targets, `python -m fer_jax.targets --data=PATH --ferplus=CSV`.

Then train with `data.targets=OUTPUT`. Predictions that evaluate wrote need no conversion.
"""

from collections.abc import Sequence

import numpy as np
from absl import flags

from fer_jax import cli, reading
from fer_jax.data import targets, votes
from fer_jax.data.records import Records
from fer_jax.data.sources import read_dataset
from fer_jax.errors import UserError

DATA = flags.DEFINE_string("data", "", "The data that is to be trained on, in any known layout.")
FERPLUS = flags.DEFINE_string("ferplus", None, "FER+'s fer2013new.csv.", required=True)
SPLIT = flags.DEFINE_enum("split", "train", ["train", "validation", "test"], "Whose targets.")
OUTPUT = flags.DEFINE_string("output", None, "The .npz to write.", required=True)
READING = reading.define()


def main(argv: Sequence[str]) -> None:
    """Read --ferplus and --data, join them by row, write --output."""
    del argv
    if not OUTPUT.value.endswith(".npz"):
        raise UserError(f"--output={OUTPUT.value}: targets end in .npz")
    counts = votes.read(FERPLUS.value)
    records = read_dataset(DATA.value, READING()).split(SPLIT.value)
    keys, probabilities = convert(counts, records)
    targets.write(OUTPUT.value, keys, probabilities)
    print(f"wrote {OUTPUT.value}: {len(keys):,} of {len(records):,} images of {SPLIT.value}")


def convert(counts: np.ndarray, records: Records) -> tuple[tuple[str, ...], np.ndarray]:
    """Votes [R, 10] -> keys of the images with a vote for one of the 7 classes, and their shares.

    Votes for contempt, unknown and no face are left out, and images that have no other.
    """
    emotions = votes.join(counts, records.rows)[:, votes.CLASSES]
    total = emotions.sum(axis=1)
    if not total.any():
        raise UserError("no image's row of fer2013.csv is known: FER+'s votes cannot be joined")
    keys = tuple(key for key, count in zip(records.keys, total, strict=True) if count)
    return keys, (emotions[total > 0] / total[total > 0, None]).astype(np.float32)


if __name__ == "__main__":
    cli.run(main)
