"""Exchanged class names are found by pictures, and only where they are."""

import numpy as np
import pytest
from made_data import some_faces

from fer_jax.auditing import conventions
from fer_jax.labels import LABELS

HAPPY, SAD, SURPRISE = (LABELS.index(name) for name in ("happy", "sad", "surprise"))


def exchanged(labels: np.ndarray, *cycle: int) -> np.ndarray:
    """Each class of `cycle` takes the name of the next."""
    names = np.arange(len(LABELS))
    names[list(cycle)] = [*cycle[1:], *cycle[:1]]
    return names[labels]


def scores_of(labels: np.ndarray, strength: float) -> np.ndarray:
    """Noise, and `strength` where the label is: float [N, 7]."""
    noise = np.random.default_rng(0).normal(size=(len(labels), len(LABELS)))
    return noise + strength * np.eye(len(LABELS))[labels]


LABELLED, ALL = np.arange(700) % 7, np.arange(7)


def test_names_as_they_stand_and_noise_are_no_exchange():
    for strength in (1.0, 0.0):
        assert not conventions.fit(scores_of(LABELLED, strength), LABELLED, ALL)["exchanged"]
    flat = conventions.fit(np.zeros((700, 7)), LABELLED, ALL)
    assert flat == {"looks_like": {}, "standard_errors": 0, "exchanged": False}


@pytest.mark.parametrize("cycle", [(HAPPY, SAD), (1, 2), (4, 5, 6), (0, 3, 1, 6)])
def test_any_exchange_is_named(cycle):
    found = conventions.fit(scores_of(LABELLED, 1.0), exchanged(LABELLED, *cycle), ALL)
    assert found["exchanged"]
    called = dict(zip([*cycle[1:], cycle[0]], cycle, strict=True))
    assert found["looks_like"] == {LABELS[a]: LABELS[b] for a, b in called.items()}


def test_classes_that_are_not_there_are_no_candidates():
    present = np.array([0, 2, HAPPY, SAD])
    labels = LABELLED[np.isin(LABELLED, present)]
    scores = scores_of(labels, 1.0)[:, present]
    found = conventions.fit(scores, exchanged(labels, HAPPY, SAD), present)
    assert found["looks_like"] == {"happy": "sad", "sad": "happy"}


@pytest.fixture(scope="module")
def drawn():
    """Drawn faces: 495 to learn, 200 to ask."""
    return *some_faces("train", 10), *some_faces("validation", 4)


@pytest.mark.parametrize("cycle", [(), (0, 1), (HAPPY, SURPRISE)])
def test_folders_exchanged_in_either_part_are_found(drawn, cycle):
    images, labels, others, other_labels = drawn
    expected = {LABELS[a]: LABELS[b] for a, b in zip(cycle, cycle[::-1], strict=True)}
    for found in (
        conventions.compare(images, labels, others, exchanged(other_labels, *cycle)),
        conventions.compare(images, exchanged(labels, *cycle), others, other_labels),
    ):
        assert found["exchanged"] == bool(cycle)
        assert found["looks_like"] == expected


def test_too_few_images_say_nothing(drawn):
    images, labels, others, other_labels = drawn
    assert conventions.compare(images, labels, others[:3], other_labels[:3]) is None
