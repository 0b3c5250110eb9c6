"""The page in a real browser: the answers that Python gives, and no request to anybody else."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from support import ROOT, start

import fer_jax
from fer_jax.conversion.onnx import SESSION_OPTION, export_onnx

DRIVER = Path(__file__).with_name("drive_page.mjs")
PLAYWRIGHT = ROOT / ".browser" / "node_modules"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A photograph of one face, one of a group, and the first one as a camera's film."""
    from skimage import data

    place = tmp_path_factory.mktemp("page")
    one = Image.fromarray(data.astronaut())
    one.save(place / "one.png")
    one.save(place / "frame.jpg", quality=95)
    (place / "film.mjpeg").write_bytes(10 * (place / "frame.jpg").read_bytes())

    # Larger, tilted, smaller, and cut off by the border.
    group = Image.new("RGB", (1000, 800), "white")
    group.paste(one.crop((100, 0, 350, 250)).resize((500, 500)), (0, 0))
    group.paste(one.rotate(18, Image.Resampling.BICUBIC, center=(226, 120)), (500, 0))
    group.paste(one.resize((300, 300)), (0, 500))
    group.paste(one.crop((195, 40, 400, 340)), (400, 500))
    group.save(place / "group.png")
    return place


@pytest.fixture(scope="module")
def seen(folder):
    """What the driver saw of the page that `fer-jax serve` shows."""
    browser = shutil.which("chromium")
    if not browser:
        pytest.skip("no chromium here, and `make browser` could not install it")
    if not PLAYWRIGHT.is_dir() or not shutil.which("node"):
        pytest.skip("no playwright-core here, and `make browser` could not install it")
    driver = shutil.copy(DRIVER, folder)
    (folder / "node_modules").symlink_to(PLAYWRIGHT)
    with start("web", ["--port=0"]) as server:
        try:
            said = server.stdout.readline().split()
            if not said and "npm cannot bring" in (error := server.stderr.read()):
                pytest.skip(error)
            url = said[0]
            command = ["node", driver, url, browser, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=500)
        finally:
            server.terminate()
    assert (done.returncode, server.returncode) == (0, 0), done.stderr
    return json.loads(done.stdout) | {"url": url}


@pytest.fixture(scope="module")
def python(folder):
    """Name -> faces, and their probabilities by the exported file in Python's ONNX Runtime."""
    model = fer_jax.load()
    export_onnx(folder / "model.onnx", model.model.file(), "int8")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(SESSION_OPTION, "1")
    session = onnxruntime.InferenceSession(folder / "model.onnx", options)
    answers = {}
    for name, crop in (("one", "detect"), ("group", "detect"), ("one", "whole")):
        pixels = np.asarray(Image.open(folder / f"{name}.png"))
        (found,) = model.predict(pixels, crop=crop)
        images = np.stack([model.seen(pixels, face.box, face.landmarks) for face in found])
        (probabilities,) = session.run(["probabilities"], {"images": images})
        answers[name if crop == "detect" else crop] = found, probabilities
    return answers


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("how", "name", "count"), [("dropped", "one", 1), ("pasted", "one", 1), ("chosen", "group", 4)]
)
def test_a_photograph_has_the_boxes_and_the_probabilities_of_python(seen, python, how, name, count):
    faces, (expected, probabilities) = seen[how]["faces"], python[name]
    assert len(faces) == len(expected) == count
    for face, ours, shares in zip(faces, expected, probabilities, strict=True):
        # Of a picture made smaller one value in 1,000 may be rounded the other way.
        np.testing.assert_allclose(face["box"], ours.box, atol=0.5)
        np.testing.assert_allclose(face["landmarks"], ours.landmarks, atol=0.5)
        np.testing.assert_allclose(face["detection"], ours.detection, atol=1e-3)
        np.testing.assert_allclose(face["probabilities"], shares, atol=1e-2)


def test_a_picture_may_be_taken_for_a_face(seen, python):
    (face,), (_, probabilities) = seen["whole"]["faces"], python["whole"]
    np.testing.assert_allclose(face["probabilities"], probabilities[0], atol=1e-2)


def test_the_camera_is_watched_until_it_is_stopped(seen, python):
    (expected,), (shares,) = python["one"]
    for answer in (seen["watched"], seen["later"]):
        (face,) = answer["faces"]
        np.testing.assert_allclose(face["box"], expected.box, atol=8)  # a frame is a JPEG
        assert np.argmax(face["probabilities"]) == np.argmax(shares)
    assert (seen["playing"], seen["stopped"]) == (True, True)


def test_a_camera_that_is_allowed_late_disturbs_nothing(seen):
    status, streams = seen["undisturbed"]
    assert status.startswith("1 face")
    assert streams == [False]
    # Asked for twice, the last question is the one that counts.
    assert seen["one_stream"] == [False, True, False]
    assert seen["no_stream"] == [False, False, False]


def test_a_picture_that_is_too_large_is_let_go(seen):
    assert seen["large_is_closed"]


def test_a_camera_that_is_gone_is_not_watched_on(seen):
    assert seen["unplugged"] == ["The camera is gone.", False]
    assert "https" in seen["no_camera"]


def test_no_request_leaves_the_origin(seen):
    """Those of the worker and of WebAssembly's threads are among them."""
    asked = [urlsplit(request) for request in seen["requests"]]
    assert {f"{one.scheme}://{one.netloc}/" for one in asked if one.scheme != "blob"} == {
        seen["url"]
    }
    assert {"/model.onnx", "/ort-wasm-simd-threaded.wasm", "/onet.onnx"} <= {o.path for o in asked}
    assert seen["problems"] == []
    assert seen["isolated"] is True


def test_people_read_and_set_it_by_keyboard_on_a_phone_and_in_the_dark(seen):
    assert re.fullmatch(r"1 face in \d+\.\d s: happy \d\d %\.", seen["status"])
    assert (seen["unsure"], seen["sure"]) == (["not sure"], ["happy"])
    assert re.fullmatch(r"1 face in \d+\.\d s: not sure \d\d %\.", seen["unsure_status"])
    assert "one of the seven classes" in seen["card"]
    assert "Decisions about people" in seen["card"]
    assert seen["overflow"] <= 0
    red, *_ = map(int, re.findall(r"\d+", seen["dark"]))
    assert red < 60
