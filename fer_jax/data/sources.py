"""One path -> the data set that lies there, in whatever layout; with a validation part to train."""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from fer_jax.data import files, images, tables
from fer_jax.data.layouts import find_images, find_rafdb
from fer_jax.data.records import (
    ROLES,
    Dataset,
    Entry,
    Found,
    ReadOptions,
    copy_groups,
    fingerprint,
    load,
    offenders,
)
from fer_jax.data.sidecars import listed
from fer_jax.errors import UserError, printable
from fer_jax.labels import LABELS

UNDERSTOOD = (
    "understood: train/CLASS/*, validation/CLASS/*, test/CLASS/*, fer2013.csv and its relatives, "
    "RAF-DB's list, Parquet, each as files or in a zip or tar, and what fer_jax.prepare wrote"
)
WHERE = (
    "no data path: get FER2013 from Kaggle (dataset msambare/fer2013, or fer2013.csv of the "
    "challenge 'challenges-in-representation-learning-facial-expression-recognition-challenge') "
    "and name it, by data.path in a configuration, by --data or --source in other commands; "
    f"{UNDERSTOOD}; the word 'synthetic' means the built-in faces"
)
INFO_FILE = "dataset_info.json"  # TFDS writes it beside the records
HEADER_BYTES = 2**20


def open_dataset(
    path: str, options: ReadOptions, trained_on: Sequence[Mapping[str, str]] | None = None
) -> Dataset:
    """Read the data set at `path`, decode and check every image; UserError for what is amiss.

    Without a validation part a share of train is held out (stratified, seeded, copies kept
    together) and announced in `notes`; test never stands in for it. What `options.exclude` lists is
    left out of train thereafter: validation is the same with and without it.

    To evaluate, give the fingerprints `trained_on` of the models' data, `[]` if not known: then no
    class need be there, and only what one of them held out is held out; other data of train alone
    are one split, "all".
    """
    dataset = read_dataset(path, options)
    if trained_on is None:
        _check_training_classes(dataset, path)
    whole = _with_validation(dataset, options)
    if trained_on is not None and "validation" not in dataset.roles:
        held_out = fingerprint(whole).get("validation", "")
        if held_out not in [prints.get("validation") for prints in trained_on]:
            whole = dataset
    if trained_on is not None and list(whole.roles) == ["train"]:
        every = whole.split("all")
        note = f"no splits: all {len(every)} images are one split, all"
        return replace(whole, roles={"all": every}, notes=(*whole.notes, note))
    if not options.exclude or "train" not in whole.roles:
        return whole
    part = _without_excluded(whole, options.exclude)
    if trained_on is None:
        _check_training_classes(part, f"{path} without what data.exclude={options.exclude} lists")
    return part


def read_dataset(path: str, options: ReadOptions) -> Dataset:
    """The roles as they lie at `path`, none made; UserError where it cannot be read."""
    if not path:
        raise UserError(WHERE)
    if path == "synthetic":
        return _synthetic()
    place = Path(path).expanduser()
    if not os.path.exists(place):  # unlike Path's, also where the name is too long
        raise UserError(f"data path {path!r} does not exist; {UNDERSTOOD}")
    tree: files.Tree | None
    if place.suffix.lower() in (".csv", ".parquet") and place.is_file():
        tree, names, junk = files.Tree(place.parent, "folder"), [place.name], Counter[str]()
    else:
        tree = files.Tree(place, "folder") if place.is_dir() else files.open_archive(place)
        if tree is None:
            raise UserError(f"{path} is neither a folder, an archive nor a table; {UNDERSTOOD}")
        names, junk = files.split_junk(tree.names())
    try:
        dataset = _read_tree(tree, names, options)
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith(str(place)) else f"{place}: {text}") from None
    if dataset is not None:
        return replace(dataset, ignored=dict(junk + Counter(dataset.ignored)))

    archives = [name for name in names if name.lower().endswith(files.ARCHIVES)]
    if tree.kind == "folder" and len(archives) == 1:
        return read_dataset(str(tree.path / archives[0]), options)
    seen = ", ".join(printable(name) for name in names[:3]) or "no files"
    several = " (more than one archive: give the path of one)" if len(archives) > 1 else ""
    raise UserError(f"{place} holds no known layout: {seen}, ...{several}; {UNDERSTOOD}")


def _read_tree(tree: files.Tree, names: Sequence[str], options: ReadOptions) -> Dataset | None:
    """The first layout that fits, decoded; UserError where it cannot be and on_corrupt is stop."""
    layouts = (_prepared, _folders, tables.find_csv, tables.find_parquet)
    found = next(filter(None, (find(tree, names, options) for find in layouts)), None)
    if found is None:
        return None
    listing, loader = found
    roles, broken = load(listing.entries, loader, options.cache_mib)
    unreadable = (*listing.stray, *broken)
    if unreadable and options.on_corrupt == "stop":
        raise UserError(
            f"cannot read {offenders(unreadable)}; mend or remove them, or set "
            "on_corrupt=skip to go on without them"
        )
    prints = {role: records.fingerprint for role, records in roles.items()}
    if listing.fingerprints not in (None, prints) and not unreadable:
        raise UserError("not what was prepared (fingerprints differ): remove them, prepare anew")
    if not roles:
        raise UserError("it holds no readable image")
    layout = listing.layout if tree.kind == "folder" else f"{listing.layout} in a {tree.kind}"
    return Dataset(layout, roles, listing.ignored, unreadable, listing.notes)


