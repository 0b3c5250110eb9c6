"""One path -> the data set that lies there, in whatever layout; with a validation part to train."""

import hashlib
import shutil
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from fer_jax.data import csv_rows, files, images, key_lists, parquet, rafdb
from fer_jax.data.duplicates import copy_groups
from fer_jax.data.layouts import find_images, role_of
from fer_jax.data.records import (
    ROLES,
    Dataset,
    Entry,
    Listing,
    Loader,
    ReadOptions,
    Records,
    digest,
    fingerprint,
    load,
    offenders,
)
from fer_jax.errors import UserError
from fer_jax.labels import LABELS

__all__ = ["Dataset", "ReadOptions", "Records", "fingerprint", "open_dataset"]

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
CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")
INFO_FILE = "dataset_info.json"  # TFDS writes it beside the records
HEADER_BYTES = 2**20

Found = tuple[Listing, Loader]
"""What lies there, and what reads an image of it."""


@dataclass(frozen=True)
class TreeImages:
    """ref = file name in a tree -> its decoded pixels."""

    tree: files.Tree
    max_pixels: int

    def __call__(self, ref: str) -> np.ndarray:
        """uint8 [H, W, C]; UnreadableImage for what is no whole, allowed image."""
        limit = 8 * self.max_pixels + HEADER_BYTES  # 4 channels of 16 bits, uncompressed
        return images.decode(files.read(self.tree, ref, limit), self.max_pixels)


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
            whole = _as_one_split(dataset)
    if not options.exclude or "train" not in whole.roles:
        return whole
    part = _without_excluded(whole, frozenset(dataset.roles["train"].keys), options.exclude)
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
    if not place.exists():
        raise UserError(f"data path {path!r} does not exist; {UNDERSTOOD}")
    if place.is_dir():
        return _from_tree(files.Tree(place, "folder"), options)
    if place.suffix.lower() in (".csv", ".parquet"):
        return _from_tree(files.Tree(place.parent, "folder"), options, [place.name])
    archive = files.open_archive(place)
    if archive is None:
        raise UserError(f"{path} is neither a folder, an archive nor a table; {UNDERSTOOD}")
    return _from_tree(archive, options)


def _from_tree(
    tree: files.Tree, options: ReadOptions, only: Sequence[str] | None = None
) -> Dataset:
    """The first layout that fits; `only` names the files to look at, else all count."""
    names, junk = files.split_junk(tree.names()) if only is None else (only, Counter[str]())
    where = tree.path if only is None else tree.path / only[0]
    try:
        layouts = (_images, _tables, _parquet, _prepared)
        for reader in (_prepared,) if INFO_FILE in names else layouts:
            found = reader(tree, names, options)
            if found is not None:
                listing, loader = found
                packed = "" if tree.kind == "folder" else f" in a {tree.kind}"
                listing = replace(
                    listing, layout=listing.layout + packed, ignored=junk + listing.ignored
                )
                return _read(listing, loader, where, options)
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith(str(where)) else f"{where}: {text}") from None
    archives = [name for name in names if name.lower().endswith(files.ARCHIVES)]
    if tree.kind == "folder" and len(archives) == 1:
        return read_dataset(str(tree.path / archives[0]), options)
    seen = ", ".join(files.printable(name) for name in names[:3]) or "no files"
    several = " (more than one archive: give the path of one)" if len(archives) > 1 else ""
    raise UserError(f"{where} holds no known layout: {seen}, ...{several}; {UNDERSTOOD}")


def _prepared(tree: files.Tree, names: Sequence[str], options: ReadOptions) -> Found | None:
    """What fer_jax.prepare wrote, at the top or in the only folder that has such a thing."""
    infos = [name for name in names if PurePosixPath(name).name == INFO_FILE]
    if len(infos) != 1:
        return None
    from fer_jax.data import fer2013  # TFDS takes a second to import: only where it is needed

    folder = str(PurePosixPath(infos[0]).parent)
    if tree.kind == "folder":
        return fer2013.read(tree.path / folder, options.max_pixels, options.cache_mib)
    inside = [name for name in names if str(PurePosixPath(name).parent) == folder]
    place = files.unpack(tree, inside)
    listing, loader = fer2013.read(place, options.max_pixels, options.cache_mib)
    weakref.finalize(loader, shutil.rmtree, place, ignore_errors=True)
    return listing, loader


