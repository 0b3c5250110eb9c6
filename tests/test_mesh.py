"""Devices by process; unused accelerators and unknown options."""

import dataclasses
import logging
import random

import jax
import numpy as np
import pytest
from jax._src import xla_bridge

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


def test_the_line_says_what_jax_computes_on(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libtcmalloc_minimal.so.4")
    assert mesh.devices_line() == f"{jax.device_count()} x cpu (cpu), memory by tcmalloc"


def test_an_option_that_this_xla_does_not_know_is_left_out():
    assert mesh.on_cpu(mesh.WIDE | {"xla_cpu_of_another_year": True}) == mesh.WIDE


def test_jaxs_word_of_an_unused_accelerator_passes_our_filter(monkeypatch, caplog):
    """Commands show other libraries' errors alone, else Orbax would narrate every save."""
    monkeypatch.setattr(xla_bridge.hardware_utils, "has_visible_nvidia_gpu", lambda: True)
    monkeypatch.setattr(logging.getLogger(), "level", logging.ERROR)
    mesh.devices_line()
    xla_bridge._suggest_missing_backends()
    assert "An NVIDIA GPU may be present on this machine" in caplog.text


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


@pytest.mark.parametrize("told", [(2, 0), (1, 1)])
def test_several_processes_need_to_be_told_where_to_meet(told):
    """Else each would train alone."""
    with pytest.raises(UserError, match="need --coordinator=HOST:PORT"):
        mesh.start("", *told)


def test_one_process_alone_raises_as_it_is():
    with pytest.raises(UserError, match="no room"), mesh.ending_together():
        raise UserError("no room")
