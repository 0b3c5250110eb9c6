"""What is kept between runs, where the platform keeps caches: weights, compiled programs."""

import contextlib
import hashlib
import operator
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import platformdirs

from fer_jax.errors import UserError
from fer_jax.outputs import in_one_step

VARIABLE = "FER_JAX_CACHE"
MODELS = Path(__file__).resolve().parent / "models"
PROCESSORS = Path("/proc/cpuinfo")  # where Linux lists what the processor can do


def folder(name: str) -> Path:
    """Where `name` is kept: in FER_JAX_CACHE, or the platform's cache folder; need not exist."""
    named = os.environ.get(VARIABLE)
    try:
        base = Path(named or platformdirs.user_cache_dir("fer_jax", False)).expanduser()
    except RuntimeError:
        raise UserError(f"no home folder: set {VARIABLE} to a folder for caches") from None
    return base / name


def keep_programs() -> None:
    """Have JAX keep what it compiles, unless JAX_COMPILATION_CACHE_DIR says where already.

    Apart for each kind of processor: a program may use instructions that another one lacks.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    place = folder("programs") / processor()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # nothing is lost but time
    if os.access(place, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(place))


def traced(function: Callable[..., Any], name: str, *arguments: Any) -> jax.stages.Wrapped:
    """`function` jitted for arguments like these, its trace kept beside what JAX has compiled.

    To trace B2 and write it down for XLA takes a second and a half, to read it back a fifth.
    `name` says all that `function` depends on beside its arguments and the source of the models.
    """
    kept = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if not kept or "://" in kept:  # off, or a bucket, which JAX alone reaches
        return jax.jit(function)
    models = sorted(MODELS.glob("*.py"))
    shapes = jax.tree.map(lambda leaf: f"{leaf.dtype}{leaf.shape}", arguments)
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    told = [jax.__version__, jax.default_backend(), str(precision), name, str(shapes)]
    digest = hashlib.sha256("\n".join([*told, *map(Path.read_text, models)]).encode())
    path = Path(kept, f"{digest.hexdigest()[:32]}.trace")
    try:
        program = jax.export.deserialize(bytearray(path.read_bytes()))
    except Exception:  # whatever is made of no file, or of a broken one
        program = jax.export.export(jax.jit(function))(*arguments)
        with contextlib.suppress(UserError):  # nothing is lost but time
            in_one_step(path, operator.methodcaller("write_bytes", program.serialize()))
    return jax.jit(program.call)


def processor() -> str:
    """A short name, equal for processors that can run the same programs."""
    lines = PROCESSORS.read_text(encoding="utf-8").splitlines() if PROCESSORS.exists() else []
    features = sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))})
    digest = hashlib.sha256("\n".join([platform.machine(), *features]).encode())
    return f"{platform.machine()}-{digest.hexdigest()[:12]}"
