"""A folder or a zip as one flat list of named files; junk set aside and counted."""

import hashlib
import os
import threading
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from fer_jax.data.images import UnreadableImage
from fer_jax.errors import UserError, one_line

BROKEN = (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError)
"""What reading a damaged, encrypted or oddly packed file raises."""

JUNK_NAMES = {".ds_store": ".DS_Store", "thumbs.db": "Thumbs.db", "desktop.ini": "desktop.ini"}


class Tree(Protocol):
    """Files by name, opened on demand; picklable, so that worker processes open their own."""

    path: Path

    def names(self) -> list[str]:
        """The name of every file, `/` between its parts; sorted."""

    def size(self, name: str) -> int:
        """Bytes of one file, unpacked."""

    def open(self, name: str) -> BinaryIO:
        """One file's bytes as a stream."""


@dataclass
class Folder:
    """The files under a directory, links followed, loops not."""

    path: Path

    def names(self) -> list[str]:
        """Relative paths of all files below, sorted."""
        found: list[str] = []
        seen: set[tuple[int, int]] = set()
        for folder, folders, files in os.walk(self.path, onerror=_refuse, followlinks=True):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders.sort()
            prefix = Path(folder).relative_to(self.path)
            found += [(prefix / name).as_posix() for name in files]
        return sorted(found)

    def size(self, name: str) -> int:
        """Bytes of one file."""
        return os.stat(self.path / name).st_size

    def open(self, name: str) -> BinaryIO:
        """One file's bytes as a stream."""
        return open(self.path / name, "rb")


@dataclass
class Zip:
    """The members of an archive, read in place: nothing is ever unpacked to disk."""

    path: Path
    _archive: zipfile.ZipFile | None = field(default=None, repr=False, compare=False)
    _process: int = field(default=-1, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def names(self) -> list[str]:
        """Names of all members that are files, sorted; UserError if one occurs twice."""
        members = [info.filename for info in self._open().infolist() if not info.is_dir()]
        name, count = Counter(members).most_common(1)[0] if members else ("", 0)
        if count > 1:
            raise UserError(f"{self.path} holds {printable(name)} {count} times; pack it anew")
        return sorted(members)

    def size(self, name: str) -> int:
        """Bytes of one member, unpacked; a member that lies about it ends in a checksum error."""
        return self._open().getinfo(name).file_size

    def open(self, name: str) -> BinaryIO:
        """One member's bytes as a stream."""
        return self._open().open(name)  # type: ignore[return-value]

    def _open(self) -> zipfile.ZipFile:
        """The archive, opened once per process: a forked file position would be shared."""
        with self._lock:
            if self._archive is None or self._process != os.getpid():
                try:
                    self._archive = zipfile.ZipFile(self.path)
                except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
                    raise UserError(
                        f"{self.path} is no whole zip ({error}); fetch it again"
                    ) from None
                self._process = os.getpid()
            return self._archive

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]


def read(tree: Tree, name: str, limit: int) -> bytes:
    """One file's bytes; UnreadableImage where it is larger than `limit` bytes or broken."""
    try:
        size = tree.size(name)
        if size > limit:
            raise UnreadableImage(f"{size} bytes, more than an image of the allowed size needs")
        with tree.open(name) as stream:
            return stream.read(limit + 1)
    except BROKEN as error:
        raise UnreadableImage(one_line(error)) from error


@contextmanager
def opened(tree: Tree, name: str) -> Iterator[BinaryIO]:
    """A stream over one file; UserError where it cannot be opened or breaks off."""
    try:
        with tree.open(name) as stream:
            yield stream
    except BROKEN as error:
        raise UserError(f"{tree.path}: cannot read {printable(name)}: {error}") from None


def sha256(path: Path) -> str:
    """A file's SHA-256, hexadecimal; UserError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def split_junk(names: list[str]) -> tuple[list[str], Counter[str]]:
    """Names -> (those that may matter, how many of each kind of junk)."""
    kept, junk = [], Counter[str]()
    for name in names:
        kind = _junk_kind(name.replace("\\", "/").split("/"))
        if kind:
            junk[kind] += 1
        else:
            kept.append(name)
    return kept, junk


def printable(name: str) -> str:
    """A file name in NFC on one line: what cannot be shown or stored as UTF-8 is escaped."""
    text = unicodedata.normalize("NFC", name)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _junk_kind(parts: list[str]) -> str:
    base = parts[-1]
    if any(part.upper() == "__MACOSX" for part in parts):
        return "__MACOSX/"
    if base.lower() in JUNK_NAMES:
        return JUNK_NAMES[base.lower()]
    if base.startswith("._"):
        return "._*"
    if ".." in parts or base in ("", "."):
        return "paths with .."
    if any(part.startswith(".") and part != "." for part in parts):
        return "hidden files"
    return ""


def _refuse(error: OSError) -> None:
    raise UserError(f"cannot list {error.filename}: {error.strerror}") from None
