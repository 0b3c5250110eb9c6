"""An explanation names pixels that the answer hangs on: without them it is less sure."""

import functools

import jax
import numpy as np
import pytest

from fer_jax.data import synthetic
from fer_jax.data.augment import resize
from fer_jax.labels import LABELS
from fer_jax.recognition import explain

COUNT, SHARE = 56, 0.2


@pytest.fixture(scope="module")
def drawn(model):
    """uint8 [N, S, S, 1] of drawn faces, what the model answers, and its probability [N]."""
    images = [synthetic.draw_face(LABELS[i % 7], i, i)[..., None] for i in range(COUNT)]
    images = np.stack([resize(image, model.size) for image in images])
    answers = probabilities(model, images)
    return images, answers.argmax(axis=1), answers.max(axis=1)


def probabilities(model, images):
    colour = np.repeat(images, 3, axis=-1)
    return np.array(
        [list(f.probabilities.values()) for (f,) in model.predict(colour, crop="whole")]
    )


@pytest.mark.parametrize("kind", [explain.grad_cam, explain.saliency])
def test_deleting_what_it_names_costs_more_than_deleting_others(model, drawn, kind):
    images, classes, before = drawn
    inner = model.model
    heats = jax.jit(functools.partial(kind, inner.evaluator.model))(
        inner.variables, images, classes
    )
    heats = np.asarray(heats)
    assert heats.shape == images.shape[:3]
    assert heats.min() >= 0
    np.testing.assert_allclose(heats.max(axis=(1, 2)), 1, rtol=1e-5)

    def drop(heats):
        less = [explain.delete(i, h, SHARE) for i, h in zip(images, heats, strict=True)]
        return (before - probabilities(model, np.stack(less))[np.arange(COUNT), classes]).mean()

    random = np.random.default_rng(0).random(heats.shape)
    assert drop(heats) > max(0, drop(random))
    assert drop(heats) > drop(1 - heats)


def test_deletion_takes_the_named_share_and_no_other_pixel():
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 1), np.uint8)
    heat = np.arange(400.0).reshape(20, 20)
    less = explain.delete(image, heat, 0.2)
    np.testing.assert_array_equal(less[:16], image[:16])
    assert (less[16:] != image[16:]).mean() > 0.9
    assert np.ptp(less[16:].astype(int)) < 60
