"""What the drawn faces promise: fixed pictures, new people in validation, no linear shortcut."""

import hashlib
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from fer_jax.data import synthetic
from fer_jax.labels import LABELS


@pytest.fixture(scope="module")
def train():
    return synthetic.faces("train")


@pytest.fixture(scope="module")
def validation():
    return synthetic.faces("validation")


@pytest.mark.slow
@pytest.mark.parametrize("role", ["train", "validation"])
def test_a_role_holds_grey_pictures_of_all_classes(role, request):
    images, labels = request.getfixturevalue(role)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    assert images.shape == (sum(synthetic.COUNTS[role]), 48, 48)
    assert tuple(np.bincount(labels, minlength=7)) == synthetic.COUNTS[role]


@pytest.mark.slow
def test_no_person_and_no_picture_is_in_both_roles(train, validation):
    assert not set(synthetic.IDENTITIES["train"]) & set(synthetic.IDENTITIES["validation"])
    pictures = {image.tobytes() for image in train[0]}
    assert len(pictures) == len(train[0])
    assert not pictures & {image.tobytes() for image in validation[0]}


def test_person_view_and_expression_each_change_the_picture():
    face = synthetic.draw_face("happy", 1, 2)
    np.testing.assert_array_equal(face, synthetic.draw_face("happy", 1, 2))
    for other in [("happy", 2, 2), ("happy", 1, 3), ("sad", 1, 2)]:
        assert np.abs(face.astype(int) - synthetic.draw_face(*other)).mean() > 5


def test_the_same_in_every_python_process():
    script = (
        "import hashlib; from fer_jax.data.synthetic import draw_face; from fer_jax.labels import "
        "LABELS; print(hashlib.sha256(b''.join(draw_face(x, 5, 6).tobytes() for x in LABELS))"
        ".hexdigest())"
    )
    here = b"".join(synthetic.draw_face(label, 5, 6).tobytes() for label in LABELS)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONHASHSEED": "123", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == hashlib.sha256(here).hexdigest()


@pytest.mark.slow
def test_pictures_are_neither_flat_nor_burnt_out(validation):
    images = validation[0]
    assert images.std(axis=(1, 2)).min() > 6
    assert ((images == 0) | (images == 255)).mean() < 0.05


@pytest.mark.slow
def test_the_label_is_neither_in_brightness_nor_in_the_position_in_the_role(train):
    images, labels = train
    means = [images[labels == k].mean() for k in range(7)]
    assert np.ptp(means) < 12


@pytest.mark.slow
def test_a_linear_model_on_pixels_fails(train, validation):
    scaler = StandardScaler().fit(train[0].reshape(len(train[0]), -1).astype(np.float32))
    x, v = (
        scaler.transform(i.reshape(len(i), -1).astype(np.float32)) for i, _ in (train, validation)
    )
    model = LogisticRegression(C=1e-3, max_iter=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, train[1])
    assert model.score(x, train[1]) > 0.4  # it did learn its training pictures, far above chance
    assert model.score(v, validation[1]) < 0.6
