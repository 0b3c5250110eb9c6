"""A folder or an archive as one flat list of named files; junk set aside and counted."""

import bz2
import functools
import gzip
import hashlib
import io
import lzma
import mmap
import os
import shutil
import tarfile
import tempfile
import threading
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from fer_jax.data.images import UnreadableImage
from fer_jax.errors import UserError, one_line

BROKEN = (
    *(OSError, EOFError, RuntimeError, NotImplementedError, ValueError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, tarfile.TarError),
)
"""What reading a damaged, encrypted or oddly packed file raises."""

JUNK_NAMES = {".ds_store": ".DS_Store", "thumbs.db": "Thumbs.db", "desktop.ini": "desktop.ini"}
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
CUT = ("unexpected end of data", "seek out of range", "truncated", "File is not a zip file")
"""How their libraries call archives that break off; a zip's list of members is at its end."""
MOST_UNPACKED = 64 * 2**30  # bytes of a compressed tar

Member = tuple[Callable[[], int], Callable[[], Any]]
"""What tells its bytes, unpacked, and what opens it."""


class Tree:
    """Files by name, below a folder or in an archive; picklable: each process opens its own."""

    def __init__(self, path: Path, kind: str) -> None:
        """`kind` is "folder", "zip" or "tar"."""
        self.path, self.kind = path, kind
        self._members: dict[str, Member] = {}
        self._process = -1
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """The name of every file, `/` between its parts; sorted."""
        return sorted(self._open())

    def size(self, name: str) -> int:
        """Bytes of one file, unpacked; a member that lies about it ends in an error."""
        return self._member(name)[0]()

    def open(self, name: str) -> BinaryIO:
        """One file's bytes as a stream."""
        return self._member(name)[1]()

    def _member(self, name: str) -> Member:
        if self.kind == "folder":  # a worker need not list it again
            return _file(self.path / name)
        return self._open()[name]

    def _open(self) -> dict[str, Member]:
        """The members, found once per process: a forked file position would be shared."""
        with self._lock:
            if self._process != os.getpid():
                find = {"folder": _files, "zip": _zip_members, "tar": _tar_members}[self.kind]
                try:
                    members = list(find(self.path))
                except BROKEN as error:
                    raise UserError(f"{self.path} {_diagnosis(error)}") from None
                for name, count in Counter(name for name, _ in members).most_common(1):
                    if count > 1:
                        text = f"{self.path} holds {printable(name)} {count} times"
                        raise UserError(f"{text}; pack it anew")
                self._members, self._process = dict(members), os.getpid()
            return self._members

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "kind": self.kind}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def open_archive(path: Path) -> Tree | None:
    """The zip or tar at `path`, also one cut off; None if it is neither."""
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\3\4"
    if zipped or zipfile.is_zipfile(path):
        return Tree(path, "zip")
    with suppress(*BROKEN):
        if path.name.lower().endswith(ARCHIVES) or tarfile.is_tarfile(path):
            return Tree(path, "tar")
    return None


def read(tree: Tree, name: str, limit: int) -> bytes:
    """One file's bytes; UnreadableImage where it is larger than `limit` bytes or broken."""
    try:
        size = tree.size(name)
        if size <= limit:
            with tree.open(name) as stream:
                return stream.read(limit + 1)
    except BROKEN as error:
        raise UnreadableImage(one_line(error)) from error
    raise UnreadableImage(f"{size} bytes, more than an image of the allowed size needs")


@contextmanager
def opened(tree: Tree, name: str) -> Iterator[BinaryIO]:
    """A stream over one file; UserError where it cannot be opened or breaks off."""
    try:
        with tree.open(name) as stream:
            yield stream
    except BROKEN as error:
        raise UserError(f"cannot read {printable(name)}: {one_line(error)}") from None


def unpack(tree: Tree, names: Sequence[str]) -> Path:
    """These files in a new temporary folder, which is the caller's to remove."""
    place = Path(tempfile.mkdtemp(prefix="fer_jax-"))
    try:
        if sum(map(tree.size, names)) > MOST_UNPACKED:
            raise UserError(f"it unpacks to more than {MOST_UNPACKED} bytes: unpack it yourself")
        for name in names:
            target = place / PurePosixPath(name).name
            with opened(tree, name) as stream, target.open("wb") as file:
                shutil.copyfileobj(stream, file)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return place


def sha256(path: Path) -> str:
    """A file's SHA-256, hexadecimal; UserError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def split_junk(names: list[str]) -> tuple[list[str], Counter[str]]:
    """Names -> (those that may matter, how many of each kind of junk)."""
    junk = {name: _junk_kind(name.replace("\\", "/").split("/")) for name in names}
    return [name for name in names if not junk[name]], Counter(filter(None, junk.values()))


def kinds(names: Iterable[str]) -> Counter[str]:
    """How many other files, by suffix."""
    suffixes = (PurePosixPath(name).suffix.lower() for name in names)
    return Counter(f"other files (*{printable(suffix)})" for suffix in suffixes)


def printable(name: str) -> str:
    """A file name in NFC on one line: what cannot be shown or stored as UTF-8 is escaped."""
    text = unicodedata.normalize("NFC", name)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _files(root: Path) -> Iterator[tuple[str, Member]]:
    """All files below, links followed, loops not."""
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for place in (Path(folder) / name for name in files):
            yield place.relative_to(root).as_posix(), _file(place)


def _file(place: Path) -> Member:
    return lambda: place.stat().st_size, lambda: place.open("rb")


def _zip_members(path: Path) -> Iterator[tuple[str, Member]]:
    archive = zipfile.ZipFile(path)
    for info in archive.infolist():
        if not info.is_dir():
            size = functools.partial(getattr, info, "file_size")
            yield info.filename, (size, functools.partial(archive.open, info))


def _tar_members(path: Path) -> Iterator[tuple[str, Member]]:
    """TarError where the end is missing, also if it is cut off between two members."""
    with path.open("rb") as file:
        start = file.read(6)
    unpack = next((opener for magic, opener in PACKED.items() if start.startswith(magic)), None)
    with path.open("rb") if unpack is None else tempfile.TemporaryFile() as whole:
        if unpack is not None:
            _unpack(unpack(path, "rb"), whole)
        data = mmap.mmap(whole.fileno(), 0, access=mmap.ACCESS_READ)  # threads share no position
    with tarfile.open(fileobj=data, mode="r:") as archive:
        members = [info for info in archive.getmembers() if not info.isdir()]
    if any(data[-tarfile.BLOCKSIZE :]):
        raise tarfile.ReadError(CUT[0])
    for info in members:
        size = functools.partial(getattr, info, "size")
        yield info.name, (size, functools.partial(_tar_member, data, info))


def _tar_member(data: mmap.mmap, info: tarfile.TarInfo) -> BinaryIO:
    if not info.isreg() or info.issparse():
        raise tarfile.TarError("a link, a device or a sparse file")
    return io.BytesIO(data[info.offset_data : info.offset_data + info.size])


def _unpack(packed: IO[bytes], whole: IO[bytes]) -> None:
    with packed:
        while chunk := packed.read(2**20):
            whole.write(chunk)
            if whole.tell() > MOST_UNPACKED:
                raise tarfile.TarError(f"it has more than {MOST_UNPACKED} bytes: unpack it")
    whole.flush()


def _diagnosis(error: Exception) -> str:
    text = one_line(error)
    if isinstance(error, EOFError) or any(sign in text for sign in CUT):
        return "is truncated: fetch it again"
    if isinstance(error, OSError) and error.errno:
        return f"cannot be read: {error.strerror}"
    return f"is damaged ({text}): fetch it again"


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
