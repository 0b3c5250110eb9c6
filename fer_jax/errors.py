"""The exceptions that commands turn into one line and an exit status."""

import contextlib
import importlib
import unicodedata
from collections.abc import Iterator
from typing import Any

LONGEST = 300  # characters of other libraries' messages


class FerError(Exception):
    """Ends a command with its message, in one line, and `status`."""

    status = 1


class UserError(FerError):
    """A mistake that its user can mend: says the value, the limit and the fix."""

    status = 2


class NonFiniteLoss(FerError):
    """Training diverged: says at which step, and where the last good checkpoint is."""


def one_line(error: BaseException) -> str:
    """What an exception of another library says, in one line; its class where it says nothing."""
    text = " ".join(str(error).split())
    quote = text[:1]
    if quote in ("'", '"') and text.endswith(quote) and text.count(quote) == 2:
        text = text[1:-1]  # KeyError shows its message as Python would write it
    return text[:LONGEST] or type(error).__name__


def printable(name: str) -> str:
    """A name in NFC on one line: what cannot be shown or stored as UTF-8 is escaped."""
    text = unicodedata.normalize("NFC", name)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@contextlib.contextmanager
def writing(failure: str, hint: str) -> Iterator[None]:
    """What the system refuses within becomes a UserError: the failure, its reason, the hint."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{failure} ({error.strerror or error}): {hint}") from error


def optional(module: str, extra: str, purpose: str) -> Any:
    """A module that only an extra brings; UserError says so where it is not there."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise UserError(f"{purpose} needs {name}: pip install 'fer_jax[{extra}]'") from error
