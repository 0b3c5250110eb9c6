"""File names -> roles, labels, keys and rows: the seed's and Kaggle's folder layouts."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from fer_jax.data.files import printable
from fer_jax.data.images import SUFFIXES
from fer_jax.data.records import Entry
from fer_jax.errors import UserError
from fer_jax.labels import LABELS, canonical, parse_order

ROLE_FOLDERS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "publictest": "validation",
    "test": "test",
    "testing": "test",
    "privatetest": "test",
}
NAME_PREFIXES = {"training": "train", "publictest": "validation", "privatetest": "test"}
_PREFIX = re.compile(r"(training|publictest|privatetest)[_-]", re.IGNORECASE)
LARGEST_ROW = 2**31 - 1


@dataclass(frozen=True)
class Listing:
    """What a tree of files turned out to hold, before any image is read."""

    layout: str
    entries: tuple[Entry, ...]
    ignored: Counter[str]
    stray: tuple[tuple[str, str], ...]
    """(name, reason) of images that lie in no class folder."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """One file in its role and class folder; `inside` is its path below the data set's root."""

    name: str
    root: tuple[str, ...]
    inside: tuple[str, ...]
    role: str
    folder: str


def find_images(names: Sequence[str], here: str, label_order: str) -> Listing | None:
    """The layout that `names` follow, or None if they follow none.

    `here` is the name of the folder looked at: pointed at `validation/` itself, it is the role.
    """
    parts = {name: _parts(name) for name in names}
    places, stray = _in_role_folders(parts)
    if not places:
        places = _in_class_folders(parts, ROLE_FOLDERS.get(here.lower(), "train"), label_order)
    if not places:
        return None
    places, notes = _one_root(places)
    used = {place.name for place in places} | {name for name, _ in stray}
    entries = _entries(places, label_order)
    moved = _disagreements(places)
    if moved:
        notes += (f"{moved} files are placed by their name's prefix, against their folder",)
    return Listing(
        _layout_name(places), entries, _kinds(n for n in names if n not in used), stray, notes
    )


def row_number(stem: str) -> int:
    """`"00012"` -> 12; -1 if it is not all digits or beyond int32."""
    if not (stem.isascii() and stem.isdigit()) or len(stem) > 10:
        return -1
    return int(stem) if int(stem) <= LARGEST_ROW else -1


def row_key(row: int, largest: int) -> str:
    """A row as a key that sorts by number: five digits, more if the largest row needs them."""
    return f"{row:0{max(5, len(str(largest)))}d}"


def numeric_label(number: str, order: Sequence[str]) -> int:
    """`"3"` -> the project's label of the fourth name in `order`; UserError outside it."""
    position = int(number)
    if position >= len(order):
        raise UserError(f"class {number!r} is outside 0..{len(order) - 1} of data.label_order")
    return LABELS.index(order[position])


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _in_role_folders(
    parts: dict[str, tuple[str, ...]],
) -> tuple[list[_Place], tuple[tuple[str, str], ...]]:
    """Files at ROOT/role/class/..., and images that lie in a role but in no class."""
    places, stray = [], []
    for name, path in parts.items():
        depth = next((i for i, part in enumerate(path[:-1]) if part.lower() in ROLE_FOLDERS), None)
        if depth is None:
            continue
        role = ROLE_FOLDERS[path[depth].lower()]
        if len(path) > depth + 2:
            places.append(_Place(name, path[:depth], path[depth:], role, path[depth + 1]))
        elif path[-1].lower().endswith(SUFFIXES):
            stray.append((printable(name), "lies in no class folder"))
    return places, tuple(stray) if places else ()


def _in_class_folders(
    parts: dict[str, tuple[str, ...]], role: str, label_order: str
) -> list[_Place]:
    """Files at ROOT/class/name where two or more folders of a ROOT bear class names."""
    roots: dict[tuple[str, ...], set[str]] = {}
    for path in parts.values():
        if len(path) >= 2 and _is_class(path[-2], label_order):
            roots.setdefault(path[:-2], set()).add(path[-2])
    found = {root for root, folders in roots.items() if len(folders) > 1}
    return [
        _Place(name, path[:-2], path[-2:], role, path[-2])
        for name, path in parts.items()
        if len(path) >= 2 and path[:-2] in found
    ]


def _is_class(folder: str, label_order: str) -> bool:
    try:
        _label(folder, label_order)
    except UserError:
        return False
    return True


def _label(folder: str, label_order: str) -> int:
    if not (folder.isascii() and folder.isdigit()):
        return LABELS.index(canonical(folder))
    if not label_order:
        raise UserError(
            f"class folder {folder!r} is a number: say what 0, 1, ... mean with "
            "data.label_order=angry,disgust,fear,..."
        )
    return numeric_label(folder, parse_order(label_order))


def _one_root(places: list[_Place]) -> tuple[list[_Place], tuple[str, ...]]:
    """The shallowest data set, if the others are its copies; UserError if they are not."""
    roots: dict[tuple[str, ...], list[_Place]] = {}
    for place in places:
        roots.setdefault(place.root, []).append(place)
    first, *others = sorted(roots, key=lambda root: (len(root), root))
    inside = {place.inside for place in roots[first]}
    for other in others:
        if {place.inside for place in roots[other]} != inside:
            names = " and ".join(printable("/".join(root)) or "." for root in (first, other))
            raise UserError(f"two different data sets, in {names}: give the path of one")
    note = tuple(
        f"{printable('/'.join(root))} holds the same file names again and is not read"
        for root in others
    )
    return roots[first], note


def _entries(places: Sequence[_Place], label_order: str) -> tuple[Entry, ...]:
    """Rows are known if every stem is a number of its own; else the path is the key."""
    labels = {folder: _label(folder, label_order) for folder in sorted({p.folder for p in places})}
    rows = [row_number(place.inside[-1].rsplit(".", 1)[0]) for place in places]
    known = min(rows) >= 0 and len(set(rows)) == len(rows)
    largest = max(rows)
    entries = tuple(
        Entry(
            ref=place.name,
            role=_role(place),
            label=labels[place.folder],
            key=row_key(row, largest) if known else printable("/".join(place.inside)),
            row=row if known else -1,
        )
        for place, row in zip(places, rows, strict=True)
    )
    key, count = Counter(entry.key for entry in entries).most_common(1)[0]
    if count > 1:
        raise UserError(f"{count} files are one name once written alike, {key}: rename them")
    return entries


def _role(place: _Place) -> str:
    """The official split that a file's name tells, else its folder's role."""
    prefix = _PREFIX.match(place.inside[-1])
    return NAME_PREFIXES[prefix[1].lower()] if prefix else place.role


def _disagreements(places: Sequence[_Place]) -> int:
    """Names that contradict their folder; PublicTest in `test/` is how Kaggle packs it."""
    pairs = ((place.role, _role(place)) for place in places)
    return sum(
        folder != name and (folder, name) != ("test", "validation") for folder, name in pairs
    )


def _layout_name(places: Sequence[_Place]) -> str:
    roles = {place.role for place in places}
    if all(place.folder == place.inside[0] for place in places):
        return "class folders"
    if any(_PREFIX.match(place.inside[-1]) for place in places):
        return "Kaggle folders"
    return "seed folders" if "validation" in roles else "Kaggle folders"


def _kinds(names: Iterable[str]) -> Counter[str]:
    """How many other files, by suffix."""
    suffixes = (PurePosixPath(name).suffix.lower() for name in names)
    return Counter(f"other files (*{printable(suffix)})" for suffix in suffixes)
