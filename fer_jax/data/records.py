"""Images in memory as a random-access source of {image, label, key, row}; the data set of them."""

import copy
import hashlib
import operator
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from fer_jax.data.classes import Classes
from fer_jax.data.files import printable
from fer_jax.data.images import UnreadableImage, quiet_pillow
from fer_jax.errors import UserError
from fer_jax.labels import LABELS
from fer_jax.sections import Section, key

ROLES = ("train", "validation", "test")
PART = 64  # images one thread takes at a time
SHOWN = 3  # first offenders named in one line

Loader = Callable[[str], np.ndarray]
"""ref -> uint8 [H, W, C], read-only; raises UnreadableImage."""


@dataclass(frozen=True)
class ReadOptions(Section):
    """How to read: a part of the section `data`."""

    section = "data"
    label_order: str = key()
    """What numeric labels mean: "angry,disgust,...", or "" if the layout tells."""
    on_corrupt: str = key(choices=("stop", "skip"))
    """"skip": leave out what cannot be read and list it."""
    validation_fraction: float = key(0, 0.99)
    """Share of train held out where there is no validation part; 0 holds out none."""
    split_seed: int = key()
    max_pixels: int = key(1, 10**9, neutral=True)
    """Larger images are refused before they are decoded."""
    cache_mib: int = key(0, 10**7, neutral=True)
    """Decoded pixels kept in memory, MiB; what is beyond is decoded again at each access."""
    exclude: str = key(neutral=True)  # what it leaves of train counts, as its fingerprint
    """A file that lists keys to leave out of train, and of nothing else; "" for none."""
    map: str = key(neutral=True)  # what it makes of train counts, likewise
    """"contempt:none,joy:happy": other names of classes, and classes to leave out."""

    prefix: ClassVar[str] = "data."
    """How messages call these options: "data." in a configuration, "--" in a command."""

    def classes(self, default: Sequence[str] = ()) -> Classes:
        """How to read class names; numbers mean `default` unless `label_order` says otherwise."""
        return Classes.parse(self.label_order, self.map, self.prefix, default)


@dataclass(frozen=True)
class Entry:
    """One image before it is read."""

    ref: str
    """What the loader takes; also the name in messages."""
    role: str
    label: int
    key: str
    row: int


@dataclass(frozen=True)
class Listing:
    """What lies at a path, before any image is decoded."""

    layout: str
    entries: Sequence[Entry]
    ignored: Counter[str] = field(default_factory=Counter)
    stray: Sequence[tuple[str, str]] = ()
    """(name, reason) of images that no entry can be made of."""
    notes: tuple[str, ...] = ()
    fingerprints: Mapping[str, str] | None = None
    """What the roles must be, where the layout tells."""


_Read = tuple[Entry, np.ndarray | None, bytes, int]
"""Pixels, where they are kept in memory, digest and channels of one image."""


class Records:
    """One role: a random-access source for Grain, picklable, ordered by key."""

    def __init__(
        self,
        entries: Sequence[Entry],
        images: Sequence[np.ndarray | None],
        digests: np.ndarray,
        loader: Loader | None,
        channels: int,
    ) -> None:
        """`images[i]` is None where `loader(entries[i].ref)` is to decode it at each access.

        `channels` is 1 where every image is grey, else 3.
        """
        self.labels = np.array([entry.label for entry in entries], np.int32)
        self.rows = np.array([entry.row for entry in entries], np.int32)
        self.keys = tuple(entry.key for entry in entries)
        self.digests, self.channels = digests, channels
        self.fingerprint = _fingerprint(digests, self.labels)
        self._images = list(images)
        self._refs = tuple(entry.ref for entry in entries)
        self._loader = loader if any(image is None for image in images) else None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        i = range(len(self))[operator.index(index)]
        return {
            "image": self.image(i),
            "label": self.labels[i],
            "key": self.keys[i],
            "row": self.rows[i],
        }

    def image(self, index: int) -> np.ndarray:
        """uint8 [H, W, C], C = 1 if grey; read-only."""
        image = self._images[index]
        if image is not None:
            return image
        assert self._loader is not None
        try:
            return self._loader(self._refs[index])
        except UnreadableImage as error:
            name = printable(self._refs[index])
            raise UserError(f"{name} was readable when loaded and is not now: {error}") from None

    def counts(self) -> np.ndarray:
        """Images per class, int [7]."""
        return np.bincount(self.labels, minlength=len(LABELS))

    def take(self, indices: Sequence[int] | np.ndarray) -> "Records":
        """The records at `indices`, in that order."""
        chosen = [int(i) for i in indices]
        part = copy.copy(self)
        part.labels, part.rows = self.labels[chosen], self.rows[chosen]
        part.keys = tuple(self.keys[i] for i in chosen)
        part.digests = self.digests[chosen]
        part.fingerprint = _fingerprint(part.digests, part.labels)
        part._images = [self._images[i] for i in chosen]
        part._refs = tuple(self._refs[i] for i in chosen)
        return part

    @classmethod
    def joined(cls, parts: Sequence["Records"]) -> "Records":
        """All of them, ordered by key; they are of one data set."""
        entries = [
            Entry(ref, "all", int(label), key, int(row))
            for part in parts
            for ref, label, key, row in zip(
                part._refs, part.labels, part.keys, part.rows, strict=True
            )
        ]
        images = [image for part in parts for image in part._images]
        loader = next((part._loader for part in parts if part._loader is not None), None)
        digests = np.concatenate([part.digests for part in parts])
        whole = cls(entries, images, digests, loader, max(part.channels for part in parts))
        return whole.take(sorted(range(len(whole)), key=whole.keys.__getitem__))


