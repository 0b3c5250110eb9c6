"""Memory: the most a process has had, and whether there is enough for one to wait its turn."""

import pathlib
import resource
import subprocess
import sys
from collections.abc import Mapping

TIMES = 2  # of its own peak must be free beside it: for the next, and for what is not foreseen
MACHINE = pathlib.Path("/proc/meminfo")
PROCESS = pathlib.Path("/proc/self/status")
QUERY = ("nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits")


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    # Linux: ru_maxrss begins at the peak of whoever started this process (man 2 getrusage).
    peak = _mib(PROCESS, "VmHWM:")
    if peak is None:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return round(peak, 1)


def can_wait(peaks: Mapping[str, float], gpu: bool) -> bool:
    """`peaks` in MiB as `Child.memory` has them; no where one is not known."""
    enough = host_mib() >= TIMES * peaks["peak_mib"]
    if not gpu:
        return enough
    on_device = peaks.get("device_peak_mib", float("inf"))
    return enough and device_mib() >= TIMES * on_device


def host_mib() -> float:
    """What Linux would still give; elsewhere 0, so that nobody waits."""
    return _mib(MACHINE, "MemAvailable:") or 0.0


def device_mib() -> float:
    """Free on the fullest GPU; 0 where none can be asked."""
    try:
        said = subprocess.run(QUERY, capture_output=True, text=True, check=True).stdout
        return min(map(float, said.split()), default=0.0)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return 0.0


def _mib(path: pathlib.Path, name: str) -> float | None:
    """A line of one of Linux's tables, there in kB; None where it is not."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) / 2**10 for line in lines if line.startswith(name)), None)
