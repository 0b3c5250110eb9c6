"""Configs by name, from anywhere."""

import pytest
from support import ROOT

from fer_jax.config import load_config, named_config


def test_a_packaged_config_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named_config("--config=b2_cpu") == f"--config={ROOT / 'configs' / 'b2_cpu.py'}"


@pytest.mark.parametrize(
    "given", ["--config=configs/b2.py", "--config=mine", "--workdir=b2", "b2", "--config.seed=1"]
)
def test_everything_else_stays_as_it_is(given):
    assert named_config(given) == given


def test_a_file_of_the_user_s_comes_before_the_packaged_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b2").write_text("")
    assert named_config("--config=b2") == "--config=b2"


def test_a_config_may_have_a_packaged_parent(tmp_path):
    mine = tmp_path / "mine.py"
    assert load_config(mine, "b2.py").model.variant == "b2"
    (tmp_path / "b2.py").write_text("def get_config():\n    return {'own': 1}\n")
    assert load_config(mine, "b2.py") == {"own": 1}