def _images(tree: files.Tree, names: Sequence[str], options: ReadOptions) -> Found | None:
    here = tree.path.resolve().name if tree.kind == "folder" else ""
    listing = find_images(names, here, options.classes())
    listing = listing or rafdb.find_listed(tree, names, options)
    return None if listing is None else (listing, TreeImages(tree, options.max_pixels))


def _parquet(tree: files.Tree, names: Sequence[str], options: ReadOptions) -> Found | None:
    tables = [name for name in names if name.lower().endswith(".parquet")]
    if not tables:
        return None
    if tree.kind != "folder":
        raise UserError(f"Parquet is not read within a {tree.kind}: unpack it")
    listing, loader = parquet.read_parquet(tree.path, tables, options)
    return replace(listing, ignored=files.kinds(set(names) - set(tables))), loader


def _tables(tree: files.Tree, names: Sequence[str], options: ReadOptions) -> Found | None:
    """fer2013.csv, else icml_face_data.csv, else other CSV of such a kind, a split each."""
    tables = [name for name in names if name.lower().endswith(".csv")]
    bases = {name: files.printable(name).rsplit("/", 1)[-1] for name in tables}
    fitting = [n for wanted in CSV_NAMES for n in tables if bases[n].lower() == wanted][:1]
    notes: list[str] = []
    if names == tables[:1]:
        fitting = tables  # the only file: what is wrong with it is to be said
    for name in tables if not fitting else ():
        with files.opened(tree, name) as stream:
            header = csv_rows.sniff(stream)
        if header and header.emotion is None:
            notes.append(f"{files.printable(name)} has no labels: it is not read")
        elif header:
            fitting = [*fitting, name]
    if notes and not fitting:
        raise UserError(notes[0])
    if len({role_of(bases[name]) for name in fitting} - {None}) < len(fitting) > 1:
        raise UserError(f"{', '.join(fitting[:3])} all fit: give the path of one")

    entries: list[Entry] = []
    stray: list[tuple[str, str]] = []
    pixels: dict[str, bytes] = {}
    for name in fitting:
        with files.opened(tree, name) as stream:
            part, loader = csv_rows.read_csv(stream, bases[name], options, len(fitting) == 1)
        entries += part.entries
        stray += part.stray
        notes += part.notes
        pixels |= loader.rows
    layout, ignored = " and ".join(bases[n] for n in fitting), set(names) - set(fitting)
    listing = Listing(layout, entries, files.kinds(ignored), stray, tuple(notes))
    return (listing, csv_rows.CsvPixels(pixels)) if fitting else None


def _read(listing: Listing, loader: Loader, where: Path, options: ReadOptions) -> Dataset:
    """What lies `where`, decoded; UserError if some cannot be and on_corrupt is stop."""
    roles, broken = load(listing.entries, loader, options.cache_mib)
    unreadable = (*listing.stray, *broken)
    if unreadable and options.on_corrupt == "stop":
        raise UserError(
            f"{where}: cannot read {offenders(unreadable)}; mend or remove them, or set "
            f"{options.prefix}on_corrupt=skip to go on without them"
        )
    if listing.fingerprints and not unreadable:
        found = {role: records.fingerprint for role, records in roles.items()}
        if found != listing.fingerprints:
            raise UserError(
                f"{where} is not what was prepared (fingerprints differ): prepare it anew"
            )
    if not roles:
        raise UserError(f"{where} holds no readable image")
    return Dataset(listing.layout, roles, dict(listing.ignored), unreadable, listing.notes)


def _synthetic() -> Dataset:
    from fer_jax.data import synthetic

    roles = {}
    for role in ("train", "validation"):
        pixels, labels = synthetic.faces(role)
        faces = list(pixels[..., None])
        entries = [
            Entry("", role, int(label), f"{role}/{i:05d}", -1) for i, label in enumerate(labels)
        ]
        joined = np.frombuffer(b"".join(map(digest, faces)), np.uint8).reshape(-1, 32)
        roles[role] = Records(entries, faces, joined, None, channels=1)
    return Dataset("synthetic", roles, {}, (), ())


