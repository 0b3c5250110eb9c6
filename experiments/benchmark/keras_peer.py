"""Keras 3 on TensorFlow as a contestant: keras.applications with the seed's head, one tf.function.

Keras' own Adam adds epsilon before it corrects the bias of the second moment: the same work.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from experiments.benchmark import inputs
from experiments.benchmark.settings import Settings, config_of

LAST_NORMALIZATION = "top_bn"


def make(task: str, settings: Settings, options: dict[str, Any]) -> Any:
    """`train` alone."""
    assert task == "train"
    tf.config.threading.set_intra_op_parallelism_threads(options["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(options["threads"])
    return Train(settings, options)


def network(settings: Settings, dtype: str, dropout: bool = True) -> keras.Sequential:
    """The seed's Sequential with the shared weights and the config's BatchNorm and head."""
    model = config_of(settings, dropout=dropout).model
    policy = "float32" if dtype == "float32" else f"mixed_{dtype}"
    keras.mixed_precision.set_global_policy(policy)
    build = getattr(keras.applications, f"EfficientNet{settings.variant.upper()}")
    shape = (settings.size, settings.size, 3)
    backbone = build(weights=None, include_top=False, input_shape=shape)
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = model.bn_momentum
        elif isinstance(layer, layers.Dropout):
            layer.rate = 0.0  # random depth, which the config switches off
    head = [
        layers.Conv2D(model.head_filters, 3, activation="relu", padding=model.head_padding.lower()),
        layers.GlobalAveragePooling2D(),
        layers.Dense(model.hidden, activation="relu"),
        layers.Dropout(model.dropout),
        layers.Dense(inputs.CLASSES, dtype="float32"),
    ]
    whole = keras.Sequential([backbone, *head])
    whole.load_weights(settings.file(inputs.KERAS))
    return whole


class Step:
    """One compiled training step of a network of its own."""

    def __init__(self, settings: Settings, net: keras.Sequential, jit: bool) -> None:
        values = config_of(settings).optimizer
        self.net = net
        self._optimizer = keras.optimizers.Adam(
            values.learning_rate, values.momentum, values.b2, values.epsilon
        )
        self._optimizer.build(net.trainable_variables)
        self._compiled = tf.function(self._step, jit_compile=jit)

    def __call__(self, batch: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Loss [] before the update."""
        return self._compiled(*batch)

    def _step(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = self.net(tf.cast(images, tf.float32), training=True)
            loss = cross_entropy(logits, labels)
        variables = self.net.trainable_variables
        self._optimizer.apply(tape.gradient(loss, variables), variables)
        return loss


class Train:
    """Training steps on batches that lie on the device."""

    untimed = 1

    def __init__(self, settings: Settings, options: dict[str, Any]) -> None:
        self._settings, self._options = settings, options
        self.examples, self._steps = settings.batch, 0
        self._batches = [
            (tf.constant(batch["image"]), tf.constant(batch["label"]))
            for batch in inputs.step_batches(settings)
        ]
        self._step = Step(settings, network(settings, settings.dtype), options["jit"])

    def about(self) -> dict[str, Any]:
        """Where TensorFlow computes."""
        found = tf.config.list_physical_devices("GPU")
        return {
            "platform": "gpu" if found else "cpu",
            "device": found[0].name if found else "cpu",
            "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
            "threads": tf.config.threading.get_intra_op_parallelism_threads(),
        }

    def device_peak_mib(self) -> float | None:
        """Of the GPU."""
        if not tf.config.list_physical_devices("GPU"):
            return None
        return round(tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20, 1)

    def extras(self) -> dict[str, float]:
        """Nothing else."""
        return {}

    def run(self, calls: int) -> None:
        """The last step is waited for."""
        for _ in range(calls):
            loss = self._step(self._batches[self._steps % len(self._batches)])
            self._steps += 1
        if calls:
            loss.numpy()

    def answer(self) -> dict[str, Any]:
        """Inference, two losses without dropout, and what the timed step sees at its end."""
        before = self._last_mean()
        self.run(1)
        kept = config_of(self._settings).model.bn_momentum
        low = self._settings.dtype != "float32"
        statistics = ((self._last_mean() - kept * before) / (1 - kept)).tolist()
        found = {f"{'low_precision_' * low}statistics": statistics}
        if low:
            timed = network(self._settings, self._settings.dtype)
            found |= self._inference(timed, "low_precision_")
        plain = network(self._settings, "float32", dropout=False)
        found |= self._inference(plain, "")
        step = Step(self._settings, plain, jit=False)
        first, second = (float(step(batch)) for batch in self._batches[:2])
        return found | {"train_loss": first, "later_loss": second}

    def _inference(self, net: keras.Sequential, prefix: str) -> dict[str, Any]:
        images, labels = self._batches[0]
        logits = tf.cast(net(tf.cast(images, tf.float32), training=False), tf.float64)
        centred = logits - tf.reduce_mean(logits, -1, keepdims=True)
        loss = float(cross_entropy(logits, labels))
        return {f"{prefix}logits": centred.numpy().tolist(), f"{prefix}loss": loss}

    def _last_mean(self) -> np.ndarray:
        backbone = self._step.net.layers[0]
        return backbone.get_layer(LAST_NORMALIZATION).moving_mean.numpy()


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Mean over the batch."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
