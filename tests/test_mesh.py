"""Devices in the order of their processes; an accelerator that is not used is said first."""

import dataclasses
import random

import jax
import numpy as np
import pytest

from fer_jax.errors import UserError
from fer_jax.training import mesh


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh asks of one."""

    process_index: int
    id: int
    platform: str = "tpu"


def test_each_process_has_its_part_of_the_mesh(monkeypatch):
    """Rows of a batch are given by process; labels are matched to answers by their order."""
    devices = [Device(chip // 4, chip) for chip in range(16)]
    random.Random(0).shuffle(devices)
    monkeypatch.setattr(jax, "devices", lambda: devices)
    along = mesh.data_mesh().devices
    assert [device.process_index for device in along] == np.repeat(range(4), 4).tolist()
    assert len(set(along)) == 16


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without accelerators, whose lists of devices tests may add to."""
    monkeypatch.setattr(mesh, "NVIDIA", tmp_path / "nvidia")
    monkeypatch.setattr(mesh, "PCI", tmp_path / "pci")
    return tmp_path


def pci(machine, vendor, device):
    place = machine / "pci" / f"0000:00:0{device[-1]}.0"
    place.mkdir(parents=True)
    (place / "vendor").write_text(f"{vendor}\n")
    (place / "device").write_text(f"{device}\n")


def test_a_machine_without_accelerators(machine):
    pci(machine, "0x1ae0", "0x0042")  # Google's network card is no TPU
    pci(machine, "0x8086", "0x0063")
    assert mesh.devices_line() == f"{jax.device_count()} x cpu (cpu)"


def test_an_unused_gpu_is_said_first(machine):
    (machine / "nvidia/0000:00:04.0").mkdir(parents=True)
    line = mesh.devices_line()
    assert line.startswith("an NVIDIA GPU is present but JAX does not use it")
    assert "ACCELERATOR=cuda13" in line


def test_a_driver_without_a_gpu_is_none(machine):
    (machine / "nvidia").mkdir()
    assert mesh.devices_line().startswith(f"{jax.device_count()} x cpu")


@pytest.mark.parametrize("device", ["0x005e", "0x0063", "0x006f"])
def test_an_unused_tpu_is_said_first(machine, device):
    pci(machine, "0x1ae0", device)
    line = mesh.devices_line()
    assert line.startswith("a TPU is present but JAX does not use it")
    assert "ACCELERATOR=tpu" in line


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (
            jax.errors.JaxRuntimeError("Connection closed\nby peer"),
            1,
            "was lost (Connection closed",
        ),
        (UserError("no room"), 2, "error: no room"),
    ],
)
def test_one_of_several_processes_that_fails_says_so_and_waits_for_none(
    error, status, words, monkeypatch, capsys
):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    ended = []
    monkeypatch.setattr(mesh.os, "_exit", ended.append)
    with mesh.ending_together():
        raise error
    assert ended == [status]
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_one_process_alone_raises_as_it_is():
    with pytest.raises(UserError, match="no room"), mesh.ending_together():
        raise UserError("no room")
