"""The restart with huge pages: once, only where glibc reads the wish, and never over the user's."""

import os
import subprocess
import sys

import pytest

from fer_jax import cli

SCRIPT = """
import os, sys
from fer_jax import cli
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], flush=True)
cli.restart_with_huge_pages()
"""


def starts(variables):
    """What a process that asks for the restart prints at each of its starts."""
    environment = {k: v for k, v in os.environ.items() if k != cli.TUNABLES} | variables
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-W", "error", "-c", SCRIPT, "one flag"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.skipif(not cli._reads_tunables(), reason="no glibc of 2.35 or newer")
def test_the_process_restarts_once_as_itself():
    first, second = starts({})
    pid, setting, arguments = second.split(" ", 2)
    assert (pid, setting) == (first.split(" ")[0], cli.HUGE_PAGES)
    assert arguments == "['one flag']"


def test_a_users_setting_is_left_alone():
    assert len(starts({cli.TUNABLES: "glibc.malloc.check=0"})) == 1


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.delenv(cli.TUNABLES, raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    cli.restart_with_huge_pages()
    assert cli.TUNABLES not in os.environ
