"""Checks of the bugs that hide best, each shown to fail once its bug is planted."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import support
from made_data import Memory, csv_text, seed_files, write_folder
from made_models import trained_variables
from support import small_config, small_evaluator

from fer_jax import train
from fer_jax.data import pipeline, tables
from fer_jax.data.sources import open_dataset
from fer_jax.evaluation import inference
from fer_jax.labels import LABELS
from fer_jax.train import make_trainer
from fer_jax.training import losses, mesh

RED = (AssertionError, ValueError)  # what a test that fails raises
GREY = {name: 20 + 30 * number for number, name in enumerate(LABELS)}
IMAGES = {"train": 15, "validation": 21}  # neither is a multiple of the batch of 8


def rows():
    """Plain grey images whose grey tells their class."""
    return [
        (role, LABELS[i % 7], np.full((48, 48), GREY[LABELS[i % 7]], np.uint8))
        for role, count in IMAGES.items()
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("grey")
    (root / "fer2013.csv").write_text(csv_text(rows()))
    return [root / "fer2013.csv", write_folder(root / "folder", seed_files(rows()))]


def plain(place, **changes):
    """Without augmentation, an image of one grey stays it."""
    return small_config(place, augment__flip=False, augment__rotation=0.0, **changes)


# --- The checks -------------------------------------------------------------------------------


def check_input_is_scaled_once(places):
    """A white image is 1 everywhere in the first convolution: its answer is the kernel's sum."""
    white = Memory(np.full((8, 32, 32, 1), 255, np.uint8))
    evaluator = small_evaluator()
    batches = inference.eval_batches(white, image_size=32, batch_size=8, shard=mesh.shard())
    images = jnp.asarray(next(batches)["image"])
    variables = trained_variables(evaluator.model)
    _, seen = evaluator.model.apply(
        variables,
        images,
        train=False,
        capture_intermediates=lambda module, _: module.name == "stem",
        mutable=["intermediates"],
    )
    (answer,) = seen["intermediates"]["backbone"]["stem"]["__call__"]
    kernel = np.asarray(variables["params"]["backbone"]["stem"]["kernel"])
    np.testing.assert_allclose(answer[0, 8, 8], kernel.sum((0, 1, 2)), rtol=1e-4, atol=1e-5)


def check_labels_are_the_images_own(places):
    """From every layout, in training and in evaluation: the grey tells the class."""
    label_of = {grey: LABELS.index(name) for name, grey in GREY.items()}
    for place in places:
        config = plain(place)
        data = open_dataset(config.data.path, config.data)
        training = train.train_batches(
            data.roles["train"],
            image_size=32,
            batch_size=8,
            seed=0,
            augmentation=config.augment,
            start_step=0,
            shard=mesh.shard(),
            workers=0,
        )
        validation = inference.eval_batches(
            data.roles["validation"],
            image_size=32,
            batch_size=7,
            shard=mesh.shard(),
        )
        for batch in [*itertools.islice(training, 4), *validation]:
            greys = batch["image"][:, 16, 16, 0].tolist()
            assert [label_of[grey] for grey in greys] == batch["label"].tolist()


