"""Images with label, key and row by number, decoded or in memory; the data set of them."""

import copy
import hashlib
import operator
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from fer_jax.data.classes import Classes
from fer_jax.data.images import UnreadableImage, quiet_pillow
from fer_jax.errors import UserError, printable
from fer_jax.labels import LABELS
from fer_jax.sections import Section, key

ROLES = ("train", "validation", "test")
PART = 64  # images that a thread takes at a time: handing them over costs as much as reading
SHOWN = 3  # first offenders named in one line

Loader = Callable[[str], np.ndarray]
"""ref -> uint8 [H, W, C], read-only; raises UnreadableImage."""


@dataclass(frozen=True)
class ReadOptions(Section):
    """How to read: a part of the section `data`."""

    section = "data"
    label_order: str = key()  # what numbers mean, "angry,disgust,..."; "" if the layout tells
    on_corrupt: str = key(choices=("stop", "skip"))  # skip: go on without what cannot be read
    validation_fraction: float = key(0, 0.99)  # of train, held out where there is no such part
    split_seed: int = key()
    max_pixels: int = key(1, 89_000_000, neutral=True)  # larger images are refused, as by Pillow
    cache_mib: int = key(0, 10**7, neutral=True)  # of pixels kept; others are decoded each time
    exclude: str = key(neutral=True)  # a file of keys to leave out of train; "" for none
    map: str = key(neutral=True)  # "contempt:none,joy:happy": names of classes, or to leave out
    # what the last two leave of train counts, as its fingerprint

    def classes(self, default: Sequence[str] = ()) -> Classes:
        """How to read class names; numbers mean `default` unless `label_order` says otherwise."""
        return Classes(self.label_order, self.map, default)


@dataclass(frozen=True)
class Entry:
    """One image before it is read."""

    ref: str  # what the loader takes; also the name in messages
    role: str
    label: int
    key: str
    row: int  # of fer2013.csv, -1 where unknown


@dataclass(frozen=True)
class Listing:
    """What lies at a path, before any image is decoded."""

    layout: str
    entries: Sequence[Entry]
    ignored: Counter[str] = field(default_factory=Counter)
    stray: Sequence[tuple[str, str]] = ()  # (name, reason) of images that no entry can be made of
    notes: tuple[str, ...] = ()
    fingerprints: Mapping[str, str] | None = None  # what roles must be, where the layout tells


Found = tuple[Listing, Loader]
"""What lies at a path, and what reads an image of it."""


class Records:
    """One role, ordered by key; picklable. `records[i]` is {image, label, key, row}."""

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
        self.targets: np.ndarray | None = None  # float32 [N, 7], to learn from beside the labels
        self.note = ""  # of the targets
        self._entries, self._images = entries, images
        self._loader = loader if any(image is None for image in images) else None

        # over the sorted pairs: independent of order, names and layout
        pairs = np.concatenate([digests, self.labels[:, None].astype(np.uint8)], axis=1)
        joined = b"".join(sorted(pair.tobytes() for pair in pairs))
        self.fingerprint = hashlib.sha256(joined).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        i = range(len(self))[operator.index(index)]
        values = self.image(i), self.labels[i], self.keys[i], self.rows[i]
        return dict(zip(("image", "label", "key", "row"), values, strict=True))

    def image(self, index: int) -> np.ndarray:
        """uint8 [H, W, C], C = 1 if grey; read-only."""
        image = self._images[index]
        if image is not None:
            return image
        assert self._loader is not None
        ref = self._entries[index].ref
        try:
            return self._loader(ref)
        except UnreadableImage as error:
            name = printable(ref)
            raise UserError(f"{name} was readable when loaded and is not now: {error}") from None

    def among(self, keys: Sequence[str]) -> np.ndarray:
        """Bool [N]: whose key is one of these."""
        return np.isin(np.array(self.keys, np.str_), np.array(keys, np.str_))

    def counts(self) -> np.ndarray:
        """Images per class, int [7]."""
        return np.bincount(self.labels, minlength=len(LABELS))

    def take(self, indices: Sequence[int] | np.ndarray) -> "Records":
        """The records at `indices`, in that order."""
        chosen = [int(i) for i in indices]
        entries = [self._entries[i] for i in chosen]
        images = [self._images[i] for i in chosen]
        part = Records(entries, images, self.digests[chosen], self._loader, self.channels)
        return part if self.targets is None else part.with_targets(self.targets[chosen], self.note)

    def with_targets(self, targets: np.ndarray, note: str) -> "Records":
        """The same records, each with its `target` of float32 [N, 7]."""
        same = copy.copy(self)
        same.targets, same.note = targets, note
        return same

    @classmethod
    def joined(cls, parts: Sequence["Records"]) -> "Records":
        """All of them, ordered by key; they are of one data set."""
        entries = [entry for part in parts for entry in part._entries]
        images = [image for part in parts for image in part._images]
        loader = next((part._loader for part in parts if part._loader is not None), None)
        digests = np.concatenate([part.digests for part in parts])
        whole = cls(entries, images, digests, loader, max(part.channels for part in parts))
        return whole.take(sorted(range(len(whole)), key=whole.keys.__getitem__))


