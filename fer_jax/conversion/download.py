"""Keras's official ImageNet EfficientNets: where they lie; whole or not at all."""

import functools
import hashlib
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from fer_jax.errors import UserError, one_line
from fer_jax.outputs import in_one_step

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
TIMEOUT = 30  # seconds without an answer or a byte
RETRY = Retry(5, backoff_factor=1, status_forcelist=(408, 429, 500, 502, 503, 504))
MIB = 2**20


def fetch_keras(variant: str, top: bool, folder: Path) -> Path:
    """The official .h5 of `variant` in `folder`, fetched where it is not there yet.

    UserError for a variant that Keras does not publish, and where the file cannot be had.
    """
    if variant not in KERAS_MD5:
        known = ", ".join(KERAS_MD5)
        raise UserError(f"no ImageNet file of variant {variant!r}: choose of {known}")
    name = f"efficientnet{variant}{'' if top else '_notop'}.h5"
    path, md5 = folder / name, KERAS_MD5[variant][0 if top else 1]
    if not path.exists():
        in_one_step(path, functools.partial(_receive, KERAS_ADDRESS + name, md5))
    return path


def _receive(url: str, md5: str, path: Path) -> None:
    """The file of `url` to `path`; UserError where it does not come, or is another."""
    digest, session = hashlib.md5(usedforsecurity=False), requests.Session()
    session.mount(url, HTTPAdapter(max_retries=RETRY))
    try:
        with session.get(url, stream=True, timeout=TIMEOUT) as response, path.open("wb") as file:
            response.raise_for_status()
            length = response.headers.get("Content-Length", "")
            size = int(length) / MIB if length.isdecimal() and len(length) < 19 else 0
            parts = response.iter_content(MIB)
            for part in tqdm(parts, path.name, round(size) or None, unit="MiB", disable=None):
                digest.update(part)
                file.write(part)
    except requests.RequestException as error:
        raise UserError(
            f"cannot fetch {url} ({one_line(error)}): try again later, or fetch it by hand and "
            "give it as --input"
        ) from error
    if digest.hexdigest() != md5:
        raise UserError(f"{url} gave another file than that of MD5 {md5}: try again later")
