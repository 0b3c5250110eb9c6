"""Inference in pieces: the same answers in the same order, a few images at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fer_jax.models.folded import PIECE, in_pieces


def images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)


@pytest.fixture
def infer():
    """Sums over each image's rows; `infer.seen` are the batch sizes asked for."""

    def infer(x):
        infer.seen.append(len(x))
        return jnp.sum(x.astype(jnp.int32), 1)

    infer.seen = []
    return infer


@pytest.mark.parametrize(
    ("count", "seen"),
    [(1, 1), (PIECE - 1, PIECE - 1), (PIECE, PIECE), (PIECE + 1, PIECE + 1)]
    + [(pieces * PIECE, PIECE) for pieces in (2, 3, 8)],
)
def test_answers_stay_in_order(count, seen, infer):
    given = images(count)
    found = jax.jit(lambda x: in_pieces(infer, x))(given)
    np.testing.assert_array_equal(found, given.astype(np.int32).sum(1))
    assert seen in infer.seen


def test_elsewhere_a_batch_is_taken_whole(infer, monkeypatch):
    monkeypatch.setattr(lax, "platform_dependent", lambda *inputs, cpu, default: default(*inputs))
    given = images(2 * PIECE)
    np.testing.assert_array_equal(in_pieces(infer, given), given.astype(np.int32).sum(1))
    assert infer.seen == [2 * PIECE]
