"""Devices, processes and shardings: one data axis over everything there is."""

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fer_jax.data.pipeline import Shard
from fer_jax.errors import FerError, UserError, one_line

AXIS = "data"
WIDE = {"xla_cpu_prefer_vector_width": 512}  # bits: XLA's own 256 leave half of AVX-512 idle
REDUCE = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
ANSWERING = WIDE | REDUCE  # sums alone by YNNPACK, products by Eigen: experiments/speed.md
HEARTBEAT = 30  # seconds without a sign of another process until it counts as lost
LOST = "another process of this run was lost ({}): start all again, they go on where it is saved"


def data_mesh() -> Mesh:
    """All devices of all processes along one axis, `data`; process p has the p-th part of it."""
    # Not jax.make_mesh: on TPUs it goes round the hosts, and rows would leave their processes.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """The leading (batch) axis divided over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def on_cpu(options: dict[str, Any]) -> dict[str, Any] | None:
    """Options of XLA to compile with, where they matter; without those that it does not know."""
    cpu = jax.default_backend() == "cpu"
    return {name: to for name, to in options.items() if _known(name, to)} if cpu else None


@functools.cache
def _known(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda: 0).lower().compile({name: value})
    except jax.errors.JaxRuntimeError:  # an XLA of another year
        return False
    return True


def check_batch_size(name: str, batch_size: int) -> None:
    """UserError unless the global batch divides evenly over all devices."""
    devices = jax.device_count()
    if batch_size <= 0 or batch_size % devices:
        raise UserError(f"{name}={batch_size} must be a positive multiple of {devices} devices")


def to_devices(tree: Any, sharding: NamedSharding) -> Any:
    """This process's blocks of host arrays, such as a batch -> the global arrays.

    Where they are to be whole on every device, each process has the whole of them.
    """
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def shard() -> Shard:
    """This process's part of the data."""
    return Shard(jax.process_index(), jax.process_count())


def check_same(name: str, digest: str) -> None:
    """UserError unless the hexadecimal `digest` is the same in every process; all must call."""
    if jax.process_count() > 1:
        own = np.frombuffer(bytes.fromhex(digest), np.uint8)
        if (multihost_utils.process_allgather(own) != own).any():
            raise UserError(f"{name} is not the same file for every process: copy one to all")


def start(coordinator: str, processes: int, process: int) -> None:
    """Join the other processes at `coordinator` (host:port; `auto`: as the cluster says; or none).

    To be called before anything is computed.
    """
    join = functools.partial(jax.distributed.initialize, heartbeat_timeout_seconds=HEARTBEAT)
    if coordinator == "auto":
        try:
            join()
        except ValueError as error:  # where nothing says so
            raise UserError("--coordinator=auto: no scheduler is here; give HOST:PORT") from error
    elif coordinator:
        if not 0 <= process < processes:
            raise UserError(f"--process={process} must be from 0 to --processes - 1")
        join(coordinator, num_processes=processes, process_id=process)
    elif processes > 1 or process:
        raise UserError("--processes and --process need --coordinator=HOST:PORT, or auto")


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Of several processes, one that fails says why and ends at once: the others wait for none."""
    try:
        yield
    except (FerError, jax.errors.JaxRuntimeError) as error:
        if jax.process_count() == 1:
            raise
        failed = error if isinstance(error, FerError) else FerError(LOST.format(one_line(error)))
        print(f"error: {failed}", file=sys.stderr, flush=True)
        os._exit(failed.status)  # Python's end would wait for them


def is_first() -> bool:
    """Whether this is process 0, the only one that writes and prints."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Print from process 0 alone."""
    if is_first():
        print(text, flush=True)


def devices_line() -> str:
    """What JAX computes on; beside it JAX warns of an accelerator that is there and not used."""
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)  # commands show errors alone
    device = jax.devices()[0]
    line = f"{jax.device_count()} x {device.device_kind} ({device.platform})"
    if jax.process_count() > 1:
        line += f" in {jax.process_count()} processes"
    if device.platform == "cpu" and "tcmalloc" in os.environ.get("LD_PRELOAD", ""):
        line += ", memory by tcmalloc"
    return line
