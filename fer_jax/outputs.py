"""Files and folders that appear whole or not at all; a console that may vanish."""

import contextlib
import errno
import glob
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import filelock
from safetensors import SafetensorError

from fer_jax.errors import UserError, one_line

UNFINISHED, LOCK_FILE = "-unfinished-", ".lock"
GONE = (errno.EPIPE, errno.EIO)  # the reader of a pipe, the terminal


class Console:
    """A stream whose reader may go (`| head -1`, a terminal): it costs the words, not the work."""

    def __init__(self, stream: Any) -> None:
        """`stream` itself raises."""
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """All of `text`, as far as anyone can tell."""
        self._lasting(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        """What was written, likewise."""
        self._lasting(self.stream.flush)

    def _lasting(self, act: Callable[..., Any], *given: str) -> None:
        try:
            act(*given)
        except OSError as error:
            if error.errno not in GONE:
                raise
            # What is still to come, also from libraries, goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


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
