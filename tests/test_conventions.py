"""Exchanged class names are found by pictures, counts and votes, and only where they are."""

import numpy as np
import pytest
from made_data import SKIP, opened

from fer_jax.auditing import conventions, known
from fer_jax.auditing.pool import gather
from fer_jax.data.synthetic import faces
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


LABELLED = np.arange(700) % 7


def test_names_as_they_stand_agree():
    found = conventions.fit(scores_of(LABELLED, 1.0), LABELLED)
    assert found.agreed
    assert not found.exchanged
    assert found.moved == {}


@pytest.mark.parametrize("cycle", [(HAPPY, SAD), (1, 2), (4, 5, 6), (0, 3, 1, 6)])
def test_any_exchange_is_named(cycle):
    found = conventions.fit(scores_of(LABELLED, 1.0), exchanged(LABELLED, *cycle))
    assert found.exchanged
    called = dict(zip([*cycle[1:], cycle[0]], cycle, strict=True))
    assert found.moved == {LABELS[a]: LABELS[b] for a, b in called.items()}


def test_noise_decides_nothing():
    found = conventions.fit(scores_of(LABELLED, 0.0), LABELLED)
    assert not found.exchanged
    assert not found.agreed


def test_a_class_with_hardly_an_image_keeps_its_name():
    labels = LABELLED[LABELLED != 1]
    labels = np.concatenate([labels, [1] * (conventions.FEWEST - 1)])
    found = conventions.fit(scores_of(labels, 1.0), exchanged(labels, HAPPY, SAD))
    assert found.moved == {"happy": "sad", "sad": "happy"}
    assert conventions.fit(scores_of(labels[-4:], 1.0), labels[-4:]) is None


@pytest.fixture(scope="module")
def drawn():
    """Drawn faces: 825 to learn, 200 to ask."""
    train, validation = faces("train"), faces("validation")
    return train[0][::6], train[1][::6], validation[0][::4], validation[1][::4]


def test_drawn_faces_agree(drawn):
    assert conventions.compare(*drawn).agreed


@pytest.mark.parametrize("cycle", [(0, 1), (HAPPY, SURPRISE)])
def test_folders_exchanged_in_either_part_are_found(drawn, cycle):
    images, labels, others, other_labels = drawn
    expected = {LABELS[cycle[0]]: LABELS[cycle[1]], LABELS[cycle[1]]: LABELS[cycle[0]]}
    for found in (
        conventions.compare(images, labels, others, exchanged(other_labels, *cycle)),
        conventions.compare(images, exchanged(labels, *cycle), others, other_labels),
    ):
        assert found.exchanged
        assert found.moved == expected


def test_too_few_images_say_nothing(drawn):
    images, labels, others, other_labels = drawn
    assert conventions.compare(images, labels, others[:3], other_labels[:3]) is None


@pytest.fixture(scope="module")
def real(fer2013):
    """A third of Training, all of PublicTest."""
    pool = gather(opened(fer2013, SKIP))
    train, validation = pool.within("train"), pool.within("validation")
    third = np.flatnonzero(train)[::3]
    return pool.images[third], pool.labels[third], pool.images[validation], pool.labels[validation]


@pytest.mark.parametrize("cycle", [(), (0, 1), (0, 5), (4, 5, 6)])
def test_real_faces(real, cycle):
    images, labels, others, other_labels = real
    found = conventions.compare(images, labels, others, exchanged(other_labels, *cycle))
    assert found.agreed == (not cycle)
    assert found.exchanged == bool(cycle)
    assert set(found.moved) == {LABELS[a] for a in cycle}


OFFICIAL = {split: np.array(counts) for split, counts in known.KNOWN["FER2013"].items()}


@pytest.mark.parametrize("name", known.KNOWN)
def test_known_counts_are_recognised(name):
    found = known.recognise({s: np.array(counts) for s, counts in known.KNOWN[name].items()})
    assert found.name == name
    assert found.same
    assert found.missing == ()
    assert found.exchanged == {}


def test_the_known_counts_add_up():
    sums = [sum(map(sum, splits.values())) for splits in known.KNOWN.values()]
    assert sums == [35887] * 3
    assert [int(part.sum()) for part in OFFICIAL.values()] == [28709, 3589, 3589]


def test_a_missing_split_is_named():
    found = known.recognise({split: OFFICIAL[split] for split in ("train", "validation")})
    assert (found.name, found.same, found.missing) == ("FER2013", True, ("test",))


def test_differences_are_told_by_class():
    found = known.recognise({**OFFICIAL, "train": OFFICIAL["train"] + [10, 0, 0, -1, 0, 0, 0]})
    assert found.name == "FER2013"
    assert not found.same
    assert found.differences["train"] == (10, 0, 0, -1, 0, 0, 0)
    assert not any(found.differences["test"])
    assert found.exchanged == {}


def test_exchanged_counts_are_found_though_some_images_are_missing():
    counts = OFFICIAL["train"][exchanged(np.arange(7), 0, 1)] - [3, 0, 0, 0, 0, 0, 0]
    found = known.recognise({**OFFICIAL, "train": counts})
    assert found.name == "FER2013"
    assert found.exchanged == {"train": {"angry": "disgust", "disgust": "angry"}}


def test_other_data_are_no_known_set():
    found = known.recognise({"train": np.full(7, 4000), "validation": np.full(7, 500)})
    assert found.name is None
    assert not found.same
