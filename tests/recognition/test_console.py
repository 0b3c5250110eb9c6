"""The console script: every command by its name, and help at once."""

import importlib.util
import subprocess
import sys

import pytest
from support import ROOT

from fer_jax import console


def script(*given: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "fer_jax.console", *given]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_help_names_every_command_and_loads_nothing():
    done = script("--help")
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in console.COMMANDS)
    code = "import sys; import fer_jax.console; print({'jax', 'numpy', 'absl'} & set(sys.modules))"
    light = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert light.stdout == "set()\n"


def test_an_unknown_command_is_one_line():
    done = script("recognize")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no command 'recognize': one of recognise, train")
    assert done.stderr.count("\n") == 1


def test_the_command_gets_its_arguments_and_its_status_is_returned():
    done = script("compare", "one")
    assert done.returncode == 2
    assert done.stderr.startswith("error: give two or more reports")


@pytest.mark.parametrize("module", [module for module, _ in console.COMMANDS.values()])
def test_every_command_is_a_module(module):
    assert importlib.util.find_spec(f"fer_jax.{module}") is not None
