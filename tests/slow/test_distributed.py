"""Many devices, or two processes, do what one does; and the step exports for what is not here.

Run as a program with eight devices, this file writes what one training step gives there.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from support import (
    EPOCH_ENDS,
    ROOT,
    UNDRAWN,
    Counts,
    arrays,
    compile_cache,
    finish,
    logged,
    small_config,
    small_run,
    start,
    wait_until,
)

from fer_jax.errors import UserError
from fer_jax.models import efficientnet
from fer_jax.train import make_trainer
from fer_jax.training import mesh

pytestmark = pytest.mark.timeout(900)  # on a busy machine

BATCH, PIECES = 16, 3
FOR_LONG = 800  # seconds within which a started run must have come to its first steps
STAGES = efficientnet.STAGES[:3]  # both kernel sizes and strides; sooner compiled than all seven


MIXED_SAM = {"mixing__mixup": 0.4, "mixing__cutmix": 1.0, "optimizer__sam_rho": 0.05}


def trainer(**changes):
    """SGD without momentum: its state after the first step is the gradient itself."""
    config = small_config(
        "",
        model__variant="tiny",
        optimizer__name="sgd",
        optimizer__momentum=0.0,
        train__batch_size=BATCH,
        train__ema_decay=0.0,
        evaluation__batch_size=BATCH,
        **changes,
    )
    return make_trainer(config, Counts((16, 2, 10, 12, 10, 10, 10)))


def one_step(**changes):
    """Gradients, BatchNorm statistics and metrics of the first step, by path; inference too."""
    bound, draw = trainer(**changes), np.random.default_rng(5)
    batch = {
        "image": draw.integers(0, 256, (BATCH, 32, 32, 3), np.uint8),
        "label": draw.integers(0, 7, BATCH).astype(np.int32),
    }
    batch = mesh.to_devices(batch, mesh.sharded(bound.evaluator.mesh))
    state, metrics = bound.train_step(bound.init(), batch)
    assert len(batch["image"].sharding.device_set) == jax.device_count()
    batch = jax.tree.map(lambda array: np.concatenate([array] * PIECES), jax.device_get(batch))
    batch = mesh.to_devices(batch, mesh.sharded(bound.evaluator.mesh))
    probabilities, losses = bound.evaluator.eval_step(state.variables, batch)
    (gradients,) = [part.trace for part in state.opt_state if hasattr(part, "trace")]
    return arrays(
        {
            "gradients": gradients,
            "batch_stats": state.batch_stats,
            "metrics": metrics,
            "probabilities": probabilities,
            "losses": losses,
        }
    )


def both_steps():
    """A plain one, and one of a mixed batch with SAM."""
    plain, mixed = one_step(), one_step(**MIXED_SAM)
    assert np.abs(plain["['metrics']['loss']"] - mixed["['metrics']['loss']"]) > 1e-3
    return plain | {f"mixed{name}": leaf for name, leaf in mixed.items()}


def test_eight_devices_give_one_devices_step(tmp_path, monkeypatch):
    file = tmp_path / "eight.npz"
    child = subprocess.Popen(
        [sys.executable, __file__, str(file)],
        cwd=ROOT,
        env=os.environ | compile_cache() | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    monkeypatch.setattr(efficientnet, "STAGES", STAGES)
    one = both_steps()  # meanwhile
    outcome = finish(child, 600)
    assert outcome.status == 0, outcome.err
    with np.load(file) as eight:
        assert eight.files == list(one)
        for name, expected in one.items():
            scale = max(1.0, float(np.abs(expected).max()))
            np.testing.assert_allclose(
                eight[name], expected, rtol=1e-5, atol=1e-5 * scale, err_msg=name
            )
    assert max(np.abs(g).max() for name, g in one.items() if "gradients" in name) > 0.1


def test_a_batch_must_divide_among_the_devices(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(UserError, match=r"train.batch_size=12 .* multiple of 8 devices"):
        mesh.check_batch_size("train.batch_size", 12)


def test_the_train_step_exports_for_accelerators_that_are_not_here(monkeypatch):
    monkeypatch.setattr(efficientnet, "STAGES", STAGES)
    bound = trainer()
    batch = {
        "image": jax.ShapeDtypeStruct((BATCH, 32, 32, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((BATCH,), np.int32),
    }
    exported = jax.export.export(bound.train_step, platforms=["tpu", "cuda"])(
        bound.template(), batch
    )
    assert exported.platforms == ("tpu", "cuda")
    assert len(exported.out_avals) == len(jax.tree.leaves(bound.template())) + 3


def start_two(flags):
    """The run of `flags` as two processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = [*flags, f"--coordinator=localhost:{port}", "--processes=2"]
    return [start("main", [*flags, f"--process={i}"], **UNDRAWN) for i in range(2)]


