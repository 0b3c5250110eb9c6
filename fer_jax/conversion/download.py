"""Keras's official ImageNet EfficientNets: where they lie, and a download that survives cuts."""

import contextlib
import hashlib
import http.client
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
from tqdm import tqdm

from fer_jax import cache
from fer_jax.errors import UserError

KERAS_ADDRESS = "https://storage.googleapis.com/keras-applications/"
KERAS_MD5 = {  # keras/src/applications/efficientnet.py: with top, without top
    "b0": ("902e53a9f72be733fc0bcb005b3ebbac", "50bc09e76180e00e4465e1a485ddc09d"),
    "b1": ("1d254153d4ab51201f1646940f018540", "74c4e6b3e1f6a1eea24c589628592432"),
    "b2": ("b15cce36ff4dcbd00b6dd88e7857a6ad", "111f8e2ac8aa800a7a99e3239f7bfb39"),
    "b3": ("ffd1fdc53d0ce67064dc6a9c7960ede0", "af6d107764bb5b1abb91932881670226"),
    "b4": ("18c95ad55216b8f92d7e70b3a046e2fc", "ebc24e6d6c33eaebbd558eafbeedf1ba"),
    "b5": ("ace28f2a6363774853a83a0b21b9421a", "38879255a25d3c92d5e44e04ae6cec6f"),
    "b6": ("165f6e37dce68623721b423839de8be5", "9ecce42647a20130c1f39a5d4cb75743"),
    "b7": ("8c03f828fec3ef71311cd463b6759d99", "cbcfe4450ddf6f3ad90b1b398090fe4a"),
}
CHUNK = 64 * 1024  # bytes; what a cut or a kill may lose
REDIRECTS = 5
TRANSIENT = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)


def fetch_keras(variant: str, top: bool, folder: Path) -> Path:
    """The official .h5 of `variant` (b0 to b7) in `folder`, fetched where it is not there yet."""
    url, md5 = keras_file(variant, top)
    return fetch(url, md5, folder / url.rpartition("/")[2])


def keras_file(variant: str, top: bool) -> tuple[str, str]:
    """Address and MD5 of a variant's file; UserError for one that Keras does not publish."""
    if variant not in KERAS_MD5:
        raise UserError(
            f"no ImageNet file of variant {variant!r}: choose of {', '.join(KERAS_MD5)}"
        )
    name = f"efficientnet{variant}{'' if top else '_notop'}.h5"
    return KERAS_ADDRESS + name, KERAS_MD5[variant][0 if top else 1]


def fetch(
    url: str,
    md5: str,
    destination: Path,
    *,
    attempts: int = 5,
    timeout: float = 30.0,
    backoff: float = 1.0,
    max_bytes: int = 2**30,
) -> Path:
    """`destination`, holding the bytes of `md5`: without network where it does already.

    Goes on from `<destination>.part` after a cut, a stall of `timeout` seconds, a 5xx answer or
    an earlier process's end; waits `backoff`, then twice that ... seconds between attempts. One
    process at a time (`<destination>.lock`). UserError says what to fetch by hand.
    """
    download = _Download(url, md5, destination, attempts, timeout, backoff, max_bytes)
    try:
        if not _holds(destination, md5):
            destination.parent.mkdir(parents=True, exist_ok=True)
            with _alone(destination):
                download.run()
    except OSError as error:
        raise UserError(
            f"cannot store {error.filename or destination} ({error.strerror or error}): free space "
            f"or mend it there, or choose another folder with {cache.VARIABLE}"
        ) from error
    return destination


class _Interrupted(Exception):
    """An attempt that failed in a way the next may not."""


class _Session(requests.Session):
    """Follows no redirect itself: it would read its body, however long, and leave https."""

    def get_redirect_target(self, _: requests.Response) -> None:
        return None


