"""The first line of a run: an accelerator that is there and not used is said before all else."""

import jax
import pytest

from fer_jax.training import mesh


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
