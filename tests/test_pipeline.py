"""What the pipeline promises: the same batches from any worker, process and start; all, once."""

import gc
import itertools
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest
from absl import flags
from support import EVERY_AUGMENTATION, slow_but

from fer_jax.data import pipeline
from fer_jax.data.augment import resize
from fer_jax.data.pipeline import Shard, eval_batches, train_batches
from fer_jax.errors import UserError

ONE = Shard(index=0, count=1)


class Memory:
    """Records in memory; an example's label is its position, so that a batch tells its contents."""

    def __init__(self, count: int) -> None:
        self.images = np.random.default_rng(1).integers(0, 256, (count, 12, 12, 1), dtype=np.uint8)
        self.labels, self.targets = np.arange(count, dtype=np.int32), None
        self.channels = 1

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> np.ndarray:
        return self.images[index]


@pytest.fixture(autouse=True)
def parsed_flags():
    """Grain's worker processes ask for them."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def train(
    count=23, steps=8, start=0, shard=ONE, workers=0, seed=7, augmentation=EVERY_AUGMENTATION
):
    batches = train_batches(
        Memory(count),
        image_size=16,
        batch_size=8,
        seed=seed,
        augmentation=augmentation,
        start_step=start,
        shard=shard,
        workers=workers,
    )
    return list(itertools.islice(batches, steps))


def evaluate(count, shard=ONE):
    return list(eval_batches(Memory(count), image_size=16, batch_size=8, shard=shard))


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], strict=True)


def joined(parts):
    """Global batches out of the processes' blocks, in the order of the processes."""
    return [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]


def test_a_train_batch_holds_arrays_of_numbers_alone():
    (batch,) = train(steps=1)
    assert batch.keys() == {"image", "label"}
    assert (batch["image"].shape, batch["image"].dtype) == ((8, 16, 16, 1), np.uint8)
    assert (batch["label"].shape, batch["label"].dtype) == ((8,), np.int32)


def test_each_image_comes_with_its_own_label():
    records = Memory(23)
    for batch in train(augmentation=None):
        for image, label in zip(batch["image"], batch["label"], strict=True):
            np.testing.assert_array_equal(image, resize(records.images[label], 16))


def test_grey_among_colours_is_spread_over_three_channels():
    records, colour = Memory(16), np.random.default_rng(2).integers(0, 256, (12, 12, 3), np.uint8)
    records.channels, records.images = 3, [*records.images[:15], colour]
    options = {"image_size": 16, "batch_size": 8, "shard": ONE}
    images = np.concatenate([batch["image"] for batch in eval_batches(records, **options)])
    grey = [resize(image, 16).repeat(3, axis=2) for image in records.images[:15]]
    np.testing.assert_array_equal(images, [*grey, resize(colour, 16)])


@pytest.mark.parametrize("count", [1, 5, 8, 23])
def test_every_epoch_holds_every_example_once_in_another_order(count):
    labels = np.concatenate([b["label"] for b in train(count=count, steps=3 * count)])
    epochs = labels[: labels.size // count * count].reshape(-1, count)
    assert len(epochs) == 24
    assert (np.sort(epochs) == np.arange(count)).all()
    if count > 8:
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_an_example_is_augmented_anew_in_every_epoch():
    batches = train(steps=6)  # two epochs of 23 and two examples more
    seen = [
        i for b in batches for i, label in zip(b["image"], b["label"], strict=True) if label == 4
    ]
    assert len(seen) >= 2
    assert (seen[0] != seen[1]).any()


def test_the_seed_decides_order_and_augmentation():
    assert_same(train(), train())
    first, other = train(seed=7), train(seed=8)
    assert any((a["label"] != b["label"]).any() for a, b in zip(first, other, strict=True))
    still, moved = train(augmentation=None), train()
    np.testing.assert_array_equal([b["label"] for b in still], [b["label"] for b in moved])


@pytest.mark.parametrize("start", [1, 2, 3, 5, 11])
def test_resuming_at_any_step_is_bit_identical(start):
    assert_same(train(start=start, steps=6), train(steps=start + 6)[start:])


def test_a_start_far_away_costs_no_more_than_a_near_one():
    began = time.monotonic()
    train(start=10_000_000, steps=1)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("processes", [2, 4])
def test_the_blocks_of_the_processes_are_the_one_process_batches(processes):
    parts = [train(shard=Shard(p, processes)) for p in range(processes)]
    assert_same(joined(parts), train())
    parts = [evaluate(21, shard=Shard(p, processes)) for p in range(processes)]
    assert_same(joined(parts), evaluate(21))


@pytest.mark.parametrize("workers", slow_but([1], [1, 2]))
def test_worker_processes_change_nothing(workers):
    assert_same(train(workers=workers, start=2), train(start=2))


@pytest.mark.slow
def test_processes_with_workers_that_resume_change_nothing():
    parts = [train(shard=Shard(p, 2), workers=2, start=3) for p in range(2)]
    assert_same(joined(parts), train(start=3))


def test_workers_without_room_in_shared_memory_are_refused(monkeypatch):
    if not pipeline.SHARED_MEMORY.is_dir():
        pytest.skip("this system has no /dev/shm")
    usage = shutil.disk_usage(pipeline.SHARED_MEMORY)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**15))
    message = r"data\.workers=2 needs 0 MiB in /dev/shm, which has 0: use fewer"
    with pytest.raises(UserError, match=message):
        train(workers=2)


def test_images_as_large_as_they_are_stored_do_not_lie_in_memory_together():
    seen = []

    class Large(Memory):
        def image(self, index: int) -> np.ndarray:
            assert sum(image() is not None for image in seen) <= 2  # the loop's last, and this
            image = np.zeros((200, 200, 1), np.uint8)
            seen.append(weakref.ref(image))
            return image

    maker = pipeline._TrainBatch(Large(9), 16, 8, EVERY_AUGMENTATION, 0)
    assert maker(0)["image"].shape == (8, 16, 16, 1)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 21, 24])
def test_evaluation_covers_every_image_once_in_order(count):
    batches = evaluate(count)
    assert len(batches) == -(-count // 8)
    assert all(b["image"].shape == (8, 16, 16, 1) for b in batches)
    if not batches:
        return
    whole = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    np.testing.assert_array_equal(whole["label"][:count], np.arange(count))
    np.testing.assert_array_equal(
        whole["image"][:count], [resize(image, 16) for image in Memory(count).images]
    )
    assert not whole["label"][count:].any()
    assert not whole["image"][count:].any()
    assert {k: v.dtype.name for k, v in whole.items()} == {"image": "uint8", "label": "int32"}


def test_dropping_the_iterator_ends_its_thread():
    before = set(threading.enumerate())
    batches = train_batches(
        Memory(23),
        image_size=16,
        batch_size=8,
        seed=0,
        augmentation=None,
        start_step=0,
        shard=ONE,
        workers=0,
    )
    next(batches)
    assert set(threading.enumerate()) - before
    del batches
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
        assert not thread.is_alive()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_program_that_still_holds_its_iterator_exits_in_silence(workers, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        from absl import flags
        from test_pipeline import Memory, ONE, train_batches
        if __name__ == "__main__":
            flags.FLAGS.mark_as_parsed()
            batches = train_batches(Memory(9), image_size=8, batch_size=3, seed=0,
                augmentation=None, start_step=0, shard=ONE, workers={workers})
            print(sum(len(next(batches)["label"]) for _ in range(4)))
        """)
    )
    command = [sys.executable, "-W", "error", str(script)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # this module is imported there
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "12\n", "")
