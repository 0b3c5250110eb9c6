"""Mixup and CutMix: which image is mixed with which, how much of each, and what it is to answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import slow_but

from fer_jax.training.losses import Objective
from fer_jax.training.mixing import MixingConfig, mix

BATCH, SIZE = 8, 24
OFF = MixingConfig(mixup=0.0, cutmix=0.0)
MIXUP, CUTMIX = MixingConfig(mixup=1.0, cutmix=0.0), MixingConfig(mixup=0.0, cutmix=1.0)
BOTH = MixingConfig(mixup=1.0, cutmix=1.0)
GREYS = 30 * np.arange(BATCH)  # image i is plain, of grey 30 i, and the only one of class i
IMAGES = np.broadcast_to(GREYS[:, None, None, None], (BATCH, SIZE, SIZE, 3)).astype(np.uint8)
LABELS = np.arange(BATCH, dtype=np.int32)
mixed = jax.jit(mix, static_argnames="settings")


def many(settings, count=40):
    """Images, labels, targets of `count` batches; targets tell who was mixed with whom."""
    one_hot = np.eye(BATCH, dtype=np.float32)
    keys = jax.random.split(jax.random.key(1), count)
    return [
        [np.asarray(x) for x in mixed(IMAGES, LABELS, one_hot, key, settings=settings)]
        for key in keys
    ]


def share_of(targets):
    """How much of each image is its own; 1 throughout where every image is its own partner."""
    own = np.diag(targets)
    return own.min() if (own < 1).any() else 1.0


def test_off_it_hands_back_what_it_got():
    targets = jnp.eye(BATCH)
    images, labels = jnp.asarray(IMAGES), jnp.asarray(LABELS)
    done = mix(images, labels, targets, jax.random.key(0), OFF)
    assert [a is b for a, b in zip(done, (images, labels, targets), strict=True)] == [True] * 3


@pytest.mark.parametrize("settings", slow_but([BOTH], [MIXUP, CUTMIX, BOTH]))
def test_partners_are_a_permutation_and_the_share_is_the_batchs(settings):
    for images, _, targets in many(settings):
        assert (images.shape, images.dtype) == (IMAGES.shape, np.uint8)
        np.testing.assert_allclose(targets.sum(axis=0), 1, atol=1e-6)
        np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
        share = share_of(targets)
        near = [np.abs(targets - value) for value in (0, 1, share, 1 - share)]
        assert np.min(near, axis=0).max() < 1e-6


def test_mixup_blends_by_the_share_and_rounds():
    for images, _, targets in many(MIXUP):
        expected = (targets.astype(np.float64) @ GREYS)[:, None, None, None]
        assert np.abs(images - expected).max() <= 0.501


def test_cutmix_pastes_one_rectangle_and_counts_its_pixels():
    shapes = set()
    for images, _, targets in many(CUTMIX):
        for i, image in enumerate(images[..., 0]):
            foreign = image != GREYS[i]
            partner = np.argmax(np.where(np.arange(BATCH) == i, -1, targets[i]))
            assert (image[foreign] == GREYS[partner]).all()
            assert 1 - foreign.mean() == pytest.approx(targets[i, i], abs=1e-6)
            rows, columns = np.flatnonzero(foreign.any(1)), np.flatnonzero(foreign.any(0))
            assert foreign.sum() == len(rows) * len(columns)
            if len(rows):
                assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (len(rows), len(columns))
                shapes.add((len(rows), len(columns)))
    assert len(shapes) > 10
    assert any(rows != columns for rows, columns in shapes)  # cut off at a border


@pytest.mark.parametrize("settings", [MIXUP, CUTMIX])
def test_the_label_is_the_one_of_which_there_is_more(settings):
    seen = set()
    for _, labels, targets in many(settings):
        np.testing.assert_array_equal(targets[np.arange(BATCH), labels], targets.max(axis=1))
        seen.add(bool((labels == LABELS).all()))
    assert seen == {True, False}


@pytest.mark.parametrize("alpha", slow_but([0.2], [0.2, 1.0, 4.0]))
def test_the_share_is_drawn_from_beta(alpha):
    shares = [share_of(targets) for _, _, targets in many(MixingConfig(alpha, 0.0), count=400)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.2)


def test_with_both_kinds_on_each_batch_is_of_one():
    pasted = []
    for images, _, targets in many(BOTH, count=200):
        greys = [len(np.unique(image)) for image in images]
        if share_of(targets) < 1:
            pasted.append(max(greys) == 2)
    assert 0.35 < np.mean(pasted) < 0.65


def test_the_key_decides():
    one_hot = jnp.eye(BATCH)
    keys = [jax.random.key(i) for i in (0, 0, 1)]
    first, again, other = (mixed(IMAGES, LABELS, one_hot, key, settings=BOTH)[2] for key in keys)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_the_loss_of_a_mixed_image_is_that_of_both_labels_by_their_shares():
    """Class weights weigh each label's part: sum_k w_k y_k (-log p_k)."""
    draw = np.random.default_rng(2)
    logits = draw.normal(size=(BATCH, 7)).astype(np.float32)
    labels = draw.integers(0, 7, BATCH).astype(np.int32)
    objective = Objective(jnp.asarray(draw.uniform(0.5, 9, 7), jnp.float32), 0.1, None, 1.0)
    key = jax.random.key(3)
    _, _, targets = mix(IMAGES, labels, objective.targets(labels, None), key, MIXUP)
    _, _, who = mix(IMAGES, labels, jnp.eye(BATCH), key, MIXUP)
    alone = [
        sum(
            float(who[i, j])
            * float(objective.loss(logits[i : i + 1], objective.targets(label, None)))
            for j, label in enumerate(labels[:, None])
        )
        for i in range(BATCH)
    ]
    assert float(objective.loss(logits, targets)) == pytest.approx(np.mean(alone), rel=1e-5)
