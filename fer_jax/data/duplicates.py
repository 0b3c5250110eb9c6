"""Exact copies among images: groups by pixel digest, labels that disagree, copies across roles."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Digested(Protocol):
    """What is compared: pixel digests uint8 [N, 32], labels int32 [N], keys of N records."""

    digests: np.ndarray
    labels: np.ndarray
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Copies:
    """Images with the very same pixels: where they lie and what they are called."""

    members: tuple[tuple[str, str, int], ...]
    """(role, key, label) of each copy, in role order, then key order."""

    @property
    def roles(self) -> frozenset[str]:
        """The roles that hold a copy."""
        return frozenset(role for role, _, _ in self.members)

    @property
    def conflicting(self) -> bool:
        """Whether the copies bear more than one label."""
        return len({label for _, _, label in self.members}) > 1


def copy_groups(digests: np.ndarray) -> np.ndarray:
    """Digests uint8 [N, 32] -> int32 [N], equal numbers for equal pixels, 0.. by digest."""
    if len(digests) == 0:
        return np.zeros(0, np.int32)
    return np.unique(_as_scalars(digests), return_inverse=True)[1].astype(np.int32)


def find_copies(roles: Mapping[str, Digested]) -> list[Copies]:
    """Every group of two or more identical images over all roles, by its first member."""
    groups: dict[bytes, list[tuple[str, str, int]]] = defaultdict(list)
    for role, records in roles.items():
        for digest, key, label in zip(records.digests, records.keys, records.labels, strict=True):
            groups[digest.tobytes()].append((role, key, int(label)))
    return [Copies(tuple(members)) for members in groups.values() if len(members) > 1]


def has_copy_in(records: Digested, others: Digested) -> np.ndarray:
    """Bool [N]: which of `records` have an exact copy among `others` (the memoriser's gain)."""
    return np.isin(_as_scalars(records.digests), _as_scalars(others.digests))


def short_hashes(digests: np.ndarray) -> np.ndarray:
    """Digests uint8 [N, 32] -> uint64 [<= N]: their first 8 bytes, ascending, each once.

    What a model keeps of its training images, 8 bytes for each. 64 bits suffice: of a images
    compared with b others, a * b / 2^64 are taken for copies by chance, for FER2013's 28,709 and
    3,589 one in 10^11 such evaluations.
    """
    return np.unique(_short(digests))


def has_hash_in(digests: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Bool [N]: which of the digests uint8 [N, 32] have their `short_hashes` among uint64 [M]."""
    return np.isin(_short(digests), hashes)


def describe(roles: Mapping[str, Digested]) -> str:
    """One line: distinct images, groups with conflicting labels, copies across roles."""
    total = sum(len(records.labels) for records in roles.values())
    groups = find_copies(roles)
    distinct = total - sum(len(group.members) - 1 for group in groups)
    conflicts = sum(group.conflicting for group in groups)
    parts = [f"{total} images, {distinct} distinct, {conflicts} groups of copies with two labels"]
    for role in roles:
        if role != "train" and "train" in roles:
            count = int(has_copy_in(roles[role], roles["train"]).sum())
            parts.append(f"{count} of {role} have a copy in train")
    return "; ".join(parts)


def _short(digests: np.ndarray) -> np.ndarray:
    """uint8 [N, 32] -> uint64 [N], the same on any machine."""
    return np.ascontiguousarray(digests[:, :8]).view("<u8").ravel().astype(np.uint64)


def _as_scalars(digests: np.ndarray) -> np.ndarray:
    """uint8 [N, 32] -> void [N], comparable as one value each."""
    return np.ascontiguousarray(digests).view("V32").ravel()
