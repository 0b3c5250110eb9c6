"""Files and folders that appear whole or not at all; what killed processes left is removed."""

import contextlib
import glob
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence

import filelock
from safetensors import SafetensorError

from fer_jax.errors import UserError, one_line

UNFINISHED, LOCK_FILE = "-unfinished-", ".lock"


@contextlib.contextmanager
def unfinished(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty folder on the disk of `output`, for what is then moved there; gone at the end.

    The folder around it is locked while it lives, so that it is known whose owner died; it lies
    beside `output`, whose folder is made if need be.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(output)
    prefix = f".{output.name}{UNFINISHED}"
    around = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=output.parent))
    try:
        with filelock.FileLock(around / LOCK_FILE):
            (around / "new").mkdir()
            yield around / "new"
    finally:
        shutil.rmtree(around, ignore_errors=True)


@contextlib.contextmanager
def filled(folder: pathlib.Path, last: str, earlier: Sequence[str] = ()) -> Iterator[pathlib.Path]:
    """An empty folder whose files move into `folder` at the end; where its file `last` is, all are.

    They take the place of files of their names, and of those `earlier` ones; others stay.
    """
    with unfinished(folder / last) as new:
        yield new
        for name in (last, *earlier):
            (folder / name).unlink(missing_ok=True)
        for file in sorted(new.iterdir(), key=lambda path: path.name == last):
            os.replace(file, folder / file.name)


def clear_leftovers(output: pathlib.Path) -> list[pathlib.Path]:
    """Remove what killed writers of `output` left, which is returned; a living one's stays."""
    removed = []
    for around in sorted(output.parent.glob(f".{glob.escape(output.name)}{UNFINISHED}*")):
        with contextlib.suppress(filelock.Timeout, OSError):
            with filelock.FileLock(around / LOCK_FILE, timeout=0):
                shutil.rmtree(around, ignore_errors=True)
            removed.append(around)
    return removed


def in_one_step(path: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """`write` to a file that then becomes `path`; UserError where that cannot be written."""
    try:
        with unfinished(path) as folder:
            write(folder / path.name)
            os.replace(folder / path.name, path)
    except (OSError, RuntimeError, SafetensorError) as error:  # HDF5's are Runtime...
        raise UserError(f"cannot write {path}: {one_line(error)}") from error


def write_text(path: pathlib.Path, text: str) -> None:
    """UTF-8, in one step."""
    in_one_step(path, lambda new: new.write_text(text, encoding="utf-8"))