@dataclass(frozen=True)
class Dataset:
    """All roles of one data set, and what a person must know about how it was read."""

    layout: str  # what was recognised: "seed folders", "fer2013.csv", "prepared", ...
    roles: dict[str, Records]  # of "train", "validation", "test" those that exist
    ignored: dict[str, int]  # files set aside, by kind: {".DS_Store": 3}
    unreadable: tuple[tuple[str, str], ...]  # (name, reason) of what on_corrupt=skip left out
    notes: tuple[str, ...]  # what a person must be told, one line each

    def split(self, role: str) -> Records:
        """One role's records, or every image as "all"; UserError names the roles there are."""
        if role in self.roles:
            return self.roles[role]
        if role != "all":
            known = ", ".join(self.roles)
            raise UserError(f"the data has no split {role!r}, only {known} (and all, every image)")
        return Records.joined(list(self.roles.values()))

    def describe(self) -> str:
        """Images per role and class as a table, then ignored and unreadable files, then notes."""
        rows = [("", *LABELS, "all")]
        rows += [(role, *part.counts(), len(part)) for role, part in self.roles.items()]
        lines = [f"data: {self.layout}"]
        lines += [f"{name:<12}" + "".join(f"{cell:>9}" for cell in cells) for name, *cells in rows]
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
    return hashlib.sha256(np.array(image.shape, "<u4").tobytes() + image.tobytes()).digest()


def copy_groups(digests: np.ndarray) -> np.ndarray:
    """Digests uint8 [N, 32] -> int32 [N], equal numbers for equal pixels, 0.. by digest."""
    values = np.ascontiguousarray(digests).view("V32").ravel()
    return np.unique(values, return_inverse=True)[1].astype(np.int32)


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
    room, lock = cache_mib * 2**20, threading.Lock()

    def attempt(entry: Entry) -> tuple[np.ndarray | None, bytes, int] | str:
        """Pixels, where they are kept in memory, digest and channels; or what is wrong."""
        nonlocal room
        try:
            image = loader(entry.ref)
        except UnreadableImage as error:
            return str(error)
        with lock:
            room -= image.nbytes
            kept = image if room >= 0 else None
        return kept, digest(image), image.shape[2]

    threads = min(4, os.cpu_count() or 1)  # more only fight over the interpreter lock
    parts = [ordered[start : start + PART] for start in range(0, len(ordered), PART)]
    shown = {"desc": "reading images", "unit": "image", "disable": None, "leave": False}
    with quiet_pillow(), ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda part: [attempt(entry) for entry in part], parts)
        bar = tqdm(results, total=len(parts), unit_scale=PART, **shown)
        found = [one for part in bar for one in part]

    read = list(zip(ordered, found, strict=True))
    unreadable = [(printable(entry.ref), one) for entry, one in read if isinstance(one, str)]
    roles = {}
    for role in ROLES:
        good = [(e, *one) for e, one in read if e.role == role and not isinstance(one, str)]
        if good:
            its, images, digests, channels = zip(*good, strict=True)
            joined = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
            roles[role] = Records(its, images, joined, loader, max(channels))
    return roles, unreadable
