"""Records -> batches, through Grain: shuffled and augmented to train, padded to evaluate."""

import collections
import functools
import shutil
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_jax.data.augment import DRAWS, AugmentConfig, augment, resize
from fer_jax.data.records import ReadOptions, Records
from fer_jax.errors import UserError, one_line
from fer_jax.sections import key

if TYPE_CHECKING:  # Grain brings Orbax: half a second, for those who make batches
    import grain

Batch = dict[str, np.ndarray]

_ENDLESS = 2**40  # batches
_COUNTS = DRAWS // 4  # of Philox' counter for the draws of one image
_AHEAD = 4  # batches made ahead of the step in process
_CHUNKS = 2  # made ahead by each worker process: batches that it hands over together
_CHUNK = 4  # batches
_CHUNK_BYTES = 9 * 2**19  # at most, or two workers outgrow the 64 MiB that a container shares
LARGEST_IMAGE = 4096  # pixels

LOST = "Worker process was terminated"  # as Grain says it
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class DataConfig(ReadOptions):
    """The section `data`: which images, how they are read, how they become batches."""

    path: str = key(neutral=True)  # its images count, as fingerprints
    targets: str = key(neutral=True)  # as of path
    image_size: int = key(1, LARGEST_IMAGE)  # pixels
    workers: int = key(0, 1024, neutral=True)  # Grain processes; 0 augments in this process


@dataclass(frozen=True)
class Shard:
    """Process `index` of `count`."""

    index: int
    count: int


def train_batches(
    records: Records,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    augmentation: AugmentConfig | None,
    start_step: int,
    shard: Shard,
    workers: int,
) -> Iterator[Batch]:
    """Endless batches: image uint8 [b, S, S, C], label int32 [b], with b = batch_size / processes.

    Records with a `target` add it: float32 [b, K].

    The example at position i of the run depends on (seed, i) alone: step k holds the same batch
    whatever the start, the workers and the processes (process p has rows p * b to (p + 1) * b of
    it), and each len(records) positions from a multiple of it hold every record once.
    """
    rows = batch_size // shard.count
    maker = _TrainBatch(records, image_size, rows, augmentation, seed)
    batches = _dealt(maker, _ENDLESS, shard)[start_step:]
    if not workers:
        return _ahead(batches)
    return _by_workers(batches, workers, rows * image_size**2 * records.channels)


def eval_batches(
    records: Records, *, image_size: int, batch_size: int, shard: Shard
) -> Iterator[Batch]:
    """Every record once, in order, in batches of one size; the last global batch ends in zeros.

    image uint8 [b, S, S, C], label int32 [b]; b = batch_size / processes.
    """
    maker = _EvalBatch(records, image_size, batch_size // shard.count)
    steps = -(-len(records) // batch_size)
    return _ahead(_dealt(maker, steps, shard))


def _dealt(maker: Callable[[int], Batch], steps: int, shard: Shard) -> "grain.MapDataset[Batch]":
    """Process p's blocks of rows: the global batch k is the batches k * P to (k + 1) * P."""
    import grain

    return grain.MapDataset.range(steps * shard.count).map(maker)[shard.index :: shard.count]


# Only numbers of batches pass through Grain: its bookkeeping per element costs as much as half of
# the augmentation.
@dataclass(frozen=True)
class _TrainBatch:
    """Number of the batch -> batch."""

    records: Records
    size: int
    rows: int
    augmentation: AugmentConfig | None
    seed: int

    def __call__(self, number: int) -> Batch:
        # Which records stand at the batch's positions in the run.
        first, count, places = number * self.rows, len(self.records), []
        epochs, within = np.divmod(np.arange(first, first + self.rows), count)
        for epoch in range(epochs[0], epochs[-1] + 1):
            places += _order(count, self.seed, epoch)[within[epochs == epoch]].tolist()

        # One by one: large images would not fit together.
        found = (self.records.image(place) for place in places)
        moved: Iterator[np.ndarray]
        if self.augmentation is None:
            moved = (resize(image, self.size) for image in found)
        else:
            rng = np.random.Generator(np.random.Philox(key=self.seed, counter=first * _COUNTS))
            draws = rng.random((self.rows, DRAWS))
            moved = augment(found, draws, self.size, self.augmentation)
        images = np.empty((self.rows, self.size, self.size, self.records.channels), np.uint8)
        for row, image in enumerate(moved):
            images[row] = image

        targets = self.records.targets
        soft = {} if targets is None else {"target": targets[places]}
        return {"image": images, "label": self.records.labels[places], **soft}


@functools.lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The records' positions as one epoch takes them: int64 [count]."""
    return np.random.default_rng((seed, epoch)).permutation(count)


@dataclass(frozen=True)
class _EvalBatch:
    """Number of the batch -> batch."""

    records: Records
    size: int
    rows: int

    def __call__(self, number: int) -> Batch:
        images = np.zeros((self.rows, self.size, self.size, self.records.channels), np.uint8)
        labels = np.zeros(self.rows, np.int32)
        first = number * self.rows
        for row in range(min(self.rows, len(self.records) - first)):
            images[row] = resize(self.records.image(first + row), self.size)
            labels[row] = self.records.labels[first + row]
        return {"image": images, "label": labels}


class _Stream(Iterator[Batch]):
    """The batches of chunks; ends Grain's threads and processes when it is dropped, and at exit.

    At exit means while the interpreter is still whole: Grain's own clean-up fails later than that.
    """

    def __init__(
        self, chunks: "grain.IterDataset[Any]", split: Callable[[Any], list[Batch]]
    ) -> None:
        self._split = split
        self._open, self._left = [iter(chunks)], collections.deque[Batch]()
        weakref.finalize(self, _close, self._open, self._left)

    def __next__(self) -> Batch:
        if not self._left:
            try:
                self._left.extend(self._split(next(self._open[0])))
            except RuntimeError as error:
                if LOST not in str(error):
                    raise
                raise UserError(
                    f"data.workers: {one_line(error)}: the same command goes on"
                ) from error
        return self._left.popleft()


def _close(iterators: "list[grain.DatasetIterator[Any]]", left: collections.deque[Batch]) -> None:
    left.clear()
    iterators.pop().close()


def _ahead(batches: "grain.MapDataset[Batch]") -> Iterator[Batch]:
    """In order, from one thread that works ahead."""
    import grain

    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_AHEAD)
    return _Stream(batches.to_iter_dataset(ahead), lambda batch: [batch])


def _by_workers(
    batches: "grain.MapDataset[Batch]", workers: int, batch_bytes: int
) -> Iterator[Batch]:
    """In order, from worker processes; UserError where shared memory has no room for them.

    They need parsed absl flags and a main module guarded by `__name__`.
    """
    import grain

    chunk = max(1, min(_CHUNK, _CHUNK_BYTES // batch_bytes))
    needed = (3 * workers * _CHUNKS + 1) * chunk * batch_bytes  # as Grain keeps them
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else needed
    if free < needed:  # a process that finds none would be killed by a bus error
        raise UserError(
            f"data.workers={workers} needs {needed / 2**20:.0f} MiB in {SHARED_MEMORY}, which has "
            f"{free / 2**20:.0f}: use fewer workers or give it more (docker run --shm-size=1g)"
        )
    directly = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    chunks = batches.batch(chunk).to_iter_dataset(directly)
    options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=_CHUNKS)
    return _Stream(
        chunks.mp_prefetch(options),
        lambda stacked: [
            {name: values[i] for name, values in stacked.items()}
            for i in range(len(stacked["label"]))
        ],
    )