def check_evaluation_looks_at_each_image_alone(places):
    """What is answered for an image does not depend on the images beside it."""
    draw = np.random.default_rng(1)
    images = draw.integers(0, 256, (8, 32, 32, 1), np.uint8)
    others = np.concatenate([images[:1], images[1:] // 4])
    evaluator = small_evaluator()
    variables = trained_variables(evaluator.model)
    one, other = (evaluator.predict(variables, Memory(part), False) for part in (images, others))
    np.testing.assert_allclose(one.probabilities[0], other.probabilities[0], rtol=1e-5)


def check_every_image_is_answered(places):
    """All of a split whose last batch is not full, each by its own key and once."""
    config = plain(places[0])
    records = open_dataset(config.data.path, config.data).roles["validation"]
    evaluator = small_evaluator()
    variables = trained_variables(evaluator.model)
    answers = evaluator.predict(variables, records, progress=False)
    assert answers.probabilities.shape == (IMAGES["validation"], 7)
    assert answers.keys == records.keys
    of_class = {name: answers.probabilities[i] for i, name in enumerate(LABELS)}
    for label, given in zip(answers.labels, answers.probabilities, strict=True):
        np.testing.assert_allclose(given, of_class[LABELS[label]], rtol=1e-5)


class Indifferent(nn.Module):
    """Answers 1/7 for every class, so that each image's loss is its class's weight times log 7."""

    @nn.compact
    def __call__(self, images, train):
        self.variable("batch_stats", "unused", jnp.zeros, ())
        flat = images.reshape(len(images), -1).astype(jnp.float32)
        return nn.Dense(7, kernel_init=nn.initializers.zeros)(flat)


def check_rare_classes_weigh_more(places):
    """Through the whole assembly, a batch of class k has the loss max / count_k * log 7."""
    counts = np.array([20, 2, 10, 40, 5, 8, 16])

    class Counts(Memory):
        def counts(self):
            return counts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "make_model", lambda config: Indifferent())
        config = small_config("", loss__class_weights="max_ratio")
        trainer = make_trainer(config, Counts(np.zeros((101, 16, 16, 1), np.uint8)))
        for label in range(7):
            batch = {
                "image": np.zeros((8, 16, 16, 3), np.uint8),
                "label": np.full(8, label, np.int32),
            }
            batch = mesh.to_devices(batch, mesh.sharded(trainer.evaluator.mesh))
            _, metrics = trainer.train_step(trainer.init(), batch)
            assert float(metrics["loss"]) == pytest.approx(40 / counts[label] * math.log(7))


# --- The plants -------------------------------------------------------------------------------


def plant_scaling_in_the_model_again(patch):
    twice = (255.0, 255.0, 255.0)
    make_model = support.make_model
    patch.setattr(support, "make_model", lambda config: make_model(config).clone(input_std=twice))


def plant_scaling_in_the_pipeline(patch):
    resize = pipeline.resize
    patch.setattr(pipeline, "resize", lambda image, size: resize(image, size) / 255)


def plant_alphabetical_csv_labels(patch):
    patch.setattr(tables, "FER2013_CSV_ORDER", LABELS)


def plant_labels_of_the_neighbour(patch):
    make = pipeline._TrainBatch.__call__

    def shifted(self, *args):
        batch = make(self, *args)
        return batch | {"label": np.roll(batch["label"], 1)}

    patch.setattr(pipeline._TrainBatch, "__call__", shifted)


def plant_unmatched_evaluation_labels(patch):
    make = pipeline._EvalBatch.__call__

    def shifted(self, *args):
        batch = make(self, *args)
        return batch | {"label": (batch["label"] + 1) % 7}

    patch.setattr(pipeline._EvalBatch, "__call__", shifted)


def plant_batch_statistics_at_evaluation(patch):
    def planted(variables, batch, *, infer):
        logits, _ = infer.func(  # Classifier.apply
            variables,
            batch["image"],
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return jax.nn.softmax(logits), losses

    patch.setattr(inference, "eval_step", planted)


def plant_a_dropped_last_batch(patch):
    whole = inference.eval_batches

    def full_ones(records, *, batch_size, **rest):
        batches = whole(records, batch_size=batch_size, **rest)
        return itertools.islice(batches, len(records) // batch_size)

    patch.setattr(inference, "eval_batches", full_ones)


def plant_a_last_batch_over_again(patch):
    whole = inference.eval_batches

    def first_one_again(records, **rest):
        batches = list(whole(records, **rest))
        return iter([*batches[:-1], batches[0]])

    patch.setattr(inference, "eval_batches", first_one_again)


def plant_swapped_class_weights(patch):
    weights = losses.class_weights
    patch.setattr(losses, "class_weights", lambda name, counts: weights(name, counts)[::-1])


def plant_inverted_class_weights(patch):
    weights = losses.class_weights
    patch.setattr(losses, "class_weights", lambda name, counts: 1 / weights(name, counts))


CHECKS = {
    check_input_is_scaled_once: [plant_scaling_in_the_model_again, plant_scaling_in_the_pipeline],
    check_labels_are_the_images_own: [
        plant_alphabetical_csv_labels,
        plant_labels_of_the_neighbour,
        plant_unmatched_evaluation_labels,
    ],
    check_evaluation_looks_at_each_image_alone: [plant_batch_statistics_at_evaluation],
    check_every_image_is_answered: [plant_a_dropped_last_batch, plant_a_last_batch_over_again],
    check_rare_classes_weigh_more: [plant_swapped_class_weights, plant_inverted_class_weights],
}
PAIRS = [(check, plant) for check, plants in CHECKS.items() for plant in plants]


def name_of(function):
    return function.__name__


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_the_code_passes(check, places):
    check(places)


@pytest.mark.parametrize(("check", "plant"), PAIRS, ids=name_of)
def test_the_planted_bug_is_found(check, plant, places, monkeypatch):
    plant(monkeypatch)
    with pytest.raises(RED):
        check(places)
