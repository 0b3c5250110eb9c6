"""What a model keeps of its training images, to know them again: as they are and as they look."""

import cv2
import numpy as np
from scipy.fft import dctn

from fer_jax.data.records import Records

SIDE = 48
FREQUENCIES = 8  # the lowest, per axis
BLANK = 5.0
"""Standard deviation in grey levels below which an image shows nothing.

In FER2013's Training and PublicTest 14 images lie below 5, the next four between 8 and 15, all
others above; 14 of 14 are "no face" to every one of FER+'s ten people.
"""
NEAR = 0.01
"""Share of an image's spectrum, by size, that may differ in sign from a near copy's.

Resized and recompressed copies (JPEG 50) stay below 0.003; cropped ones lie beyond. Of PublicTest
417 images are taken for copies of Training: 411 of the audit's 633, and 6 that are copies to the
eye. The first that is none has 0.016; of drawn faces, 0.0102.
"""


def short_hashes(records: Records) -> np.ndarray:
    """uint64 [<= N, 2], each row once, ascending: of a digest the first 8 bytes, and a look.

    64 bits suffice: of a images compared with b others, a * b / 2^64 are taken for exact copies by
    chance, for FER2013's 28,709 and 3,589 one in 10^11 such evaluations. The look is the signs of
    the spectrum (a perceptual hash), 0 where an image is blank.
    """
    signs = np.packbits(_spectra(records) > 0, axis=1).view("<u8")
    return np.unique(np.stack([_short(records.digests), signs.ravel()], axis=1), axis=0)


def is_copy(records: Records, hashes: np.ndarray) -> np.ndarray:
    """Bool [N]: which images have the very pixels of one in `hashes`, uint64 [M, 2]."""
    return np.isin(_short(records.digests), hashes[:, 0])


def looks_like(records: Records, hashes: np.ndarray) -> np.ndarray:
    """Bool [N]: which images are near copies, or copies, of one in `hashes`, uint64 [M, 2].

    Signs alone are kept of those, of these also sizes: a difference counts by the size.
    """
    known = np.ascontiguousarray(hashes[hashes[:, 1] != 0, 1:], "<u8").view(np.uint8)
    signs = 2.0 * np.unpackbits(known, axis=1)[:, : FREQUENCIES**2 - 1].astype(np.float32) - 1
    spectrum = _spectra(records)
    shares = spectrum / np.maximum(np.abs(spectrum).sum(axis=1, keepdims=True), 1e-6)
    agreement = np.zeros(len(records), np.float32)  # 1: every sign is the same
    for part in np.array_split(signs, len(signs) // 1024 + 1):
        agreement = np.maximum(agreement, (shares @ part.T).max(axis=1, initial=0))
    return (1 - agreement) / 2 <= NEAR


def small(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 1 or 3] -> grey uint8 [48, 48]."""
    grey = image[..., 0] if image.shape[-1] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def spectra(images: np.ndarray) -> np.ndarray:
    """uint8 [N, S, S] -> float32 [N, 63]: low frequencies of unit length, blind to light."""
    parts = np.array_split(images, max(1, len(images) // 512))
    waves = [dctn(part.astype(np.float32), axes=(1, 2), norm="ortho") for part in parts]
    low = np.concatenate([wave[:, :FREQUENCIES, :FREQUENCIES] for wave in waves])
    features = low.reshape(len(images), FREQUENCIES**2)[:, 1:]
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6)


def _spectra(records: Records) -> np.ndarray:
    """Float32 [N, 63]: the spectrum of each image, zeros where it is blank."""
    found = np.zeros((len(records), FREQUENCIES**2 - 1), np.float32)
    for part in np.array_split(np.arange(len(records)), len(records) // 512 + 1):
        images = np.array([small(records.image(i)) for i in part]).reshape(-1, SIDE, SIDE)
        shown = images.std(axis=(1, 2)) >= BLANK
        found[part[shown]] = spectra(images[shown])
    return found


def _short(digests: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(digests[:, :8]).view("<u8").ravel().astype(np.uint64)
