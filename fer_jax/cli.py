"""What every command shares: flags in, one call down, and a user's mistake as one line."""

import contextlib
import errno
import functools
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")

from absl import app, flags, logging
from ml_collections import ConfigDict

from fer_jax.config import named_config
from fer_jax.errors import FerError, UserError, one_line, printable

TUNABLES, HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
PRELOAD, SWITCH = "LD_PRELOAD", "FER_JAX_MALLOC"
TCMALLOC = [f"{place}/libtcmalloc_minimal.so.4" for place in ("lib64", "lib/*-linux-gnu")]
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.ENAMETOOLONG, errno.EACCES, errno.ELOOP)  # paths as somebody gave them
GONE = (errno.EPIPE, errno.EIO)  # the reader of a pipe, the terminal

flags.disclaim_key_flags()  # --config belongs to the command, whose --help lists it


def config_of(flag: flags.FlagHolder) -> ConfigDict:
    """The parsed config of --config; UserError where there is none or it does not load."""
    config = flag.value
    if config is None:
        raise UserError("no --config: for example --config=configs/smoke.py")
    try:
        config.items()  # what could not be loaded says so only now
    except Exception as error:
        raise UserError(f"cannot load the config: {one_line(error.__cause__ or error)}") from error
    return config


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


def run(main: Callable[[Sequence[str]], int | None], arguments: bool = False) -> None:
    """Run `main(argv)` under absl; bad flags and `UserError` print one line and exit 2.

    Only with `arguments` may there be others than flags.
    """
    restart_with_allocator()
    parse = functools.partial(_parse, arguments=arguments)
    out, err = Console(sys.stdout), Console(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app.run(lambda argv: _exit(main, argv), flags_parser=parse)
        finally:
            out.flush()


def restart_with_allocator() -> None:
    """Replace this process by itself, its memory from tcmalloc, or else in huge pages: on Linux.

    On a CPU page faults are a third of a training step: XLA allocates its gigabytes anew each time.
    Both are decided when a process starts. What the user has set is left alone, LD_PRELOAD and
    GLIBC_TUNABLES, as is our own setting after the restart; FER_JAX_MALLOC=libc means no tcmalloc.
    """
    if sys.platform == "linux" and TUNABLES not in os.environ:
        os.environ.update({**tcmalloc(), **os.environ, TUNABLES: HUGE_PAGES})
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def tcmalloc() -> dict[str, str]:
    """What preloads it, where it is installed and not switched off."""
    found = [str(path) for name in TCMALLOC for path in pathlib.Path("/usr").glob(name)]
    return {PRELOAD: found[0]} if found and os.environ.get(SWITCH) != "libc" else {}


def _parse(argv: Sequence[str], arguments: bool = False) -> list[str]:
    home = os.path.expanduser("~")  # which shells leave alone behind =
    try:
        rest = flags.FLAGS([named_config(given.replace("=~/", f"={home}/", 1)) for given in argv])
    except Exception as error:  # a config file is the user's code: it may raise anything
        _fail(_flag_mistake(error))
    if len(rest) > 1 and not arguments:
        _fail(f"unexpected argument {rest[1]!r}: flags are written --name=value")
    return rest


def _exit(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> None:
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)  # Orbax narrates every save
    try:
        status = main(argv)
    except FerError as error:
        _fail(str(error), error.status)
    except OSError as error:
        if error.errno in REFUSED:
            _fail(f"cannot use {error.filename or 'a path'}: {error.strerror}")
        if error.errno not in FULL:
            raise
        _fail(f"no room to write {error.filename or 'a file'}: the disk is full")
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    sys.exit(status or 0)


def _flag_mistake(error: Exception) -> str:
    """What absl or ml_collections raised; for a mistyped key they name the nearest one."""
    missing = re.findall(r"Flag --(\w+) must have a value other than None", str(error))
    if missing:
        said = {name: flags.FLAGS[name].help.splitlines()[0].rstrip(".;") for name in missing}
        return "; ".join(f"give --{name}: {text}" for name, text in said.items())
    near = re.search(r'Did you mean "(.+)" instead of "(.+)"', str(error))
    if near:
        return f"no config key {near[2]!r}: did you mean {near[1]!r}?"
    if isinstance(error, KeyError | AttributeError):
        return f"no config key {one_line(error)}"
    return one_line(error)


def _fail(message: str, status: int = UserError.status) -> NoReturn:
    print(f"error: {printable(message)}", file=sys.stderr, flush=True)
    sys.exit(status)