@pytest.fixture(scope="module")
def two_processes(finished_run, small_csv, tmp_path_factory):
    """The finished run's last epoch done over by two processes, from an earlier checkpoint on."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    shutil.copytree(finished_run, workdir)
    shutil.rmtree(workdir / "report")
    shutil.rmtree(workdir / "checkpoints" / str(EPOCH_ENDS[-1]))
    resumed_from = max(int(p.name) for p in (workdir / "checkpoints").iterdir())
    both = start_two(small_run(small_csv, workdir))
    return workdir, resumed_from, [finish(process) for process in both]


def test_two_processes_end_well_and_the_first_one_speaks(two_processes):
    _, resumed_from, (first, second) = two_processes
    assert (first.status, second.status) == (0, 0), first.err + second.err
    assert "in 2 processes" in first.out
    assert f"continuing after step {resumed_from}" in first.out
    lines = [line for line in second.out.splitlines() if line and not line.startswith("[Gloo]")]
    assert not lines


def test_two_processes_compute_on_one_processs_batches(two_processes, finished_run):
    """Loss and gradient norm of a step tell batches apart by far more than these tolerances."""
    workdir, resumed_from, _ = two_processes
    pairs = zip(logged(workdir, "train"), logged(finished_run, "train"), strict=True)
    again = [(mine, one) for mine, one in pairs if one["step"] > resumed_from]
    assert len(again) >= 3
    for name in ("loss", "accuracy", "gradient_norm"):
        np.testing.assert_allclose(again[0][0][name], again[0][1][name], rtol=1e-5)
        for mine, one in again:
            np.testing.assert_allclose(mine[name], one[name], rtol=2e-3)


def test_two_processes_write_one_processs_report(two_processes, finished_run):
    workdir, _, _ = two_processes
    mine, one = (
        json.loads((folder / "report" / "report.json").read_text())
        for folder in (workdir, finished_run)
    )
    for name in ("n", "accuracy", "checkpoint_step", "confusion_matrix", "data_fingerprint"):
        assert mine[name] == one[name], name
    files = [folder / "report" / "predictions.npz" for folder in (workdir, finished_run)]
    mine, one = (np.load(file) for file in files)
    assert mine["key"].tolist() == one["key"].tolist()
    np.testing.assert_array_equal(mine["label"], one["label"])
    np.testing.assert_allclose(mine["probabilities"], one["probabilities"], atol=1e-3)


def test_only_the_first_process_logs(two_processes, finished_run):
    workdir, _, _ = two_processes
    steps = [[r["step"] for r in logged(folder)] for folder in (workdir, finished_run)]
    assert steps[0] == steps[1]
    events = [len(list((f / "tensorboard").iterdir())) for f in (workdir, finished_run)]
    assert events[0] == events[1] + 1


def test_two_processes_stop_together_when_one_is_asked(small_csv, tmp_path):
    """A scheduler may tell only one of them; the other must not wait for it for ever."""
    flags = [*small_run(small_csv, tmp_path / "run"), "--config.train.epochs=300"]
    first, second = start_two(flags)
    wait_until(lambda: logged(tmp_path / "run"), first, FOR_LONG)
    second.send_signal(signal.SIGTERM)
    outcomes = [finish(process) for process in (first, second)]
    assert [outcome.status for outcome in outcomes] == [128 + signal.SIGTERM] * 2, outcomes
    assert "stopped and saved; continue with: " in outcomes[0].out
    assert "stopped" not in outcomes[1].out
    saved = [int(path.name) for path in (tmp_path / "run/checkpoints").iterdir()]
    assert max(saved) >= logged(tmp_path / "run")[-1]["step"]


def longer_run(data, workdir):
    """Of 32 steps."""
    return small_run(data, workdir, train__epochs=3)


@pytest.fixture(scope="module")
def lost(small_csv, tmp_path_factory):
    """Two processes killed one by one as the run goes on: how the other one ended, and the run."""
    workdir, ends = tmp_path_factory.mktemp("lost") / "run", []
    for victim, last in ((1, 1), (0, 14)):
        both = start_two(longer_run(small_csv, workdir))
        wait_until(lambda last=last: len(logged(workdir)) > last, both[0], FOR_LONG)
        both[victim].send_signal(signal.SIGKILL)
        begun = time.monotonic()
        ends.append((finish(both[1 - victim]), time.monotonic() - begun))
        finish(both[victim])
    assert [finish(one).status for one in start_two(longer_run(small_csv, workdir))] == [0, 0]
    return workdir, ends


def test_who_loses_the_other_process_says_so_and_ends(lost):
    for outcome, seconds in lost[1]:
        assert outcome.status != 0
        assert seconds < 60
        assert "Traceback" not in outcome.err
    said = lost[1][0][0].err.splitlines()
    assert len(said) == 1, said
    assert "another process of this run was lost" in said[0]


def test_two_processes_go_on_bit_identical(lost, small_csv, tmp_path):
    """As two that were left alone."""
    calm = start_two(longer_run(small_csv, tmp_path / "run"))
    assert [finish(one).status for one in calm] == [0, 0]
    one, other = (
        [{k: v for k, v in r.items() if k != "images_per_second"} for r in logged(folder)]
        for folder in (lost[0], tmp_path / "run")
    )
    assert one == other
    files = [folder / "report" / "predictions.npz" for folder in (lost[0], tmp_path / "run")]
    assert files[0].read_bytes() == files[1].read_bytes()


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    efficientnet.STAGES = STAGES
    assert jax.device_count() == 8
    np.savez(Path(sys.argv[1]), **both_steps())