def _check_training_classes(dataset: Dataset, path: str) -> None:
    """Every class needs a training image: a class without any is a mistake, not a result."""
    if "train" not in dataset.roles:
        return
    counts = dataset.roles["train"].counts()
    empty = [name for name, count in zip(LABELS, counts, strict=True) if count == 0]
    if empty:
        raise UserError(
            f"{path}: no training image of {', '.join(empty)}; "
            "every one of the seven classes needs at least one"
        )


def _with_validation(dataset: Dataset, options: ReadOptions) -> Dataset:
    if "validation" in dataset.roles or "train" not in dataset.roles:
        return dataset
    train = dataset.roles["train"]
    held_out = choose_validation(
        train.digests, train.labels, options.validation_fraction, options.split_seed
    )
    if not held_out.any():
        return dataset
    made = {
        "train": train.take(np.flatnonzero(~held_out)),
        "validation": train.take(np.flatnonzero(held_out)),
    }
    note = (
        f"no validation part: {held_out.sum()} of {len(train)} training images held out for it "
        f"(validation_fraction={options.validation_fraction}, split_seed={options.split_seed}; "
        "stratified, copies kept together)"
    )
    roles = {role: (dataset.roles | made)[role] for role in ROLES if role in dataset.roles | made}
    return replace(dataset, roles=roles, notes=(*dataset.notes, note))


def _as_one_split(dataset: Dataset) -> Dataset:
    """Data that no model held a part out of: evaluation has no use for holding out."""
    if set(dataset.roles) != {"train"}:
        return dataset
    every = dataset.split("all")
    note = f"no splits: all {len(every)} images are one split, all"
    return replace(dataset, roles={"all": every}, notes=(*dataset.notes, note))


def _without_excluded(dataset: Dataset, known: frozenset[str], path: str) -> Dataset:
    """Train without the keys that the file lists; `known` are those of train and what it gave away.

    UserError where it names no such image: it is a list of other data or of another split.
    """
    listed = key_lists.read(path, "train")
    found, train = known & set(listed), dataset.roles["train"]
    if listed and not found:
        raise UserError(
            f"data.exclude={path}: none of its {len(listed)} keys, first {listed[0]!r}, is of a "
            f"training image (such as {min(known)!r}): give a list that the audit made of this data"
        )
    kept = [i for i, key in enumerate(train.keys) if key not in found]
    left_out = len(train) - len(kept)
    parts = [f"data.exclude: {left_out} of {len(train)} training images left out, by {path}"]
    if len(found) > left_out:
        parts.append(f"{len(found) - left_out} that it lists are held out for validation and stay")
    if len(listed) > len(found):
        parts.append(f"{len(listed) - len(found)} of its keys name no training image")
    roles = {**dataset.roles, "train": train.take(kept)}
    return replace(dataset, roles=roles, notes=(*dataset.notes, "; ".join(parts)))


def choose_validation(
    digests: np.ndarray, labels: np.ndarray, fraction: float, seed: int
) -> np.ndarray:
    """Digests uint8 [N, 32], labels int [N] -> bool [N]: the share of each class to hold out.

    Groups of copies go as one, in the order of a hash of seed and pixels: the choice depends on
    nothing else, neither on the layout nor on what other images there are. Each class keeps at
    least one image for training.
    """
    groups = copy_groups(digests)
    members: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(int(group), []).append(i)
    ordered = sorted(members.values(), key=lambda group: _draw(seed, digests[group[0]]))
    sizes = np.bincount(labels, minlength=len(LABELS))
    wanted = np.maximum(np.round(fraction * sizes), fraction > 0)
    room = np.minimum(wanted, np.maximum(sizes - 1, 0))
    held_out = np.zeros(len(labels), bool)
    for group in ordered:
        taken = np.bincount(labels[group], minlength=len(LABELS))
        if (taken <= room).all():
            held_out[group] = True
            room = room - taken
    return held_out


def _draw(seed: int, pixel_digest: np.ndarray) -> bytes:
    return hashlib.sha256(f"{seed}:".encode() + pixel_digest.tobytes()).digest()
