"""All that an audit finds out about a data set, before it is written down."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fer_jax.auditing import conventions, known, near_duplicates, votes
from fer_jax.auditing.conventions import Fit
from fer_jax.auditing.known import Likeness
from fer_jax.auditing.photographs import (
    TRAIN,
    Copies,
    conflicting,
    find_copies,
    leaking,
    with_mirrored,
)
from fer_jax.auditing.pool import Pool, gather
from fer_jax.auditing.votes import Judgement
from fer_jax.data.records import Dataset


@dataclass(frozen=True)
class Findings:
    """What was found; positions are those of `pool`."""

    dataset: Dataset
    pool: Pool
    likeness: Likeness
    blank: np.ndarray
    """Bool [N]."""
    copies: Copies
    altered: dict[str, np.ndarray]
    """What copies that were made on purpose measure, see `altered_distances`."""
    leaks: dict[str, np.ndarray]
    """Kind ("exact", "near", "mirrored"; each holds those before) -> bool [N]: in train and not."""
    conflicts: list[np.ndarray]
    """Photographs with more than one label; exact and near copies."""
    fits: dict[str, Fit | None]
    """Split other than train -> how its class names fit train's."""
    judgement: Judgement | None
    """What FER+ says, if it was given."""

    def exclusions(self) -> dict[str, list[str]]:
        """File name -> keys of training images that one may want to train without."""
        nothing = np.zeros(len(self.pool), bool)
        disputed = nothing.copy()
        disputed[np.concatenate([np.zeros(0, int), *self.conflicts])] = True
        marked = {
            "exclude_exact_copies_of_validation.txt": self.leaks["exact"],
            "exclude_copies_of_validation.txt": self.leaks["mirrored"],
            "exclude_conflicts.txt": disputed,
            "exclude_blank.txt": self.blank,
        }
        if self.judgement is not None:
            marked["exclude_no_face.txt"] = self.judgement.no_face
        train = self.pool.within(TRAIN)
        return {
            name: sorted(self.pool.keys[i] for i in np.flatnonzero(mask & train))
            for name, mask in marked.items()
        }


def examine(dataset: Dataset, ballots: np.ndarray | None, say: Callable[[str], None]) -> Findings:
    """Look at every image of `dataset`; `ballots` are FER+'s votes int [rows, 10], if at hand."""
    pool = gather(dataset)
    judgement = None if ballots is None else votes.judge(ballots, pool)
    say(f"comparing {len(pool):,} images with each other")
    copies = find_copies(pool)
    blank = pool.blank()
    return Findings(
        dataset=dataset,
        pool=pool,
        likeness=known.recognise({role: part.counts() for role, part in dataset.roles.items()}),
        blank=blank,
        copies=copies,
        altered=near_duplicates.altered_distances(pool.images[~blank]),
        leaks={
            "exact": leaking(pool, copies.exact),
            "near": leaking(pool, copies.photographs),
            "mirrored": leaking(pool, with_mirrored(pool, copies)),
        },
        conflicts=conflicting(pool.labels, copies.photographs),
        fits=compare_names(pool, blank),
        judgement=judgement,
    )


def compare_names(pool: Pool, blank: np.ndarray) -> dict[str, Fit | None]:
    """Split other than train -> how its class names fit those of train; empty without train."""
    splits = list(dict.fromkeys(pool.splits))
    if TRAIN not in splits:
        return {}
    train = pool.within(TRAIN) & ~blank
    fits = {}
    for split in splits:
        if split != TRAIN:
            other = pool.within(split) & ~blank
            fits[split] = conventions.compare(
                pool.images[train], pool.labels[train], pool.images[other], pool.labels[other]
            )
    return fits
