"""The page in a real browser: the answers that Python gives, and no request to anybody else."""

import json
import re
import shutil
import signal
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
def photograph(tmp_path_factory):
    """uint8 [512, 512, 3] with one face, and its file."""
    from skimage import data

    path = tmp_path_factory.mktemp("photograph") / "astronaut.png"
    Image.fromarray(data.astronaut()).save(path)
    return data.astronaut(), path


@pytest.fixture(scope="module")
def seen(photograph, tmp_path_factory):
    """What the driver saw of the page that `fer-jax serve` shows."""
    browser = shutil.which("chromium")
    if not browser:
        pytest.skip("no chromium here, and `make browser` could not install it")
    if not PLAYWRIGHT.is_dir() or not shutil.which("node"):
        pytest.skip("no playwright-core here, and `make browser` could not install it")
    folder = tmp_path_factory.mktemp("page")
    driver = shutil.copy(DRIVER, folder)
    (folder / "node_modules").symlink_to(PLAYWRIGHT)
    film = folder / "film.mjpeg"
    Image.fromarray(photograph[0]).save(folder / "frame.jpg", quality=95)
    film.write_bytes(10 * (folder / "frame.jpg").read_bytes())

    with start("web", ["--port=0"]) as server:
        try:
            url = server.stdout.readline().split()[0]
            command = ["node", driver, url, browser, photograph[1], film, folder]
            done = subprocess.run(
                list(map(str, command)), capture_output=True, text=True, timeout=500
            )
        finally:
            server.send_signal(signal.SIGINT)
    assert (done.returncode, server.returncode) == (0, 0), done.stderr
    return json.loads(done.stdout) | {"url": url}


@pytest.fixture(scope="module")
def python(photograph, tmp_path_factory):
    """Box, landmarks and the exported file's probabilities of face and whole picture, by Python."""
    model, picture = fer_jax.load(), photograph[0]
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export_onnx(path, model.model.file(), "int8")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(SESSION_OPTION, "1")
    session = onnxruntime.InferenceSession(path, options)
    ((face,),) = model.predict(picture)
    whole = (0.0, 0.0, 512.0, 512.0)
    images = [model.seen(picture, face.box, face.landmarks), model.seen(picture, whole, None)]
    return face, session.run(["probabilities"], {"images": np.stack(images)})[0]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["dropped", "pasted", "chosen"])
def test_a_photograph_has_the_box_and_the_probabilities_that_python_gives(seen, python, how):
    (found,), (face, (probabilities, _)) = seen[how]["faces"], python
    np.testing.assert_allclose(found["box"], face.box, atol=0.01)
    np.testing.assert_allclose(found["landmarks"], face.landmarks, atol=0.01)
    np.testing.assert_allclose(found["detection"], face.detection, atol=1e-4)
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-2)


def test_a_picture_may_be_taken_for_a_face(seen, python):
    (found,), (_, (_, probabilities)) = seen["whole"]["faces"], python
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-2)


def test_the_camera_is_watched_until_it_is_stopped(seen, python):
    for answer in (seen["watched"], seen["later"]):
        (found,), (face, _) = answer["faces"], python
        np.testing.assert_allclose(found["box"], face.box, atol=8)  # a frame is a JPEG
        assert np.argmax(found["probabilities"]) == np.argmax(list(face.probabilities.values()))
    assert (seen["playing"], seen["stopped"]) == (True, True)


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
    assert "one of seven words" in seen["card"]
    assert "Decisions about people" in seen["card"]
    assert seen["overflow"] <= 0
    red, *_ = map(int, re.findall(r"\d+", seen["dark"]))
    assert red < 60
