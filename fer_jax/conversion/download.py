"""Keras's official ImageNet EfficientNets: where they lie, and a download that survives cuts.

By hand over requests: pooch, the library for it, starts anew after every cut.
"""

import hashlib
import os
import sys
import time
from pathlib import Path

import requests
from tqdm import tqdm

from fer_jax import cache
from fer_jax.errors import UserError, one_line

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
CHUNK = 64 * 1024  # bytes
TRANSIENT = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
TRANSIENT_STATUS = (408, 416, 429, *range(500, 600))


def fetch_keras(variant: str, top: bool, folder: Path) -> Path:
    """The official .h5 of `variant` in `folder`, fetched where it is not there yet.

    UserError for a variant that Keras does not publish, and as of `fetch`.
    """
    if variant not in KERAS_MD5:
        known = ", ".join(KERAS_MD5)
        raise UserError(f"no ImageNet file of variant {variant!r}: choose of {known}")
    name = f"efficientnet{variant}{'' if top else '_notop'}.h5"
    return fetch(KERAS_ADDRESS + name, KERAS_MD5[variant][0 if top else 1], folder / name)


def fetch(
    url: str,
    md5: str,
    destination: Path,
    *,
    attempts: int = 5,
    timeout: float = 30.0,
    backoff: float = 1.0,
) -> Path:
    """`destination`, holding the bytes of `md5`: without network where it does already.

    What has come lies beside it, under a name with the checksum, and is continued after a cut, a
    stall of `timeout` seconds, a 5xx answer or an earlier process's end; between attempts it waits
    `backoff`, then twice that ... seconds. UserError says what to fetch by hand.
    """
    part = destination.with_name(f"{destination.name}.{md5[:8]}.part")
    try:
        if _md5(destination) != md5:
            destination.parent.mkdir(parents=True, exist_ok=True)
            _persist(url, md5, part, attempts, timeout, backoff)
            os.replace(part, destination)
    except (requests.RequestException, ValueError) as error:  # ValueError: an address of no form
        raise UserError(
            f"cannot fetch {url} ({one_line(error)}): try again later, or fetch it by hand "
            f"(MD5 {md5}) and put it at {destination}"
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot store {error.filename or destination} ({error.strerror or error}): free space "
            f"or mend it there, or choose another folder with {cache.VARIABLE}"
        ) from error
    return destination


def _persist(url: str, md5: str, part: Path, attempts: int, timeout: float, backoff: float) -> None:
    """Requests until `part` has the checksum; the last one's RequestException goes on."""
    for attempt in range(1, attempts + 1):
        try:
            if _md5(part) != md5:
                _receive(url, part, timeout)
            found = _md5(part)
            if found == md5:
                return
            part.unlink()
            raise requests.ConnectionError(f"MD5 {found} is not {md5}; removed")
        except TRANSIENT as error:
            if attempt == attempts:
                raise
            wait = backoff * 2 ** (attempt - 1)
            text = f"{one_line(error)}; attempt {attempt + 1} of {attempts} in {wait:g} s"
            tqdm.write(f"{part.name}: {text}", file=sys.stderr)
            time.sleep(wait)


def _receive(url: str, part: Path, timeout: float) -> None:
    """One request for what `part` lacks, appended to it."""
    size = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # a range counts the file's own bytes
    headers |= {"Range": f"bytes={size}-"} if size else {}
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == 416:
            part.unlink()  # longer than the file: begin anew
        if response.status_code in TRANSIENT_STATUS:
            raise requests.ConnectionError(f"{response.status_code} {response.reason}")
        response.raise_for_status()
        size = size if response.status_code == 206 else 0
        total = size + int(response.headers.get("Content-Length", 0))
        shown = {"desc": part.name, "unit": "B", "unit_scale": True, "leave": False}
        bar = tqdm(initial=size, total=total, disable=None, **shown)
        with bar, part.open("ab" if size else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                bar.update(file.write(chunk))


def _md5(path: Path) -> str:
    """Of a file's bytes, hexadecimal; empty where there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