@dataclass(frozen=True)
class Dataset:
    """All roles of one data set, and what a person must know about how it was read."""

    layout: str
    """What was recognised: "seed folders", "Kaggle folders", "fer2013.csv", "prepared", ..."""
    roles: dict[str, Records]
    """Of "train", "validation", "test" those that exist."""
    ignored: dict[str, int]
    """Files set aside, by kind: {".DS_Store": 3}."""
    unreadable: tuple[tuple[str, str], ...]
    """(name, reason) of what on_corrupt=skip left out."""
    notes: tuple[str, ...]
    """What a person must be told, one line each."""

    def split(self, role: str) -> Records:
        """One role's records, or every image as "all"; UserError names the roles there are."""
        if role == "all" and role not in self.roles:
            return Records.joined(list(self.roles.values()))
        if role not in self.roles:
            known = ", ".join(self.roles)
            raise UserError(f"the data has no split {role!r}, only {known} (and all, every image)")
        return self.roles[role]

    def describe(self) -> str:
        """Images per role and class as a table, then ignored and unreadable files, then notes."""
        lines = [f"data: {self.layout}", _row("", [*LABELS, "all"])]
        for role, records in self.roles.items():
            lines.append(_row(role, [*map(str, records.counts()), str(len(records))]))
        if self.ignored:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.ignored.items()))
            lines.append(f"ignored: {kinds}")
        if self.unreadable:
            lines.append(f"left out: {offenders(self.unreadable)}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def fingerprint(dataset: Dataset) -> dict[str, str]:
    """Role -> hex SHA-256 over pixels and labels, whatever the layout."""
    return {role: records.fingerprint for role, records in dataset.roles.items()}


def digest(image: np.ndarray) -> bytes:
    """SHA-256 of shape and pixels, 32 bytes: equal for exact copies only."""
    state = hashlib.sha256(np.array(image.shape, "<u4").tobytes())
    state.update(np.ascontiguousarray(image).data)
    return state.digest()


def offenders(unreadable: Sequence[tuple[str, str]]) -> str:
    """`2 images (a.png: truncated PNG; b.png: ...)`, the first few by name."""
    shown = "; ".join(f"{name}: {reason}" for name, reason in unreadable[:SHOWN])
    more = "; ..." if len(unreadable) > SHOWN else ""
    return f"{len(unreadable)} image{'s' if len(unreadable) > 1 else ''} ({shown}{more})"


def load(
    entries: Sequence[Entry], loader: Loader, cache_mib: int
) -> tuple[dict[str, Records], list[tuple[str, str]]]:
    """Decode every image once -> (roles ordered by key, (name, reason) of what cannot be read).

    Shows a progress bar on a terminal; keeps pixels up to `cache_mib` MiB.
    """
    ordered = sorted(entries, key=lambda entry: entry.key)
    parts = [ordered[start : start + PART] for start in range(0, len(ordered), PART)]
    room, lock = cache_mib * 2**20, threading.Lock()

    def attempt(part: Sequence[Entry]) -> list[_Read | str]:
        nonlocal room
        read: list[_Read | str] = []
        for entry in part:
            try:
                image = loader(entry.ref)
            except UnreadableImage as error:
                read.append(str(error))
                continue
            with lock:
                room -= image.nbytes
                kept = image if room >= 0 else None
            read.append((entry, kept, digest(image), image.shape[2]))
        bar.update(len(part))
        return read

    threads = min(4, os.cpu_count() or 1)  # more only fight over the interpreter lock
    bar = tqdm(total=len(ordered), desc="reading images", unit="image", disable=None, leave=False)
    with quiet_pillow(), bar, ThreadPoolExecutor(threads) as pool:
        found = [one for part in pool.map(attempt, parts) for one in part]
    unreadable = [
        (printable(entry.ref), one)
        for entry, one in zip(ordered, found, strict=True)
        if isinstance(one, str)
    ]
    good = [one for one in found if not isinstance(one, str)]
    by_role = {role: [one for one in good if one[0].role == role] for role in ROLES}
    return {role: _records(part, loader) for role, part in by_role.items() if part}, unreadable


def _records(found: Sequence[_Read], loader: Loader) -> Records:
    entries, images, digests, channels = zip(*found, strict=True)
    joined = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    return Records(entries, images, joined, loader, max(channels))


def _fingerprint(digests: np.ndarray, labels: np.ndarray) -> str:
    """Over the sorted (pixel digest, label) pairs: independent of order, names and layout."""
    pairs = np.concatenate([digests, labels[:, None].astype(np.uint8)], axis=1)
    return hashlib.sha256(b"".join(sorted(pair.tobytes() for pair in pairs))).hexdigest()


def _row(name: str, cells: Sequence[str]) -> str:
    return f"{name:<12}" + "".join(f"{cell:>9}" for cell in cells)
