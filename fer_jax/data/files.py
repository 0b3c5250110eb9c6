"""A folder or an archive as named files, each opened as a stream; what is junk among them."""

import functools
import hashlib
import io
import lzma
import mmap
import os
import re
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from fer_jax.data.images import UnreadableImage
from fer_jax.errors import UserError, one_line, printable

BROKEN = (
    *(OSError, EOFError, RuntimeError, NotImplementedError, ValueError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, tarfile.TarError),
)
"""What reading a damaged, encrypted or oddly packed file raises."""

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MOST_UNPACKED = 64 * 2**30  # bytes
JUNK = re.compile(r"(^|[/\\])(\.[^/\\]|__MACOSX[/\\]|(thumbs\.db|desktop\.ini)$)", re.IGNORECASE)
"""Hidden files, among them paths that climb out by `..`, and what systems leave in folders."""

Opener = Callable[[], IO[bytes]]


class Tree:
    """Files by name, below a folder or in an archive; picklable: each process opens its own."""

    def __init__(self, path: Path, kind: str) -> None:
        """`kind` is "folder", "zip" or "tar"."""
        self.path, self.kind = path, kind

    def __reduce__(self) -> tuple[Any, ...]:
        return Tree, (self.path, self.kind)

    def names(self) -> list[str]:
        """The name of every file, `/` between its parts, sorted; UserError for a broken archive."""
        return sorted(self._openers)

    def open(self, name: str) -> IO[bytes]:
        """One file's bytes as a stream; raises one of BROKEN."""
        if self.kind == "folder":  # a worker need not list it again
            return _open_file(self.path / name)
        return self._openers[name]()

    @functools.cached_property
    def _openers(self) -> dict[str, Opener]:
        find = {"folder": _files, "zip": _zip_members, "tar": _tar_members}[self.kind]
        try:
            members = list(find(self))
        except BROKEN as error:
            reason = f"cannot be read ({one_line(error)})"
            raise UserError(
                f"{self.path} {reason}: if it is truncated or damaged, fetch it again"
            ) from None
        for name, count in Counter(name for name, _ in members).most_common(1):
            if count > 1:
                text = f"{self.path} holds {printable(name)} {count} times"
                raise UserError(f"{text}; pack it anew")
        return dict(members)


def open_archive(path: Path) -> Tree | None:
    """The zip or tar at `path`, also one cut off that is called so; None if it is neither."""
    name = path.name.lower()
    if name.endswith(".zip") or zipfile.is_zipfile(path):
        return Tree(path, "zip")
    with suppress(*BROKEN):
        if name.endswith(ARCHIVES) or tarfile.is_tarfile(path):
            return Tree(path, "tar")
    return None


def read(tree: Tree, name: str, limit: int) -> bytes:
    """One file's bytes; UnreadableImage where it is larger than `limit` bytes or broken."""
    try:
        with tree.open(name) as stream:
            data = stream.read(limit + 1)
    except BROKEN as error:
        raise UnreadableImage(one_line(error)) from error
    if len(data) > limit:
        raise UnreadableImage(f"more than {limit:,} bytes, which no image of allowed size needs")
    return data


@contextmanager
def opened(tree: Tree, name: str) -> Iterator[IO[bytes]]:
    """A stream over one file; UserError where it cannot be opened or breaks off."""
    try:
        with tree.open(name) as stream:
            yield stream
    except BROKEN as error:
        raise UserError(f"cannot read {printable(name)}: {one_line(error)}") from None


def sha256(path: Path) -> str:
    """A file's SHA-256, hexadecimal; UserError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def split_junk(names: Sequence[str]) -> tuple[list[str], Counter[str]]:
    """Names -> (those that may matter, how many others)."""
    kept = [name for name in names if not JUNK.search(name)]
    return kept, Counter({"hidden and system files": len(names) - len(kept)})


def kinds(names: Iterable[str]) -> Counter[str]:
    """How many other files, by suffix."""
    suffixes = (PurePosixPath(name).suffix.lower() for name in names)
    return Counter(f"other files (*{printable(suffix)})" for suffix in suffixes)


def _files(tree: Tree) -> Iterator[tuple[str, Opener]]:
    """All files below, links followed, loops not."""

    def refuse(error: OSError) -> None:
        raise error

    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(tree.path, onerror=refuse, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for place in (Path(folder) / name for name in files):
            yield place.relative_to(tree.path).as_posix(), functools.partial(_open_file, place)


def _open_file(place: Path) -> IO[bytes]:
    if place.is_fifo():  # it would wait
        raise OSError("a pipe, not a file")
    return place.open("rb")


def _zip_members(tree: Tree) -> Iterator[tuple[str, Opener]]:
    archive = zipfile.ZipFile(tree.path)
    weakref.finalize(tree, archive.close)  # its own finalizer may come too late in a cycle
    for info in archive.infolist():
        if not info.is_dir():
            yield info.filename, functools.partial(archive.open, info)


def _tar_members(tree: Tree) -> Iterator[tuple[str, Opener]]:
    """TarError where the end is missing, also if it is cut off between two members."""
    with tarfile.open(tree.path) as packed, tempfile.TemporaryFile() as unpacked:
        whole: Any = packed.fileobj
        if not isinstance(whole, io.BufferedReader):  # it is compressed
            whole.seek(0)
            _copy(whole, unpacked)
            whole = unpacked
        data = mmap.mmap(whole.fileno(), 0, access=mmap.ACCESS_READ)  # threads share no position
    with tarfile.open(fileobj=data, mode="r:") as archive:
        members = archive.getmembers()
    if any(data[-tarfile.BLOCKSIZE :]):
        raise tarfile.ReadError("unexpected end of data")
    for info in members:
        if not info.isdir():
            yield info.name, functools.partial(_tar_member, data, info)


def _tar_member(data: mmap.mmap, info: tarfile.TarInfo) -> IO[bytes]:
    if not info.isreg() or info.issparse():
        raise tarfile.TarError("a link, a device or a sparse file")
    return io.BytesIO(data[info.offset_data : info.offset_data + info.size])


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    while chunk := source.read(2**20):
        target.write(chunk)
        if target.tell() > MOST_UNPACKED:
            raise tarfile.TarError(f"it has more than {MOST_UNPACKED} bytes: unpack it yourself")
    target.flush()
