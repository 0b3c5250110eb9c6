"""A run of the sweep is the run of `fer_jax.main` with the same settings, but for rounding."""

import json

import numpy as np
from support import SMALL, call, small_run

from fer_jax.training.logs import read_metrics

RECIPE = {
    "optimizer.name": "adamw",
    "optimizer.weight_decay": 0.02,
    "schedule.name": "cosine",
    "schedule.warmup_steps": 4,
    "loss.label_smoothing": 0.1,
}


def test_a_run_of_the_sweep_is_the_run_of_main(small_csv, tmp_path):
    workdir = tmp_path / "main"
    changes = {key.replace(".", "__"): value for key, value in RECIPE.items()}
    outcome = call("main", small_run(small_csv, workdir, **changes))
    assert outcome.status == 0, outcome.err

    settings = {key: value for key, value in (SMALL | RECIPE).items() if key != "train.epochs"}
    own = {key: settings.pop(key) for key in ("loss.label_smoothing", "optimizer.weight_decay")}
    run = {"name": "same", "seed": 0, "epochs": SMALL["train.epochs"], "set": own, "keep": True}
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"config": "b2.py", "set": settings, "runs": [run]}))
    arguments = [spec, f"--data={small_csv}", f"--output={tmp_path / 'sweep'}", "--workers=0"]
    outcome = call("sweep", arguments, package="experiments")
    assert outcome.status == 0, outcome.err
    epochs = json.loads((tmp_path / "sweep" / "same-0.json").read_text())["epochs"]

    ours = [row for row in read_metrics(workdir) if row["kind"] == "validation"]
    assert len(ours) == len(epochs) == SMALL["train.epochs"]
    for one, other in zip(ours, epochs, strict=True):
        np.testing.assert_allclose(other["ema"]["loss"], one["loss"], rtol=1e-3)
        np.testing.assert_allclose(other["ema"]["accuracy"], one["accuracy"], atol=0.03)
