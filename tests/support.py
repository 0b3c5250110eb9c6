"""Small data, small runs: the front doors in this process and as processes of their own."""

import contextlib
import importlib
import io
import itertools
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from absl import flags
from made_data import csv_text

from fer_jax import cli, train
from fer_jax.config import fill, load_config
from fer_jax.data.augment import AugmentConfig
from fer_jax.data.records import Dataset
from fer_jax.data.sources import open_dataset
from fer_jax.evaluation import plots
from fer_jax.evaluation.inference import Evaluator, make_evaluator
from fer_jax.labels import LABELS
from fer_jax.models.classifier import make_model

ROOT = Path(__file__).resolve().parents[1]
EVERY_AUGMENTATION = AugmentConfig(
    flip=True,
    rotation=0.1,
    zoom=0.2,
    translation=0.1,
    brightness=0.2,
    contrast=0.3,
    erasing=0.5,
    crop_area=0.5,
)
COUNTS = {  # images per class; the last batches of training and evaluation are not full
    "train": (13, 4, 12, 16, 14, 13, 11),
    "validation": (5, 3, 5, 6, 5, 5, 6),
    "test": (2, 2, 2, 2, 2, 2, 2),
}
WARNINGS = ("-W", "error", "-W", "ignore:the load_module:DeprecationWarning")  # ml_collections'
CONFIG = ROOT / "configs" / "b2.py"
SMALL = {  # a run of 21 steps that has every kind of state: averages, dropout, class weights
    "data.image_size": 16,
    "model.variant": "mini",
    "model.head_filters": 16,
    "model.head_padding": "SAME",
    "model.bn_momentum": 0.9,
    "model.drop_connect": 0.1,
    "optimizer.learning_rate": 3e-4,  # so small that rounding stays rounding for some steps
    "loss.class_weights": "max_ratio",
    "train.epochs": 2,
    "train.batch_size": 8,
    "train.ema_decay": 0.9,
    "evaluation.batch_size": 8,
    "evaluation.bootstrap_samples": 100,
    "checkpoint.every_steps": 6,
    "log.every_steps": 1,
}
REPORT_FILES = (
    "report.json",
    "report.md",
    "predictions.npz",
    "confusion_matrix.png",
    "reliability.png",
    "mistakes.png",
)
BLANK = (  # a white pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c63f80f000101010018dd8db0"
    "0000000049454e44ae426082"
)
DRAWN = {  # what draws pictures
    name: getattr(plots, name)
    for name in (
        "class_distribution",
        "confusion_matrix",
        "contact_sheet",
        "learning_curves",
        "reliability_diagram",
    )
}
UNDRAWN = {  # environment of a process whose pictures nobody looks at: most of a short run's time
    "PYTHONPATH": os.pathsep.join(
        filter(None, (str(ROOT / "tests" / "undrawn"), os.environ.get("PYTHONPATH")))
    )
}
TAKE_ARGUMENTS = ("compare", "recognise", "run", "sweep")  # doors with arguments beside their flags
EPOCH_ENDS = (11, 21)  # 83 images in batches of 8, twice


def slow_but(quick: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """A test's parameters: `cases`, of which all but the `quick` ones are of the second tier."""
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if case in quick else pytest.mark.slow,
        )
        for case in cases
    ]


def small_rows() -> list[tuple[str, str, np.ndarray]]:
    """(role, class, uint8 [48, 48]): each class a pattern of its own under noise; classes mixed."""
    rows, draw = [], np.random.default_rng(0)
    patterns = np.kron(draw.integers(0, 160, (len(LABELS), 6, 6)), np.ones((8, 8), int))
    for role, counts in COUNTS.items():
        for label in draw.permutation(np.repeat(np.arange(len(LABELS)), counts)):
            image = patterns[label] + draw.integers(0, 96, (48, 48))
            rows.append((role, LABELS[label], image.astype(np.uint8)))
    return rows


