"""An explanation names the pixels that an answer hangs on, and no others."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from experiments.deleting import delete, saliency
from fer_jax.data import synthetic
from fer_jax.data.augment import resize
from fer_jax.labels import LABELS
from fer_jax.recognition import explain

SIDE, CELLS, COUNT = 48, 12, 56


class Means(nn.Module):
    """A backbone: the mean and the inverse of each of CELLS x CELLS cells."""

    @nn.compact
    def __call__(self, x, train):
        cells = nn.avg_pool(x, (SIDE // CELLS,) * 2, (SIDE // CELLS,) * 2).mean(-1)
        return jnp.stack([cells, 1 - cells], axis=-1)


class Corner(nn.Module):
    """A head that reads the upper left quarter alone: class 1 if it is bright, 0 if dark."""

    @nn.compact
    def __call__(self, x, train):
        seen = x[:, : CELLS // 2, : CELLS // 2].mean((1, 2))
        return 8 * seen[:, ::-1]


class Model(nn.Module):
    """What explanations ask of a classifier."""

    backbone: nn.Module
    head: nn.Module
    input_mean: tuple = (0.0, 0.0, 0.0)
    input_std: tuple = (1.0, 1.0, 1.0)

    def features(self, images, train):
        scaled = (images / 255 - jnp.array(self.input_mean)) / jnp.array(self.input_std)
        return self.backbone(scaled, train)

    def __call__(self, images, train):
        return self.head(self.features(images, train), train)


KINDS = [functools.partial(explain.grad_cam, layer="backbone"), saliency]
MODEL = Model(Means(), Corner())


def faces() -> np.ndarray:
    """Drawn ones, uint8 [COUNT, SIDE, SIDE, 1]."""
    drawn = (synthetic.draw_face(LABELS[i % 7], i, i)[..., None] for i in range(COUNT))
    return np.stack([resize(image, SIDE) for image in drawn])


def probabilities(images) -> np.ndarray:
    return softmax(np.asarray(MODEL.apply({}, jnp.asarray(images), train=False)), axis=1)


@pytest.mark.parametrize("kind", KINDS, ids=["grad_cam", "saliency"])
def test_heat_lies_where_the_model_looks_and_nowhere_else(kind):
    images = faces()
    classes = probabilities(images).argmax(axis=1)
    heats = np.asarray(jax.jit(lambda x, c: kind(MODEL, {}, x, c))(images, classes))
    assert heats.shape == (COUNT, SIDE, SIDE)
    assert heats.min() >= 0
    np.testing.assert_allclose(heats.max(axis=(1, 2)), 1, rtol=1e-5)
    half = SIDE // 2
    beyond = heats.copy()
    beyond[:, : half + 4, : half + 4] = 0  # interpolation spreads by a cell
    assert beyond.max() < 1e-6
    assert heats[:, 4 : half - 4, 4 : half - 4].mean() > 0.3


@pytest.mark.parametrize("kind", KINDS, ids=["grad_cam", "saliency"])
def test_without_the_pixels_that_it_names_the_answer_is_less_sure(kind):
    """Of patterns whose quarter stands out; as many other pixels change the answer less."""
    images, random = faces() // 2, np.random.default_rng(0)
    images[::2, : SIDE // 2, : SIDE // 2] += 120
    before = probabilities(images)
    classes = before.argmax(axis=1)
    heats = np.asarray(kind(MODEL, {}, jnp.asarray(images), jnp.asarray(classes)))

    def drop(heats):
        less = np.stack([delete(i, h, 0.2) for i, h in zip(images, heats, strict=True)])
        return (before - probabilities(less))[np.arange(COUNT), classes].mean()

    assert drop(heats) > 2 * max(0, drop(random.random(heats.shape)))
    assert drop(heats) > 0.01


def test_deletion_takes_the_named_share_and_no_other_pixel():
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 1), np.uint8)
    less = delete(image, np.arange(400.0).reshape(20, 20), 0.2)
    np.testing.assert_array_equal(less[:16], image[:16])
    assert (less[16:] != image[16:]).mean() > 0.9
    assert np.ptp(less[16:].astype(int)) < 60
