"""A prepare that is killed while it writes leaves nothing that looks finished, or stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from made_data import OPTIONS, make_rows, seed_files, write_folder

from fer_jax.data.sources import read_dataset

ROOT = Path(__file__).resolve().parents[2]


def test_a_killed_prepare_leaves_nothing_that_looks_finished(tmp_path):
    rows = make_rows(42) * 40
    write_folder(tmp_path / "a", seed_files(rows))
    flags = [f"--source={tmp_path / 'a'}", f"--output={tmp_path / 'b'}"]
    command = [sys.executable, "-m", "fer_jax.prepare", *flags]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".b-unfinished-*/*/*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "b").exists()
    assert list(tmp_path.glob(".b-unfinished-*"))
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert "removed" in again.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert len(read_dataset(str(tmp_path / "b"), OPTIONS).roles["train"]) == len(rows) // 3