def write_small_csv(folder: Path) -> Path:
    """`fer2013.csv` of `small_rows` in `folder`."""
    path = folder / "fer2013.csv"
    path.write_text(csv_text(small_rows()))
    return path


def small_config(data: Path | str, **changes: Any) -> train.Config:
    """CONFIG with SMALL and `changes` (written `train__epochs=1`)."""
    config = load_config(CONFIG, CONFIG.name)
    config.data.path = str(data)
    config.update_from_flattened_dict(SMALL)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return fill(train.Config, config)


def small_run(data: Path | str, workdir: Path, **changes: Any) -> list[str]:
    """The flags of `fer_jax.main` for `small_config`."""
    settings = SMALL | {k.replace("__", "."): v for k, v in changes.items()}
    overrides = [f"--config.{key}={value}" for key, value in settings.items()]
    return [
        f"--config={CONFIG}",
        f"--config.data.path={data}",
        f"--workdir={workdir}",
        *overrides,
    ]


@dataclass(frozen=True)
class Counts:
    """As much of records as a trainer asks for before it is fed: images per class."""

    given: tuple[int, ...]
    note: str = ""  # of soft targets, which there are none

    def __len__(self) -> int:
        return sum(self.given)

    def counts(self) -> np.ndarray:
        """Int [7]."""
        return np.array(self.given)


def read_data(data: Path | str, **changes: Any) -> Dataset:
    """What the run of `small_config` reads."""
    config = small_config(data, **changes)
    return open_dataset(config.data.path, config.data)


def small_evaluator(data: Path | str = "", **changes: Any) -> Evaluator:
    """The evaluator of `small_config`."""
    config = small_config(data, **changes)
    return make_evaluator(make_model(config.model), config.data.image_size, config.evaluation)


def make_trainer(data: Path | str, **changes: Any) -> train.Trainer:
    """The trainer of `small_config`, on its training images."""
    config = small_config(data, **changes)
    return train.make_trainer(config, read_data(data, **changes).roles["train"])


def advance(trainer: train.Trainer, state: Any, until: int) -> Any:
    """`state` after `until` steps, each the one that follows from the state's own step."""
    batches = trainer.batches(int(state.step))
    while (step := int(state.step)) < until:
        state, _ = trainer.train_step(state, next(batches), step < trainer.frozen_steps)
    return state


def unpadded(table: str) -> str:
    """A Markdown table, or a text with some, without what aligns its columns."""
    return re.sub(" {2,}", " ", table)


def blank(*arguments: Any, **named: Any) -> None:
    """Instead of a picture, whatever it were to show."""
    (path,) = [x for x in (*arguments, *named.values()) if isinstance(x, Path)]
    path.write_bytes(bytes.fromhex(BLANK))


@contextlib.contextmanager
def pictures(drawn: bool) -> Iterator[None]:
    """Whether pictures are drawn, or blank."""
    before = {name: getattr(plots, name) for name in DRAWN}
    try:
        for name in DRAWN:
            setattr(plots, name, DRAWN[name] if drawn else blank)
        yield
    finally:
        for name in DRAWN:
            setattr(plots, name, before[name])


@dataclass(frozen=True)
class Outcome:
    """What a command returned and printed."""

    status: int
    out: str
    err: str

    def refusal(self) -> str:
        """The one line of a refused command."""
        assert self.status == 2, f"status {self.status}\n{self.out}\n{self.err}"
        lines = [line for line in self.err.splitlines() if line]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")


