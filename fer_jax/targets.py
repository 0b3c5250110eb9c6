"""FER+'s votes as soft targets, `python -m fer_jax.targets --data=PATH --ferplus=CSV`.

Then train with `data.targets=OUTPUT`. Predictions that evaluate wrote need no conversion.
"""

from collections.abc import Sequence

import numpy as np
from absl import flags

from fer_jax import cli, reading
from fer_jax.data import sidecars
from fer_jax.data.sources import read_dataset
from fer_jax.errors import UserError

DATA = flags.DEFINE_string("data", "", "The data that is to be trained on, in any known layout.")
FERPLUS = flags.DEFINE_string("ferplus", None, "FER+'s fer2013new.csv.", required=True)
SPLIT = flags.DEFINE_enum("split", "train", ["train", "validation", "test"], "Whose targets.")
OUTPUT = flags.DEFINE_string("output", None, "The .npz to write.", required=True)
READING = reading.define()


def main(argv: Sequence[str]) -> None:
    """Each image's shares of the votes for the seven classes; images without such are left out."""
    del argv
    if not OUTPUT.value.endswith(".npz"):
        raise UserError(f"--output={OUTPUT.value}: targets end in .npz")
    votes = sidecars.read_votes(FERPLUS.value)
    records = read_dataset(DATA.value, READING()).split(SPLIT.value)
    emotions = sidecars.join_votes(votes, records.rows)[:, sidecars.CLASSES]
    total = emotions.sum(axis=1)
    known = np.flatnonzero(total)
    if not len(known):
        raise UserError("no image has a known row of fer2013.csv with votes for the seven classes")
    shares = (emotions[known] / total[known, None]).astype(np.float32)
    sidecars.write_targets(OUTPUT.value, tuple(records.keys[i] for i in known), shares)
    print(f"wrote {OUTPUT.value}: {len(known):,} of {len(records):,} images of {SPLIT.value}")


if __name__ == "__main__":
    cli.run(main)
