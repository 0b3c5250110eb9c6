"""Prints the table of differences: `python -m experiments.parity [--variants=b0,b2]`."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_ENABLE_X64", "1")  # float64 beside float32: both state their types

import dataclasses
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence

from absl import app, flags

from experiments.parity import compare, whole_models
from experiments.parity.peers import KerasPeer, TorchPeer, without_random_depth
from fer_jax.model_file import ModelFile
from fer_jax.models.efficientnet import VARIANTS
from fer_jax.outputs import write_text

LITE = ("lite0", "lite1", "lite2", "lite3", "lite4")
ALL = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", *LITE)
SYMMETRIC, TRAINED = ("b0", "b2", "b7"), ("b0", "b2", "lite0", "lite2")
OWN_SIZE = ("b0", "b1", "b2", "b3", "lite0", "lite2")
LIBRARIES = ["keras", "timm", "torchvision", "lukemelas"]
FIRST_SIZE, TRAINING_SIZE = 96, 64
CHOSEN = flags.DEFINE_list("variants", list(ALL), "Which of b0 to b7, lite0 to lite4.")
SOURCES = flags.DEFINE_list("sources", LIBRARIES, "Which libraries.")
SIZES = flags.DEFINE_list("sizes", ["96", "97", "own"], "Pixels; own: the variant's, of b0 to b3.")
OUTPUT = flags.DEFINE_string("output", "runs/parity/parity.json", "The table as JSON.")
SEED = flags.DEFINE_integer("seed", 0, "Of the random weights.")


def main(argv: Sequence[str]) -> None:
    """Run all comparisons, print each as it is made, exit 1 if one is beyond its limit, or none."""
    del argv
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in comparisons(pathlib.Path(folder)):
            rows.append(row)
            print(line(row), flush=True)
    table = [{**dataclasses.asdict(row), "passed": row.passed} for row in rows]
    write_text(pathlib.Path(OUTPUT.value), json.dumps(table, indent=1) + "\n")
    failed = sum(not row.passed for row in rows)
    print(f"{len(rows)} comparisons, {failed} beyond their limit; {OUTPUT.value}")
    sys.exit(failed > 0 or not rows)


def line(row: compare.Row) -> str:
    """One line of the table."""
    contrast = "" if row.contrast is None else f"  images differ by {row.contrast:.0%}"
    return (
        f"{row.source:<12}{row.variant:<4}{row.padding:<10}{row.size:>4} px  {row.mode:<9}"
        f"{row.what:<22}{row.difference:.1e} of {row.limit:.0e}  "
        f"{'ok' if row.passed else 'FAILED'}{contrast}"
    )


def comparisons(folder: pathlib.Path) -> Iterator[compare.Row]:
    """Every library, variant, padding, size and precision."""
    for variant in CHOSEN.value:
        if "keras" in SOURCES.value and variant not in LITE:
            yield from keras(folder, variant)
        for source, padding in (
            ("timm", "same"),
            ("timm", "symmetric"),
            ("torchvision", "symmetric"),
            ("lukemelas", "same"),
        ):
            built = variant in SYMMETRIC if padding == "symmetric" else True
            built = built and (source == "timm" or variant not in LITE)
            if source in SOURCES.value and built:
                yield from torch(folder, source, variant, padding)
        if variant in TRAINED and variant not in LITE and "keras" in SOURCES.value:
            yield from whole_models.rows(folder, variant, SEED.value)


def keras(folder: pathlib.Path, variant: str) -> Iterator[compare.Row]:
    """Keras builds its model for one size: a new one for each."""
    for size in sizes(variant):
        peer = KerasPeer(variant, size)
        yield from compare.inference(peer, prepare(peer, folder), size, double=False)
    if variant in TRAINED:
        peer = without_random_depth(KerasPeer(variant, TRAINING_SIZE))
        file = prepare(peer, folder)
        yield from compare.training(peer, file, TRAINING_SIZE)


def torch(folder: pathlib.Path, source: str, variant: str, padding: str) -> Iterator[compare.Row]:
    """One model for all sizes."""
    peer = TorchPeer(source, variant, padding)
    file = prepare(peer, folder)
    for size in sizes(variant):
        yield from compare.inference(peer, file, size, double=False)
    yield from compare.inference(peer, file, FIRST_SIZE, double=True)
    if variant in TRAINED:
        yield from compare.training(peer, file, TRAINING_SIZE)


def prepare(peer: compare.Peer, folder: pathlib.Path) -> ModelFile:
    """Random weights and statistics, saved by the peer's library and converted."""
    peer.randomize(SEED.value)
    return compare.convert(peer, peer.save(folder))


def sizes(variant: str) -> list[int]:
    """Those asked for; the variant's own only where it is small enough for two cores."""
    own = VARIANTS[variant].image_size
    asked = [size for size in SIZES.value if size != "own" or variant in OWN_SIZE]
    return [own if size == "own" else int(size) for size in asked]


for flag, known in {"variants": ALL, "sources": LIBRARIES}.items():
    flags.register_validator(flag, {*known}.issuperset, f"must be of {', '.join(known)}")

if __name__ == "__main__":
    app.run(main)