@dataclass(frozen=True)
class _Download:
    """One file on its way; what came so far lies in `part`, which file it is of in `origin`."""

    url: str
    md5: str
    destination: Path
    attempts: int
    timeout: float
    backoff: float
    max_bytes: int

    @property
    def part(self) -> Path:
        return _beside(self.destination, ".part")

    @property
    def origin(self) -> Path:
        return _beside(self.destination, ".part.json")

    def run(self) -> None:
        """Bring `destination` about; to be called by one process at a time."""
        if _holds(self.destination, self.md5):  # another process was faster
            return
        if self.destination.exists():
            _say(f"{self.destination} is damaged (its MD5 is not {self.md5}): fetching it again")
        if not _holds(self.part, self.md5):  # else killed just before the end
            self._persist()
        os.replace(self.part, self.destination)
        self.origin.unlink(missing_ok=True)

    def _persist(self) -> None:
        """Attempts until `part` is whole."""
        for attempt in range(1, self.attempts + 1):
            try:
                return self._receive()
            except _Interrupted as error:
                if attempt == self.attempts:
                    raise self._failure(f"{error} in the last of {attempt} attempts") from None
                wait = self.backoff * 2 ** (attempt - 1)
                _say(f"{self.url}: {error}; attempt {attempt + 1} of {self.attempts} in {wait:g} s")
                time.sleep(wait)

    def _receive(self) -> None:
        """One request for what is missing, and the checksum of the whole."""
        offset, validator = self._position()
        headers = {"Accept-Encoding": "identity"}  # a range counts the file's own bytes
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
        try:
            with _Session() as session, self._answer(session, headers) as response:
                start = self._start(response, offset, validator)
                self._save(response, start)
        except TRANSIENT as error:
            raise _Interrupted(_reason(error)) from None
        except (requests.RequestException, ValueError) as error:  # ValueError: address of no form
            raise self._failure(_reason(error)) from None
        self._verify(start > 0)

    def _position(self) -> tuple[int, str]:
        """(bytes to go on from, the server's name for that version of the file), or (0, "")."""
        try:
            origin = json.loads(self.origin.read_text(encoding="utf-8"))
            if [origin["url"], origin["md5"]] == [self.url, self.md5] and origin["validator"]:
                return self.part.stat().st_size, origin["validator"]
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            pass
        return 0, ""

    def _answer(self, session: requests.Session, headers: dict[str, str]) -> requests.Response:
        """The answer at the end of the redirects, its body not yet read."""
        url = self.url
        for _ in range(REDIRECTS + 1):
            response = session.get(url, headers=headers, stream=True, timeout=self.timeout)
            if not response.is_redirect:
                return response
            response.close()
            url = urljoin(url, response.headers["Location"])
            if self.url.startswith("https:") and urlsplit(url).scheme != "https":
                raise self._failure(f"redirected from https to {url[:100]!r}")
        raise self._failure(f"more than {REDIRECTS} redirects")

    def _start(self, response: requests.Response, offset: int, validator: str) -> int:
        """Where in the file the answer's body starts; raises for an answer that is no file."""
        status = response.status_code
        if status == 200:
            return 0
        if status == 206 and offset:
            span = re.match(r"bytes (\d{1,18})-", response.headers.get("Content-Range", ""))
            if span and int(span[1]) == offset and _validator(response) in ("", validator):
                return offset
        if status in (206, 416) and offset:
            self._discard()
            raise _Interrupted("what lies there now does not continue what came before")
        if status >= 500 or status in (408, 429):
            raise _Interrupted(_status(status))
        raise self._failure(_status(status))

    def _save(self, response: requests.Response, size: int) -> None:
        """Append the body to the first `size` bytes of `part`."""
        length = response.headers.get("Content-Length", "")
        total = size + int(length) if re.fullmatch(r"\d{1,18}", length) else None
        self._limit(total or 0)
        bar = tqdm(
            desc=self.destination.name,
            initial=size,
            total=total,
            unit="B",
            unit_scale=True,
            disable=None,
            leave=False,
        )
        with bar, open(self.part, "ab" if size else "wb") as part:
            if not size:
                about = {"url": self.url, "md5": self.md5, "validator": _validator(response)}
                self.origin.write_text(json.dumps(about), encoding="utf-8")
            for chunk in response.iter_content(CHUNK):
                size += len(chunk)
                self._limit(size)
                part.write(chunk)
                bar.update(len(chunk))
            part.flush()
            os.fsync(part.fileno())

    def _limit(self, size: int) -> None:
        if size > self.max_bytes:
            self._discard()
            raise self._failure(f"more than the {self.max_bytes} bytes that are allowed")

    def _verify(self, continued: bool) -> None:
        """The checksum of `part`, which is removed where it is wrong."""
        digest = _md5(self.part)
        if digest == self.md5:
            return
        self._discard()
        if continued:  # of two versions of the file, perhaps: worth a fresh start
            raise _Interrupted(f"MD5 {digest} of a continued download is not {self.md5}; removed")
        raise self._failure(f"MD5 {digest} is not {self.md5}; removed")

    def _discard(self) -> None:
        with contextlib.suppress(PermissionError):  # Windows, while it is open: emptied next time
            self.part.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)

    def _failure(self, reason: str) -> UserError:
        return UserError(
            f"cannot fetch {self.url} ({reason}): try again later, or fetch it by hand "
            f"(MD5 {self.md5}) and put it at {self.destination}"
        )


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _holds(path: Path, md5: str) -> bool:
    """Whether a file is there with that checksum."""
    try:
        return _md5(path) == md5
    except FileNotFoundError:
        return False


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _validator(response: requests.Response) -> str:
    """What tells this version of the file from others in If-Range; "" where nothing does."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return ""  # the server would count packed bytes, we count unpacked ones
    etag = response.headers.get("ETag", "")
    strong = etag and not etag.startswith("W/")
    return etag if strong else response.headers.get("Last-Modified", "")


def _status(status: int) -> str:
    return f"HTTP {status} {http.client.responses.get(status, '')}".strip()


def _reason(error: BaseException) -> str:
    """One short line of the cause at the bottom of what `requests` raised."""
    while True:
        cause = getattr(error, "reason", None) or (error.args[0] if error.args else None)
        if not isinstance(cause, BaseException):
            break
        error = cause
    text = cause if isinstance(cause, str) else str(error) or type(error).__name__
    return " ".join(text.rpartition(": ")[2].split())[:200]


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


@contextlib.contextmanager
def _alone(destination: Path) -> Iterator[None]:
    """Held by one process at a time; the system lets go of it when a process dies.

    The lock file stays: removing it would part those who wait from those who come.
    """
    with open(_beside(destination, ".lock"), "ab") as lock:
        if not _try_lock(lock.fileno()):
            _say(f"waiting for another process that fetches {destination.name}")
            while not _try_lock(lock.fileno()):
                time.sleep(0.1)
        yield


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