def call(door: str, arguments: Sequence[object], package: str = "fer_jax") -> Outcome:
    """`python -m PACKAGE.DOOR ARGUMENTS` within this process, which saves the start of another."""
    out, err = io.StringIO(), io.StringIO()
    argv = [f"{package}/{door}.py", *map(str, arguments)]
    with (
        _front_door(f"{package}.{door}") as module,
        _argv(argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli._exit(module.main, cli._parse(argv, arguments=door in TAKE_ARGUMENTS))
        except SystemExit as stop:
            return Outcome(int(stop.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("a front door ends with SystemExit")


@contextlib.contextmanager
def _front_door(name: str) -> Iterator[Any]:
    """The module freshly imported, alone with its flags: each door defines its own, once."""
    registry = flags.FLAGS
    ours = [flag for flag in registry if _is_ours(flag)]
    before = [(registry.find_module_defining_flag(flag), registry[flag]) for flag in ours]
    module_before = sys.modules.pop(name, None)
    for flag in ours:
        delattr(registry, flag)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"the load_module\(\) method", DeprecationWarning)
            yield importlib.import_module(name)
    finally:
        for flag in [flag for flag in registry if _is_ours(flag)]:
            delattr(registry, flag)
        for owner, flag in before:
            registry[flag.name] = flag
            registry.register_flag_by_module(owner, flag)
        sys.modules.pop(name, None)
        if module_before is not None:
            sys.modules[name] = module_before


def _is_ours(flag: str) -> bool:
    owner = str(flags.FLAGS.find_module_defining_flag(flag))
    return owner.startswith(("fer_jax", "experiments")) or flag.split(".")[0] == "config"


@contextlib.contextmanager
def _argv(argv: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, argv
    try:
        yield
    finally:
        sys.argv = before


def start(
    door: str,
    arguments: Sequence[object],
    package: str = "fer_jax",
    **environment: str,
) -> subprocess.Popen:
    """`python -m PACKAGE.DOOR ARGUMENTS` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, *WARNINGS, "-m", f"{package}.{door}", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | compile_cache() | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, timeout: float = 500) -> Outcome:
    """Wait for `process` to end by itself."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"not finished after {timeout} s\n{out}\n{err}") from None
    return Outcome(process.returncode, out, err)


def run(door: str, arguments: Sequence[object], **environment: str) -> Outcome:
    """`start`, then `finish`."""
    return finish(start(door, arguments, **environment))


def compile_cache() -> dict[str, str]:
    """Environment that lets child processes share what this one has compiled, and each other's."""
    folder = jax.config.jax_compilation_cache_dir
    return {} if folder is None else {"JAX_COMPILATION_CACHE_DIR": folder}


def wait_until(condition: Callable[[], Any], process: subprocess.Popen, seconds: float) -> Any:
    """The first truth that `condition` returns; AssertionError once `process` or time has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = condition()
        if answer:
            return answer
        if process.poll() is not None:
            raise AssertionError(f"ended early: {finish(process)}")
        time.sleep(0.001)
    process.kill()
    raise AssertionError(f"nothing within {seconds} s: {finish(process)}")


def logged(workdir: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl, of one kind or all."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    records = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [record for record in records if kind in (None, record["kind"])]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below `folder`: its bytes and the time of its last change."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in files
    }


def stable_bytes(path: Path) -> bytes:
    """A file's bytes, of safetensors with a sorted header: its writer gives it any order."""
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        return data
    end = 8 + int.from_bytes(data[:8], "little")
    return json.dumps(json.loads(data[8:end]), sort_keys=True).encode() + data[end:]


def arrays(tree: Any) -> dict[str, np.ndarray]:
    """Path -> array of every leaf."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_identical(left: Any, right: Any) -> None:
    """Both trees have the same leaves, bit for bit."""
    one, other = arrays(left), arrays(right)
    assert one.keys() == other.keys()
    assert one
    different = [name for name in one if one[name].tobytes() != other[name].tobytes()]
    assert not different, f"{len(different)} of {len(one)} leaves differ: {different[:3]}"


def first(batches: Iterator[Mapping[str, np.ndarray]], count: int) -> list[dict[str, np.ndarray]]:
    """The first `count` batches, on the host."""
    return [jax.device_get(dict(batch)) for batch in itertools.islice(batches, count)]
