"""Image sizes that change in training: each for its part of the steps, the same after any start."""

import itertools

import numpy as np
import pytest
from support import EPOCH_ENDS, first, read_data, small_config

from fer_jax.train import make_trainer
from fer_jax.training.loop import size_stages

END = EPOCH_ENDS[-1]


@pytest.mark.parametrize("sizes", [(96,), (64, 96), (48, 64, 80, 96)])
@pytest.mark.parametrize("start", [0, 1, 50, 99, 120])
def test_stages_share_the_steps_equally_and_the_last_goes_on(sizes, start):
    of_step = []
    for size, begin, count in size_stages(sizes, 100, start):
        assert begin == start + len(of_step)
        of_step += [size] * (200 - begin if count is None else count)
    for step, size in enumerate(of_step, start=start):
        assert size == sizes[min(step * len(sizes) // 100, len(sizes) - 1)]
    assert len(of_step) == 200 - start


@pytest.fixture(scope="module")
def trainer(small_csv):
    config = small_config(small_csv, train__sizes=(12, 16))
    return make_trainer(config, read_data(small_csv).roles["train"])


def test_a_batch_has_its_stages_size_whatever_the_start(trainer):
    """What is seen in which step does not change: only how large it is."""
    whole = first(trainer.batches(0), END)
    assert [batch["image"].shape[1] for batch in whole] == [12] * 11 + [16] * 10
    for start in (1, 10, 11, 12):
        for one, other in zip(whole[start:], first(trainer.batches(start), END), strict=False):
            np.testing.assert_array_equal(one["image"], other["image"])
            np.testing.assert_array_equal(one["label"], other["label"])
    config = small_config(trainer.config.data.path)
    plain = first(make_trainer(config, trainer.records).batches(0), END)
    np.testing.assert_array_equal([b["label"] for b in whole], [b["label"] for b in plain])
    for one, other in itertools.islice(zip(whole, plain, strict=True), 11, None):
        np.testing.assert_array_equal(one["image"], other["image"])
