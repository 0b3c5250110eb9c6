"""Writes tests/golden/parity-*: the peers' names, shapes and answers, for tests without them.

`.venv-parity/bin/python -m experiments.parity.golden`, after a change of peers or of the draw.
"""

import json
import pathlib

import numpy as np

from experiments.parity.peers import KerasPeer, TorchPeer
from experiments.parity.random_weights import images
from fer_jax.conversion.keras import IMAGENET_MEAN, IMAGENET_STD

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
VARIANT, SIZE, SEED = "b0", 96, 0


def main() -> None:
    """One table of variables and one file of answers per library."""
    keras = KerasPeer(VARIANT, SIZE)
    pairs = (("timm", "same"), ("torchvision", "symmetric"), ("lukemelas", "same"))
    torch = [TorchPeer(source, VARIANT, padding) for source, padding in pairs]
    for peer in (keras, *torch):
        peer.randomize(SEED)
        batch = images(SIZE)
        features, logits = peer.answer(batch, IMAGENET_MEAN, IMAGENET_STD, double=False)
        stem = FOLDER / f"parity-{peer.source}-{VARIANT}"
        stem.with_suffix(".json").write_text(json.dumps(peer.variables(), indent=0) + "\n")
        np.savez_compressed(stem.with_suffix(".npz"), features=features, logits=logits)
        print(stem)


if __name__ == "__main__":
    main()
