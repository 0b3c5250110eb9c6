"""The README is short, its figures are the reports', and its ten-line recipes work."""

import json
import re
import sys
from types import ModuleType

import jax.numpy as jnp
import numpy as np
import pytest
from support import EVERY_AUGMENTATION, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs/results.md").read_text(encoding="utf-8")
REPORT = re.compile(r"experiments/results/(\w+)/report\.md")
ROWS = [
    line for line in (README + RESULTS).splitlines() if line.startswith("|") and REPORT.search(line)
]
LOSS, MODEL, AUGMENTATION = re.findall(r"^```diff\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_it_is_two_pages():
    assert len(README.split()) <= 1200


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_its_report_s_figures(row):
    report = json.loads(
        (ROOT / "experiments/results" / REPORT.search(row)[1] / "report.json").read_text()
    )
    low, high = report["accuracy_95_interval"]
    assert f"{100 * report['accuracy']:.2f} %" in row
    assert f"({100 * low:.2f} to {100 * high:.2f})" in row
    assert f"{100 * report['clean']['accuracy']:.2f} %" in row
    for interval in re.findall(r"\(([\d.]+ to [\d.]+)\)", row)[1:]:
        low, high = report["clean"]["accuracy_interval"]
        assert interval == f"{100 * low:.2f} to {100 * high:.2f}"


def applied(recipe: str) -> dict[str, str]:
    """File -> its text after the recipe, whose lines without + must be there, each just once."""
    texts: dict[str, str] = {}
    name, place = "", 0
    for line in recipe.splitlines():
        if line.startswith("+++ "):
            name, place = line[4:], 0
            texts[name] = (ROOT / name).read_text()
            continue
        text, kind, content = texts[name], line[0], line[1:]
        if kind == "+":
            texts[name] = f"{text[:place]}{content}\n{text[place:]}"
            place += len(content) + 1
            continue
        assert text.count(f"\n{content}") == 1, f"{name}: {content}"
        start = text.index(f"\n{content}") + 1
        end = text.index("\n", start) + 1
        texts[name] = text[:start] + text[end:] if kind == "-" else text
        place = start if kind == "-" else end
    return texts


@pytest.fixture
def changed(monkeypatch):
    """Makes a module of changed text, under a name of its own."""

    def make(text: str) -> ModuleType:
        module = ModuleType("changed_by_recipe")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(text, module.__name__, "exec"), module.__dict__)
        return module

    return make


def value_of(text: str, section: str, key: str) -> float:
    """What a changed configs/b2.py gives a new key."""
    scope: dict = {}
    exec(text, scope)
    return scope["get_config"]()[section][key]


def test_the_recipe_of_a_loss(changed):
    texts = applied(LOSS)
    losses = changed(texts["fer_jax/training/losses.py"])
    logits, counts = jnp.eye(7)[:4] * 3.0, np.ones(7)

    def loss_at(focal: float) -> float:
        config = losses.LossConfig("none", 0.0, focal, 0.0, 1.0)
        objective = losses.make_objective(config, counts)
        return float(objective.loss(logits, objective.targets(jnp.arange(4), None)))

    off = value_of(texts["configs/b2.py"], "loss", "focal")
    likely = np.exp(3.0) / (np.exp(3.0) + 6)
    assert loss_at(off) == pytest.approx(-np.log(likely), rel=1e-5)
    assert loss_at(2.0) == pytest.approx(-np.log(likely) * (1 - likely) ** 2, rel=1e-5)


def test_the_recipe_of_a_model(changed):
    efficientnet = changed(applied(MODEL)["fer_jax/models/efficientnet.py"])
    table = efficientnet.block_table("slim", 0.0)
    assert len(table) < len(efficientnet.block_table("b0", 0.0))
    assert table[-1].filters_out == 160


def test_the_recipe_of_an_augmentation(changed):
    texts = applied(AUGMENTATION)
    augment = changed(texts["fer_jax/data/augment.py"])
    still = dict.fromkeys(vars(EVERY_AUGMENTATION), 0.0) | {"flip": False, "crop_area": 1.0}
    image, draws = np.full((8, 8, 1), 64, np.uint8), np.full((1, augment.DRAWS), 0.5)
    draws[0, 16] = 0.75  # half way up

    def level(gamma: float) -> int:
        settings = augment.AugmentConfig(**still, gamma=gamma)
        (moved,) = augment.augment([image], draws, 8, settings)
        return int(moved[4, 4, 0])

    assert augment.DRAWS % 4 == 0
    assert level(value_of(texts["configs/b2.py"], "augment", "gamma")) == 64
    assert level(0.5) == round(255 * (64 / 255) ** 1.25)
    assert "BATCHES = 3" in texts["fer_jax/config.py"]
