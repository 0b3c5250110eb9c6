"""Whether the machine has the memory to let a contestant's process wait for its second visit."""

import pathlib
import subprocess
from collections.abc import Mapping

TIMES = 2  # of its own peak must be free beside it: for the next, and for what is not foreseen
MEMORY = pathlib.Path("/proc/meminfo")
QUERY = ("nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits")


def can_wait(peaks: Mapping[str, float], gpu: bool) -> bool:
    """`peaks` in MiB as `Child.memory` has them; no where one is not known."""
    enough = host_mib() >= TIMES * peaks["peak_mib"]
    if not gpu:
        return enough
    on_device = peaks.get("device_peak_mib", float("inf"))
    return enough and device_mib() >= TIMES * on_device


def host_mib() -> float:
    """What Linux would still give; elsewhere 0, so that nobody waits."""
    try:
        lines = MEMORY.read_text().splitlines()
    except OSError:
        return 0.0
    found = [float(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return found[0] / 2**10 if found else 0.0


def device_mib() -> float:
    """Free on the fullest GPU; 0 where none can be asked."""
    try:
        said = subprocess.run(QUERY, capture_output=True, text=True, check=True).stdout
        return min(map(float, said.split()), default=0.0)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return 0.0
