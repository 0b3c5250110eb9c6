"""Records -> batches, through Grain: shuffled and augmented to train, padded to evaluate."""

import collections
import functools
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import grain
import numpy as np

from fer_jax.data.augment import DRAWS, Augmentation, augment, resize
from fer_jax.errors import UserError

Batch = dict[str, np.ndarray]

_ENDLESS = 2**40  # batches
_COUNTS = DRAWS // 4  # of Philox' counter for the draws of one image
_AHEAD = 4  # batches made ahead of the step in process
_CHUNK = 4  # batches that go from a worker process together: each way costs 0.4 ms
_CHUNKS = 2  # made ahead by each worker


@dataclass(frozen=True)
class Shard:
    """Process `index` of `count`."""

    index: int
    count: int


class Source(Protocol):
    """What the pipeline needs of records: each has `image` uint8 [H, W, 1 or 3] and `label`.

    All or none have a `target`, float32 [K].
    """

    @property
    def channels(self) -> int:
        """C of the batches: 1 where every image is grey, else 3."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


def train_batches(
    records: Source,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    augmentation: Augmentation | None,
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
    rows = _rows_per_process(batch_size, shard)
    if not len(records):
        raise UserError("there are no records to train on: check data.path")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed {seed} must lie between 0 and {2**32 - 1}")
    maker = _TrainBatch(records, image_size, rows, augmentation, seed)
    batches = grain.MapDataset.range(_ENDLESS * shard.count).map(maker)
    return _iterate(_deal(batches, shard)[start_step:], workers)


def eval_batches(
    records: Source, *, image_size: int, batch_size: int, shard: Shard
) -> Iterator[Batch]:
    """Every record once, in order, in batches of one size; the last global batch ends in zeros.

    image uint8 [b, S, S, C], label int32 [b]; b = batch_size / processes.
    """
    rows = _rows_per_process(batch_size, shard)
    steps = -(-len(records) // batch_size)
    batches = grain.MapDataset.range(steps * shard.count).map(_EvalBatch(records, image_size, rows))
    return _iterate(_deal(batches, shard), workers=0)


def _rows_per_process(batch_size: int, shard: Shard) -> int:
    """b = batch_size / processes."""
    if batch_size < 1 or batch_size % shard.count:
        raise UserError(
            f"batch size {batch_size} does not divide among {shard.count} processes: "
            f"use a multiple of {shard.count}"
        )
    return batch_size // shard.count


def _deal(batches: grain.MapDataset[Batch], shard: Shard) -> grain.MapDataset[Batch]:
    """Process p's blocks of rows: the global batch k is the batches k * P to (k + 1) * P."""
    return batches[shard.index :: shard.count]


# Only numbers of batches pass through Grain: its bookkeeping per element costs as much as half of
# the augmentation.
@dataclass(frozen=True)
class _TrainBatch:
    """Number of the batch -> batch."""

    records: Source
    size: int
    rows: int
    augmentation: Augmentation | None
    seed: int

    def __call__(self, number: int) -> Batch:
        images = np.empty(_shape(self), np.uint8)
        labels = np.empty(self.rows, np.int32)
        first, targets = number * self.rows, []
        rng = np.random.Generator(np.random.Philox(key=self.seed, counter=first * _COUNTS))
        for row in range(self.rows):
            record = self._record(first + row)
            labels[row] = record["label"]
            targets += [record["target"]] if "target" in record else []
            if self.augmentation is None:
                images[row] = resize(record["image"], self.size)
            else:
                images[row] = augment(record["image"], rng, self.size, self.augmentation)
        soft = {"target": np.stack(targets)} if targets else {}
        return {"image": images, "label": labels, **soft}

    def _record(self, position: int) -> dict[str, Any]:
        """At a position of the run."""
        epoch, place = divmod(position, len(self.records))
        return self.records[int(_order(len(self.records), self.seed, epoch)[place])]


@functools.lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The records' positions as one epoch takes them: int64 [count]."""
    return np.random.default_rng((seed, epoch)).permutation(count)


@dataclass(frozen=True)
class _EvalBatch:
    """Number of the batch -> batch."""

    records: Source
    size: int
    rows: int

    def __call__(self, number: int) -> Batch:
        images = np.zeros(_shape(self), np.uint8)
        labels = np.zeros(self.rows, np.int32)
        first = number * self.rows
        for row in range(min(self.rows, len(self.records) - first)):
            record = self.records[first + row]
            images[row], labels[row] = resize(record["image"], self.size), record["label"]
        return {"image": images, "label": labels}


def _shape(maker: _TrainBatch | _EvalBatch) -> tuple[int, int, int, int]:
    """Of a batch's images."""
    return maker.rows, maker.size, maker.size, maker.records.channels


class _Stream(Iterator[Batch]):
    """The batches of chunks; ends Grain's threads and processes when it is dropped, and at exit.

    At exit means while the interpreter is still whole: Grain's own clean-up fails later than that.
    """

    def __init__(self, chunks: grain.IterDataset[Any], split: Callable[[Any], list[Batch]]) -> None:
        self._split = split
        self._open, self._left = [iter(chunks)], collections.deque[Batch]()
        weakref.finalize(self, _close, self._open, self._left)

    def __next__(self) -> Batch:
        if not self._left:
            self._left.extend(self._split(next(self._open[0])))
        return self._left.popleft()


def _close(iterators: list[grain.DatasetIterator[Any]], left: collections.deque[Batch]) -> None:
    left.clear()
    iterators.pop().close()


def _iterate(batches: grain.MapDataset[Batch], workers: int) -> Iterator[Batch]:
    """In order, from one thread that works ahead or from `workers` processes.

    Worker processes need parsed absl flags, a main module guarded by `__name__`, and room in
    /dev/shm for 2 * workers * _CHUNKS * _CHUNK batches.
    """
    if not workers:
        ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_AHEAD)
        return _Stream(batches.to_iter_dataset(ahead), lambda batch: [batch])
    directly = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    chunks = batches.batch(_CHUNK).to_iter_dataset(directly)
    options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=_CHUNKS)
    return _Stream(chunks.mp_prefetch(options), _unstacked)


def _unstacked(chunk: Batch) -> list[Batch]:
    """[n, b, ...] -> n times [b, ...]."""
    return [{name: a[i] for name, a in chunk.items()} for i in range(len(chunk["label"]))]