def _folders(tree: files.Tree, names: Sequence[str], options: ReadOptions) -> Found | None:
    """Class folders, else RAF-DB's list."""
    here = tree.path.resolve().name if tree.kind == "folder" else ""
    listing = find_images(names, here, options.classes()) or find_rafdb(tree, names, options)
    return None if listing is None else (listing, partial(_image, tree, options.max_pixels))


def _image(tree: files.Tree, max_pixels: int, ref: str) -> np.ndarray:
    """ref = file name in a tree -> uint8 [H, W, C]; UnreadableImage for what is no allowed one."""
    limit = 8 * max_pixels + HEADER_BYTES  # 4 channels of 16 bits, uncompressed
    return images.decode(files.read(tree, ref, limit), max_pixels)


def _prepared(tree: files.Tree, names: Sequence[str], options: ReadOptions) -> Found | None:
    """What fer_jax.prepare wrote, where it lies unpacked."""
    if tree.kind != "folder" or INFO_FILE not in names:
        return None
    from fer_jax.data import fer2013  # TFDS takes a second to import: only where it is needed

    return fer2013.read(tree.path, options.max_pixels, options.cache_mib)


def _synthetic() -> Dataset:
    from fer_jax.data import synthetic

    entries, faces = [], {}
    for role in ("train", "validation"):
        for i, (face, label) in enumerate(zip(*synthetic.faces(role), strict=True)):
            key = f"{role}/{i:05d}"
            entries.append(Entry(key, role, int(label), key, -1))
            faces[key] = face[..., None]
    roles, _ = load(entries, faces.__getitem__, cache_mib=2**10)
    return Dataset("synthetic", roles, {}, (), ())


def _check_training_classes(dataset: Dataset, path: str) -> None:
    """Every class needs a training image: a class without any is a mistake, not a result."""
    if "train" not in dataset.roles:
        return
    counts = dataset.roles["train"].counts()
    empty = ", ".join(name for name, count in zip(LABELS, counts, strict=True) if not count)
    if empty:
        raise UserError(f"{path}: no training image of {empty}; each class needs at least one")


def _with_validation(dataset: Dataset, options: ReadOptions) -> Dataset:
    if "validation" in dataset.roles or "train" not in dataset.roles:
        return dataset
    train = dataset.roles["train"]
    held_out = choose_validation(
        train.digests, train.labels, options.validation_fraction, options.split_seed
    )
    if not held_out.any():
        return dataset
    made = dataset.roles | {
        "train": train.take(np.flatnonzero(~held_out)),
        "validation": train.take(np.flatnonzero(held_out)),
    }
    note = (
        f"no validation part: {held_out.sum()} of {len(train)} training images held out for it "
        f"(validation_fraction={options.validation_fraction}, split_seed={options.split_seed}; "
        "stratified, copies kept together)"
    )
    roles = {role: made[role] for role in ROLES if role in made}
    return replace(dataset, roles=roles, notes=(*dataset.notes, note))


def _without_excluded(dataset: Dataset, path: str) -> Dataset:
    """Train without the keys that the file lists."""
    train = dataset.roles["train"]
    mask, named = listed(train, path, "data.exclude", "train")
    note = f"data.exclude: {mask.sum()} of {len(train)} training images left out, by {named}"
    roles = {**dataset.roles, "train": train.take(np.flatnonzero(~mask))}
    return replace(dataset, roles=roles, notes=(*dataset.notes, note))


def choose_validation(
    digests: np.ndarray, labels: np.ndarray, fraction: float, seed: int
) -> np.ndarray:
    """Digests uint8 [N, 32], labels int [N] -> bool [N]: the share of each class to hold out.

    Groups of copies go as one, in the order of a hash of seed and pixels: the choice depends on
    nothing else, neither on the layout nor on what other images there are. Each class keeps at
    least one image for training.
    """
    members: dict[int, list[int]] = {}
    for i, group in enumerate(copy_groups(digests).tolist()):
        members.setdefault(group, []).append(i)

    def draw(group: Sequence[int]) -> bytes:
        return hashlib.sha256(f"{seed}:".encode() + digests[group[0]].tobytes()).digest()

    sizes = np.bincount(labels, minlength=len(LABELS))
    wanted = np.maximum(np.round(fraction * sizes), fraction > 0)
    room = np.minimum(wanted, np.maximum(sizes - 1, 0))
    held_out = np.zeros(len(labels), bool)
    for group in sorted(members.values(), key=draw):
        taken = np.bincount(labels[group], minlength=len(LABELS))
        if (taken <= room).all():
            held_out[group] = True
            room = room - taken
    return held_out
