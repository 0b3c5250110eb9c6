"""Keras 3 on TensorFlow as a contestant: keras.applications in one tf.function, and tf.data.

Keras' own Adam adds epsilon before it corrects the bias of the second moment: the same work.
"""

import math
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from experiments.benchmark import shared
from experiments.benchmark.shared import Contestant, Settings

AHEAD = 4  # batches, as ours: AUTOTUNE would make hundreds ahead while it is the other's turn
LIBRARIES = ("tensorflow", "keras")
Pair = tuple[tf.Tensor, tf.Tensor]


def make(task: str, settings: Settings, options: dict[str, Any]) -> Contestant:
    """`train` or `pipeline`."""
    if task == "pipeline":
        tf.config.set_visible_devices([], "GPU")
        return pipeline(settings)
    tf.config.threading.set_intra_op_parallelism_threads(options["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(options["threads"])
    return training(settings, options)


def network(settings: Settings) -> keras.Sequential:
    """The notebook's Sequential with the shared weights and the config's BatchNorm and head."""
    values = settings.values()
    build = getattr(keras.applications, f"EfficientNet{settings.variant.upper()}")
    shape = (settings.size, settings.size, 3)
    backbone = build(weights=None, include_top=False, input_shape=shape)
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = values.bn_momentum
        elif isinstance(layer, layers.Dropout):
            layer.rate = 0.0  # random depth
    padding = values.head_padding.lower()
    head = [
        layers.Conv2D(values.head_filters, 3, activation="relu", padding=padding),
        layers.GlobalAveragePooling2D(),
        layers.Dense(values.hidden, activation="relu"),
        layers.Dense(shared.CLASSES),
    ]
    whole = keras.Sequential([backbone, *head])
    whole.load_weights(settings.file(shared.KERAS))
    return whole


def training(settings: Settings, options: dict[str, Any]) -> Contestant:
    """Steps on batches that lie on the device, each one call of a tf.function."""
    net, values = network(settings), settings.values()
    rates = values.learning_rate, values.momentum, values.b2, values.epsilon
    optimizer, variables = keras.optimizers.Adam(*rates), net.trainable_variables
    optimizer.build(variables)

    @tf.function(jit_compile=options["jit"])
    def step(batch: Pair) -> tf.Tensor:
        images, labels = batch
        with tf.GradientTape() as tape:
            logits = net(tf.cast(images, tf.float32), training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    def place(batch: shared.Batch) -> Pair:
        return tf.constant(batch["image"]), tf.constant(batch["label"])

    gpus = tf.config.list_physical_devices("GPU")
    where = ("gpu", gpus[0].name) if gpus else ("cpu", "cpu")
    about = shared.about(*where, options["threads"], *LIBRARIES)
    return shared.training(place, step, settings, about=about, wait=float)


def pipeline(settings: Settings) -> Contestant:
    """Endless epochs of shuffled batches."""
    faces, values = shared.faces(), settings.values()
    erasing = layers.RandomErasing(values.erasing, scale=values.erased_area, fill_value=128.0)

    def move(images: tf.Tensor, labels: tf.Tensor) -> Pair:
        moved = erasing(warped(images, settings), training=True)
        return tf.cast(moved, tf.uint8), labels

    dataset = tf.data.Dataset.from_tensor_slices((faces["image"], faces["label"]))
    dataset = dataset.shuffle(shared.FACES).repeat().batch(settings.batch, drop_remainder=True)
    dataset = dataset.map(move, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    stream = (images for images, _ in dataset.prefetch(AHEAD))
    about = shared.about("cpu", "cpu", settings.threads, *LIBRARIES)
    untimed = 8 * AHEAD  # more than is made ahead
    return shared.pipeline(stream, settings, about=about, untimed=untimed)


def warped(images: tf.Tensor, settings: Settings) -> tf.Tensor:
    """Tone and one projective transform of a batch: uint8 [B, H, W] -> float32 [B, S, S, 1].

    A Keras layer for each kind of augmentation was slower.
    """
    values, size, count = settings.values(), settings.size, tf.shape(images)[0]
    grey, side = tf.cast(images, tf.float32)[..., None], float(images.shape[1])

    def signed(limit: float) -> tf.Tensor:
        return tf.random.uniform([count], -limit, limit)

    gain = 1 + signed(values.contrast)[:, None, None, None]
    offset = 255 * signed(values.brightness)[:, None, None, None]
    mean = tf.reduce_mean(grey, (1, 2, 3), keepdims=True)
    toned = tf.clip_by_value((grey - mean) * gain + mean + offset, 0.0, 255.0)

    # From an output pixel to the input's, around the centre.
    turn = 2 * math.pi * signed(values.rotation)
    zoom = (1 + signed(values.zoom)) * side / size
    mirror = tf.where(tf.random.uniform([count]) < 0.5 * values.flip, -1.0, 1.0)
    cos, sin = zoom * tf.cos(turn), zoom * tf.sin(turn)
    x, y = (0.5 - size / 2 - size * signed(values.translation) for _ in range(2))
    centre, zero = side / 2 - 0.5, tf.zeros([count])
    rows = [mirror * cos, -mirror * sin, mirror * (cos * x - sin * y) + centre]
    rows += [sin, cos, sin * x + cos * y + centre, zero, zero]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=toned,
        transforms=tf.stack(rows, axis=1),
        output_shape=[size, size],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )
