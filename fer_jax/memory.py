"""Huge pages for the C library's memory: on a CPU, page faults are a third of a training step."""

import os
import sys

VARIABLE, HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"


def restart_with_huge_pages() -> None:
    """Replace this process by itself with huge pages asked for, where glibc reads the wish.

    XLA's CPU backend allocates a step's gigabytes anew each time, and glibc decides at its start
    how they are mapped. A set GLIBC_TUNABLES is left alone: the user's, or ours after the restart.
    """
    if VARIABLE in os.environ or not _reads_tunables():
        return
    os.environ[VARIABLE] = HUGE_PAGES
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _reads_tunables() -> bool:
    """Linux with glibc 2.35 or newer."""
    if not sys.platform.startswith("linux"):
        return False
    name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    return name == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 35)
