"""One path -> the data set that lies there: folders, zip, CSV, prepared, or drawn faces."""

import hashlib
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fer_jax.data import csv_rows, files, images, key_lists
from fer_jax.data.duplicates import copy_groups
from fer_jax.data.layouts import Listing, find_images
from fer_jax.data.records import (
    ROLES,
    Dataset,
    Entry,
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
    "understood: train/CLASS/*, validation/CLASS/*, test/CLASS/* as folders or in their zip, "
    "fer2013.csv, icml_face_data.csv, or what fer_jax.prepare wrote"
)
WHERE = (
    "no data path: get FER2013 from Kaggle (dataset msambare/fer2013, or fer2013.csv of the "
    "challenge 'challenges-in-representation-learning-facial-expression-recognition-challenge') "
    f"and set data.path; {UNDERSTOOD}; the word 'synthetic' means the built-in faces"
)
CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")
HEADER_BYTES = 2**20


@dataclass(frozen=True)
class TreeImages:
    """ref = file name in a tree -> its decoded pixels."""

    tree: files.Tree
    max_pixels: int

    def __call__(self, ref: str) -> np.ndarray:
        """uint8 [H, W, C]; UnreadableImage for what is no whole, allowed image."""
        limit = 8 * self.max_pixels + HEADER_BYTES  # 4 channels of 16 bits, uncompressed
        return images.decode(files.read(self.tree, ref, limit), self.max_pixels)


def open_dataset(path: str, options: ReadOptions) -> Dataset:
    """Read the data set at `path`, decode and check every image; UserError for what is amiss.

    Without a validation part a share of train is held out (stratified, seeded, copies kept
    together) and announced in `notes`; test never stands in for it. What `options.exclude` lists is
    left out of train thereafter: validation is the same with and without it.
    """
    dataset = read_dataset(path, options)
    _check_training_classes(dataset, path)
    part = divide(dataset, options)
    if options.exclude:
        _check_training_classes(part, f"{path} without what data.exclude={options.exclude} lists")
    return part


def divide(dataset: Dataset, options: ReadOptions) -> Dataset:
    """What `read_dataset` gave, with the held-out part and the exclusions of `open_dataset`."""
    whole = _with_validation(dataset, options)
    if not options.exclude or "train" not in dataset.roles:
        return whole
    return _without_excluded(whole, frozenset(dataset.roles["train"].keys), options.exclude)


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
        return _from_directory(place, options)
    if place.suffix.lower() == ".csv":
        return _from_csv(files.Folder(place.parent), place.name, Counter(), options)
    if zipfile.is_zipfile(place):
        return _from_tree(files.Zip(place), options)
    raise UserError(f"{path} is neither a folder, a zip nor a CSV; {UNDERSTOOD}")


def _from_directory(place: Path, options: ReadOptions) -> Dataset:
    if (place / "dataset_info.json").exists():
        return _from_prepared(place, options)
    return _from_tree(files.Folder(place), options)


def _from_prepared(place: Path, options: ReadOptions) -> Dataset:
    from fer_jax.data import fer2013  # TFDS takes a second to import: only where it is needed

    prepared = fer2013.read(place, options.max_pixels, options.cache_mib)
    empty = Dataset("prepared", {}, {}, (), ())
    dataset = fill(empty, str(place), prepared.entries, prepared.loader, (), options)
    if not dataset.unreadable and fingerprint(dataset) != prepared.fingerprints:
        raise UserError(f"{place} is not what was prepared (fingerprints differ); prepare it anew")
    return dataset


def _from_tree(tree: files.Tree, options: ReadOptions) -> Dataset:
    """Image folders, else a CSV, else (in a folder) the one zip that lies there."""
    names, junk = files.split_junk(tree.names())
    listing = _listing(tree, names, options)
    if listing is not None:
        return _from_images(tree, listing, junk, options)
    table = _find_csv(tree, names)
    if table is not None:
        return _from_csv(tree, table, junk, options)
    zips = [name for name in names if name.lower().endswith(".zip")]
    if isinstance(tree, files.Folder) and len(zips) == 1:
        return _from_tree(files.Zip(tree.path / zips[0]), options)
    seen = ", ".join(files.printable(name) for name in names[:3]) or "no files"
    several = " (more than one zip: give the path of one)" if len(zips) > 1 else ""
    raise UserError(f"{tree.path} holds no known layout: {seen}, ...{several}; {UNDERSTOOD}")


def _listing(tree: files.Tree, names: Sequence[str], options: ReadOptions) -> Listing | None:
    here = tree.path.resolve().name if isinstance(tree, files.Folder) else ""
    try:
        return find_images(names, here, options.label_order)
    except UserError as error:
        raise UserError(f"{tree.path}: {error}") from None


def _from_images(
    tree: files.Tree, listing: Listing, junk: Counter[str], options: ReadOptions
) -> Dataset:
    loader = TreeImages(tree, options.max_pixels)
    zipped = " in a zip" if isinstance(tree, files.Zip) else ""
    dataset = Dataset(
        f"{listing.layout}{zipped}", {}, dict(junk + listing.ignored), (), listing.notes
    )
    return fill(dataset, str(tree.path), listing.entries, loader, listing.stray, options)


def _find_csv(tree: files.Tree, names: Sequence[str]) -> str | None:
    """fer2013.csv, else icml_face_data.csv, else the one other CSV with such a header."""
    tables = [name for name in names if name.lower().endswith(".csv")]
    for wanted in CSV_NAMES:
        for name in tables:
            if name.lower().rsplit("/", 1)[-1] == wanted:
                return name
    fitting = []
    for name in tables:
        with files.opened(tree, name) as stream:
            fitting += [name] if csv_rows.sniff(stream) else []
    if len(fitting) > 1:
        raise UserError(f"{tree.path}: {', '.join(fitting[:3])} all fit: give the path of one")
    return fitting[0] if fitting else None


def _from_csv(tree: files.Tree, name: str, junk: Counter[str], options: ReadOptions) -> Dataset:
    with files.opened(tree, name) as stream:
        entries, pixels = csv_rows.read_csv(stream, files.printable(name), options.label_order)
    if not entries:
        raise UserError(f"{tree.path}: {files.printable(name)} has a header and no rows")
    zipped = " in a zip" if isinstance(tree, files.Zip) else ""
    layout = f"{files.printable(name).rsplit('/', 1)[-1]}{zipped}"
    where = f"{tree.path}/{files.printable(name)}"
    return fill(Dataset(layout, {}, dict(junk), (), ()), where, entries, pixels, (), options)


def fill(
    dataset: Dataset,
    where: str,
    entries: Sequence[Entry],
    loader: Loader,
    stray: Sequence[tuple[str, str]],
    options: ReadOptions,
) -> Dataset:
    """`dataset` with its images read; UserError if some cannot be and on_corrupt is stop."""
    roles, broken = load(entries, loader, options.cache_mib)
    unreadable = (*stray, *broken)
    if unreadable and options.on_corrupt == "stop":
        raise UserError(
            f"{where}: cannot read {offenders(unreadable)}; mend or remove them, or set "
            "data.on_corrupt=skip to go on without them"
        )
    return replace(dataset, roles=roles, unreadable=unreadable)


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
    if not dataset.roles:
        raise UserError(f"{path} holds no readable image")
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
