"""The restart with huge pages: once, on Linux alone, and never over the user's wish."""

import os
import pathlib
import subprocess
import sys

import pytest

from fer_jax import cli

SCRIPT = """
import os, sys
from fer_jax import cli
maps = open("/proc/self/maps").read() if sys.platform == "linux" else ""
tcmalloc = "tcmalloc" if "libtcmalloc_minimal" in maps else "libc"
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), tcmalloc, sys.argv[1:], flush=True)
cli.restart_with_allocator()
"""


def starts(variables):
    """What a process that asks for the restart prints at each of its starts."""
    ours = (cli.TUNABLES, cli.PRELOAD, cli.SWITCH)
    environment = {k: v for k, v in os.environ.items() if k not in ours} | variables
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-W", "error", "-c", SCRIPT, "one flag"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's allocators are chosen")
def test_the_process_restarts_once_as_itself():
    first, second = starts({})
    pid, setting, _, arguments = second.split(" ", 3)
    assert (pid, setting) == (first.split(" ")[0], cli.HUGE_PAGES)
    assert arguments == "['one flag']"


INSTALLED = any(place for name in cli.TCMALLOC for place in pathlib.Path("/usr").glob(name))


@pytest.mark.skipif(not INSTALLED, reason="tcmalloc (libtcmalloc-minimal4) is not installed")
def test_memory_comes_from_tcmalloc_where_it_is_installed_unless_told_otherwise():
    served = [starts(told)[-1].split(" ")[2] for told in ({}, {cli.SWITCH: "libc"})]
    assert served == ["tcmalloc", "libc"]
    assert starts({cli.PRELOAD: ""})[-1].split(" ")[2] == "libc"  # the user's own


def test_a_users_setting_is_left_alone():
    assert len(starts({cli.TUNABLES: "glibc.malloc.check=0"})) == 1


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.delenv(cli.TUNABLES, raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    cli.restart_with_allocator()
    assert cli.TUNABLES not in os.environ
