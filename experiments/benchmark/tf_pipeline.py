"""tf.data with the same augmentation: as one warp per batch, or as Keras' own layers."""

import math
from typing import Any

import keras
import tensorflow as tf

from experiments.benchmark import inputs
from experiments.benchmark.settings import Settings, config_of
from fer_jax.data.augment import ERASED_AREA, ERASED_ASPECT

LAYERS = keras.layers
AHEAD = 4  # batches, as ours: AUTOTUNE would make hundreds ahead while it is the other's turn
Tensors = tuple[tf.Tensor, tf.Tensor]


def make(task: str, settings: Settings, options: dict[str, Any]) -> Any:
    """`pipeline` alone."""
    assert task == "pipeline"
    tf.config.set_visible_devices([], "GPU")
    return Pipeline(settings, options)


class Pipeline:
    """Endless epochs of shuffled batches: uint8 [B, S, S, 1] and labels."""

    untimed = 32  # more than is made ahead

    def __init__(self, settings: Settings, options: dict[str, Any]) -> None:
        self._settings, self.examples = settings, settings.batch
        self._faces = inputs.shared_faces(settings)
        move = Warp(settings) if options["augmentation"] == "one warp" else KerasLayers(settings)
        count = len(self._faces["label"])
        dataset = tf.data.Dataset.from_tensor_slices((self._faces["image"], self._faces["label"]))
        dataset = dataset.shuffle(count).repeat().batch(settings.batch, drop_remainder=True)
        dataset = dataset.map(move, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        self._stream = iter(dataset.prefetch(AHEAD))

    def about(self) -> dict[str, Any]:
        """Always the CPU."""
        versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
        threads = self._settings.threads
        return {"platform": "cpu", "device": "cpu", "versions": versions, "threads": threads}

    def extras(self) -> dict[str, float]:
        """Nothing else."""
        return {}

    def run(self, calls: int) -> None:
        """Batches are dropped."""
        for _ in range(calls):
            next(self._stream)

    def answer(self) -> dict[str, Any]:
        """Images as they are, and grey levels of augmented ones."""
        size = self._settings.size
        images = self._faces["image"][: inputs.PLAIN, ..., None]
        plain = tf.image.resize(images, [size, size], antialias=True)[..., 0]
        seen = [next(self._stream)[0].numpy() for _ in range(inputs.SAMPLED)]
        shapes = {batch.shape for batch in seen}
        assert shapes == {(self.examples, size, size, 1)}, shapes
        return {"plain": plain.numpy().tolist(), **inputs.grey_levels(seen)}


class Warp:
    """What ours does, for a whole batch at once: tone, one projective transform, erasing."""

    def __init__(self, settings: Settings) -> None:
        self._size, self._values = settings.size, config_of(settings).augment

    def __call__(self, images: tf.Tensor, labels: tf.Tensor) -> Tensors:
        """uint8 [B, H, W] -> uint8 [B, S, S, 1]."""
        count, grey = tf.shape(images)[0], tf.cast(images, tf.float32)[..., None]
        moved = tf.raw_ops.ImageProjectiveTransformV3(
            images=self._toned(grey, count),
            transforms=self._transforms(count, float(images.shape[1])),
            output_shape=[self._size, self._size],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="REFLECT",
        )
        pixels = tf.cast(self._erased(moved, count), tf.uint8)
        return pixels, labels

    def _toned(self, grey: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        gain = 1 + _signed(count, self._values.contrast)[:, None, None, None]
        offset = 255 * _signed(count, self._values.brightness)[:, None, None, None]
        mean = tf.reduce_mean(grey, (1, 2, 3), keepdims=True)
        return tf.clip_by_value((grey - mean) * gain + mean + offset, 0.0, 255.0)

    def _transforms(self, count: tf.Tensor, side: float) -> tf.Tensor:
        """[B, 8]: from an output pixel to the input's, around the centre."""
        turn = 2 * math.pi * _signed(count, self._values.rotation)
        zoom = (1 + _signed(count, self._values.zoom)) * side / self._size
        mirror = tf.where(tf.random.uniform([count]) < 0.5 * self._values.flip, -1.0, 1.0)
        right, down = (self._size * _signed(count, self._values.translation) for _ in range(2))
        cos, sin = zoom * tf.cos(turn), zoom * tf.sin(turn)
        x, y = (0.5 - self._size / 2 - shift for shift in (right, down))
        centre, zero = side / 2 - 0.5, tf.zeros([count])
        rows = [mirror * cos, -mirror * sin, mirror * (cos * x - sin * y) + centre]
        rows += [sin, cos, sin * x + cos * y + centre, zero, zero]
        return tf.stack(rows, axis=1)

    def _erased(self, images: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """One rectangle each, with some probability, filled with the image's mean."""
        size = float(self._size)
        side = size * tf.sqrt(tf.random.uniform([count], *ERASED_AREA))
        low, high = (math.log(aspect) / 2 for aspect in ERASED_ASPECT)
        stretch = tf.exp(tf.random.uniform([count], low, high))
        rows = _within(count, tf.minimum(side * stretch, size), size)
        columns = _within(count, tf.minimum(side / stretch, size), size)
        chosen = tf.random.uniform([count, 1, 1]) < self._values.erasing
        inside = (rows[:, :, None] & columns[:, None, :] & chosen)[..., None]
        return tf.where(inside, tf.reduce_mean(images, (1, 2, 3), keepdims=True), images)


class KerasLayers:
    """One layer for each kind of augmentation, as Keras' users write it."""

    def __init__(self, settings: Settings) -> None:
        values = config_of(settings).augment
        self._layers = [
            LAYERS.RandomFlip("horizontal"),
            LAYERS.RandomRotation(values.rotation),
            LAYERS.RandomZoom(values.zoom),
            LAYERS.RandomTranslation(values.translation, values.translation),
            LAYERS.RandomBrightness(values.brightness),
            LAYERS.RandomContrast(values.contrast),
            LAYERS.Resizing(settings.size, settings.size),
            LAYERS.RandomErasing(values.erasing, scale=ERASED_AREA, fill_value=128.0),
        ]

    def __call__(self, images: tf.Tensor, labels: tf.Tensor) -> Tensors:
        """uint8 [B, H, W] -> uint8 [B, S, S, 1]."""
        moved = tf.cast(images, tf.float32)[..., None]
        for layer in self._layers:
            moved = layer(moved, training=True)
        pixels = tf.cast(tf.clip_by_value(moved, 0.0, 255.0), tf.uint8)
        return pixels, labels


def _signed(count: tf.Tensor, limit: float) -> tf.Tensor:
    """Uniform in [-limit, limit), [B]."""
    return tf.random.uniform([count], -limit, limit)


def _within(count: tf.Tensor, length: tf.Tensor, size: float) -> tf.Tensor:
    """bool [B, S]: a stretch of `length` at a random place."""
    start = tf.random.uniform([count]) * (size - length)
    place = tf.range(int(size), dtype=tf.float32)[None]
    return (place >= start[:, None]) & (place < (start + length)[:, None])
