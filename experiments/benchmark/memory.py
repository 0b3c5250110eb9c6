"""The most memory that a process has had."""

import pathlib
import resource
import sys

PROCESS = pathlib.Path("/proc/self/status")


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    # Linux: ru_maxrss begins at the peak of whoever started this process (man 2 getrusage).
    try:
        lines = PROCESS.read_text().splitlines()
        kib = next(float(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 2**10 if sys.platform == "darwin" else 1
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return round(kib / 2**10, 1)
