"""The wheel, alone in an environment and a folder of its own; and the command as a process."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import ROOT, compile_cache

from experiments import licences
from fer_jax.labels import LABELS

CALM = ("--quiet", "--retries=10", "--timeout=60")
NOT_PACKAGED = (".*", "tests", "runs", "experiments", "docs", "site")
USE = """
import sys, fer_jax, numpy as np
assert "site-packages" in fer_jax.__file__, fer_jax.__file__
((face,),) = fer_jax.load(detector="none").predict(np.zeros((48, 48), np.uint8))
print(face.label)
import fer_jax, pathlib
assert (pathlib.Path(fer_jax.__file__).parent / "recognition/page/index.html").exists()
"""


MODEL = {"model.variant": "mini", "model.head_filters": 16, "data.image_size": 16}
SMALL = [f"--config.{key}={value}" for key, value in MODEL.items()]  # sooner compiled


def run(*command: object, folder: Path, good: bool = False) -> subprocess.CompletedProcess:
    own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | compile_cache()
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=own, capture_output=True, text=True
    )
    assert done.returncode == 0 or not good, done.stderr
    return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment, into which pip put our wheel and what that asks for."""
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(
        ROOT, folder / "source", symlinks=True, ignore=shutil.ignore_patterns(*NOT_PACKAGED)
    )
    build = (sys.executable, "-m", "pip", "wheel", *CALM, "--no-deps", "--wheel-dir", folder)
    run(*build, source, folder=folder, good=True)
    (wheel,) = folder.glob("*.whl")

    # Pinned as everywhere, with the extra that finds faces; nothing of this environment is seen.
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    pins = ("--constraint", ROOT / "constraints.txt", f"{wheel}[faces]")
    done = run(python, "-m", "pip", "install", *CALM, "--no-compile", *pins, folder=folder)
    if "No matching distribution" in done.stderr and "connection" in done.stderr.lower():
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    return python


@pytest.mark.timeout(1200)
def test_the_shipped_weights_answer_from_an_empty_folder(installed: Path, tmp_path: Path):
    done = run(installed, "-c", USE, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.timeout(600)
def test_a_packaged_config_trains_by_its_name(installed: Path, tmp_path: Path):
    script = installed.with_name("fer-jax")
    asked = ("train", "--config=smoke", "--dry_run", *SMALL)
    done = run(script, *asked, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trainable parameters" in done.stdout


@pytest.mark.timeout(1200)
def test_it_trains_evaluates_and_recognises(installed: Path, small_csv: Path, tmp_path: Path):
    """Each command as the script, from an empty folder, of a model that the first one made."""
    script, made = installed.with_name("fer-jax"), ("--workdir=run", "--config=smoke")
    keys = (*SMALL, "--config.train.epochs=1", f"--config.data.path={small_csv}")
    run(script, "train", *made, *keys, folder=tmp_path, good=True)
    run(script, "evaluate", "--checkpoint=run", "--split=test", folder=tmp_path, good=True)
    report = json.loads((tmp_path / "run" / "report-test" / "report.json").read_text())
    assert report["n"] == 14
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    asked = ("recognise", "face.png", "--model=run", "--crop=whole")
    row = json.loads(run(script, *asked, folder=tmp_path, good=True).stdout)
    assert row["label"] in LABELS


def test_the_page_of_licences_names_all_that_is_needed():
    page = licences.PAGE.read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for line in licences.rows(project["dependencies"]):
        name, _, licence = line.split(" | ")
        assert f"| {name} | " in page, f"{name}: python -m experiments.licences"
        assert licence != "not declared"


@pytest.mark.timeout(600)
def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path):
    image = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    for number in range(300):
        Image.fromarray(image).save(tmp_path / f"{number:03}.png")
    command = f"{sys.executable} -m fer_jax.recognise --crop=whole {tmp_path} | head -n 1"
    done = run("bash", "-o", "pipefail", "-c", command, folder=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["file"].endswith("000.png")
