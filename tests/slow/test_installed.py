"""The wheel, alone in an environment and a folder of its own; and the command as a process."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import ROOT

USE = """
import sys, fer_jax, numpy as np
assert "site-packages" in fer_jax.__file__, fer_jax.__file__
((face,),) = fer_jax.load(detector="none").predict(np.zeros((48, 48), np.uint8))
print(face.label)
import fer_jax, pathlib
assert (pathlib.Path(fer_jax.__file__).parent / "recognition/page/index.html").exists()
"""


def run(*command: object, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=own, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has our wheel, and this one's other packages."""
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(
        ROOT, folder / "source", symlinks=True, ignore=shutil.ignore_patterns(".*", "tests", "runs")
    )
    build = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder)
    made = run(*build, source, folder=folder)
    assert made.returncode == 0, made.stderr
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    done = run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, folder=folder)
    assert done.returncode == 0, done.stderr
    packages = next((folder / "env" / "lib").glob("python*/site-packages"))
    (packages / "others.pth").write_text(str(Path(np.__file__).parents[1]))
    return python


@pytest.mark.timeout(600)
def test_the_shipped_weights_answer_from_an_empty_folder(installed: Path, tmp_path: Path):
    done = run(installed, "-c", USE, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.timeout(600)
def test_a_packaged_config_trains_by_its_name(installed: Path, tmp_path: Path):
    script = installed.with_name("fer-jax")
    asked = ("train", "--config=smoke", "--dry_run")
    done = run(script, *asked, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trainable parameters" in done.stdout


@pytest.mark.timeout(600)
def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path):
    image = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    for number in range(300):
        Image.fromarray(image).save(tmp_path / f"{number:03}.png")
    command = f"{sys.executable} -m fer_jax.recognise --crop=whole {tmp_path} | head -n 1"
    done = run("bash", "-o", "pipefail", "-c", command, folder=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["file"].endswith("000.png")
