"""File names -> roles, labels, keys and rows: class folders, in folders of splits or bare."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from fer_jax.data.classes import Classes
from fer_jax.data.files import kinds, printable
from fer_jax.data.images import SUFFIXES
from fer_jax.data.records import Entry, Listing
from fer_jax.errors import UserError

ROLE_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "publictest"), "validation"),
    **dict.fromkeys(("test", "testing", "privatetest"), "test"),
}
"""What splits are called, as folders, files or in a column, whatever the case."""

_PREFIX = re.compile(r"(training|publictest|privatetest)[_-]", re.IGNORECASE)
LARGEST_ROW = 2**31 - 1


@dataclass(frozen=True)
class _Place:
    """One file in its role and class folder; `inside` is its path below the data set's root."""

    name: str
    root: tuple[str, ...]
    inside: tuple[str, ...]
    role: str
    folder: str


def find_images(names: Sequence[str], here: str, classes: Classes) -> Listing | None:
    """The layout that `names` follow, or None if they follow none.

    `here` is the name of the folder looked at: pointed at `validation/` itself, it is the role.
    """
    parts = {name: _parts(name) for name in names}
    places, stray = _in_role_folders(parts)
    if places:
        _check_no_other_split(parts, places, classes)
    else:
        places = _in_class_folders(parts, ROLE_NAMES.get(here.lower(), "train"), classes)
    if not places:
        return None
    places, notes = _one_root(places)
    labels = {folder: classes.label(folder) for folder in sorted({p.folder for p in places})}
    notes += classes.check_numbers(labels)
    used = {place.name for place in places} | {name for name, _ in stray}
    kept = [place for place in places if labels[place.folder] is not None]
    notes += left_out(place.folder for place in places if labels[place.folder] is None)
    moved = _disagreements(places)
    if moved:
        notes += (f"{moved} files are placed by their name's prefix, against their folder",)
    ignored = kinds(name for name in names if name not in used)
    return Listing(_layout_name(places), _entries(kept, labels), ignored, stray, notes)


def role_of(name: str) -> str | None:
    """The split that a file's name tells: `data/test-00000-of-00001.parquet` -> `"test"`."""
    *folders, base = name.lower().split("/")
    words = [part for part in folders if part in ROLE_NAMES] + re.split(r"[-_. ]", base)
    found = {ROLE_NAMES[word] for word in words if word in ROLE_NAMES}
    return found.pop() if len(found) == 1 else None


def labelled(
    layout: str,
    found: Iterable[tuple[Entry, str]],
    classes: Classes,
    stray: Sequence[tuple[str, str]] = (),
) -> Listing:
    """Entries, their class as the source writes it, with labels; stray where it means none."""
    rows, bad = list(found), list(stray)
    notes = classes.check_numbers(given for _, given in rows)
    entries, skipped = [], []
    for entry, given in rows:
        try:
            label = classes.label(given)
        except UserError as error:
            bad.append((entry.ref, str(error)))
            continue
        if label is None:
            skipped.append(given)
        else:
            entries.append(replace(entry, label=label))
    return Listing(layout, entries, stray=bad, notes=notes + left_out(skipped))


def left_out(names: Iterable[str]) -> tuple[str, ...]:
    """A note for each class that a map leaves out: how many images."""
    return tuple(
        f"{count} image{'s' if count > 1 else ''} of {printable(name)} left out, as map says"
        for name, count in sorted(Counter(names).items())
    )


def row_number(stem: str) -> int:
    """`"00012"` -> 12; -1 if it is not all digits or beyond int32."""
    if not (stem.isascii() and stem.isdigit()) or len(stem) > 10:
        return -1
    return int(stem) if int(stem) <= LARGEST_ROW else -1


def row_key(row: int, largest: int) -> str:
    """A row as a key that sorts by number: five digits, more if the largest row needs them."""
    return f"{row:0{max(5, len(str(largest)))}d}"


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _in_role_folders(
    parts: dict[str, tuple[str, ...]],
) -> tuple[list[_Place], tuple[tuple[str, str], ...]]:
    """Files at ROOT/role/class/..., and images that lie in a role but in no class."""
    places, stray = [], []
    for name, path in parts.items():
        depth = next((i for i, part in enumerate(path[:-1]) if part.lower() in ROLE_NAMES), None)
        if depth is None:
            continue
        role = ROLE_NAMES[path[depth].lower()]
        if len(path) > depth + 2:
            places.append(_Place(name, path[:depth], path[depth:], role, path[depth + 1]))
        elif path[-1].lower().endswith(SUFFIXES):
            stray.append((printable(name), "lies in no class folder"))
    return places, tuple(stray) if places else ()


def _check_no_other_split(
    parts: dict[str, tuple[str, ...]], places: Sequence[_Place], classes: Classes
) -> None:
    """UserError for class folders beside the known splits, in a folder of another name."""
    roots, used = {place.root for place in places}, {place.name for place in places}
    for name, path in parts.items():
        if name in used or len(path) < 3 or path[:-3] not in roots:
            continue
        if path[-1].lower().endswith(SUFFIXES) and _is_class(path[-2], classes):
            raise UserError(
                f"{printable('/'.join(path[:-2]))} holds class folders, but no split is called so: "
                f"rename it to one of {', '.join(ROLE_NAMES)}, or move it away"
            )


def _in_class_folders(
    parts: dict[str, tuple[str, ...]], role: str, classes: Classes
) -> list[_Place]:
    """Files at ROOT/class/name where two or more folders of a ROOT bear class names."""
    roots: dict[tuple[str, ...], set[str]] = {}
    for path in parts.values():
        if len(path) >= 2 and _is_class(path[-2], classes):
            roots.setdefault(path[:-2], set()).add(path[-2])
    found = {root for root, folders in roots.items() if len(folders) > 1}
    return [
        _Place(name, path[:-2], path[-2:], role, path[-2])
        for name, path in parts.items()
        if len(path) >= 2 and path[:-2] in found
    ]


def _is_class(folder: str, classes: Classes) -> bool:
    """Whether it is a known class, or a single digit of which nobody said what it means."""
    try:
        classes.label(folder)
    except UserError:
        return not classes.order and len(folder) == 1 and folder in "012345678"
    return True


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


def _entries(places: Sequence[_Place], labels: dict[str, int | None]) -> tuple[Entry, ...]:
    """Rows are known if every stem is a number of its own; else the path is the key."""
    rows = [row_number(place.inside[-1].rsplit(".", 1)[0]) for place in places]
    known = min(rows, default=-1) >= 0 and len(set(rows)) == len(rows)
    largest = max(rows, default=0)
    entries = tuple(
        Entry(
            ref=place.name,
            role=_role(place),
            label=label,
            key=row_key(row, largest) if known else printable("/".join(place.inside)),
            row=row if known else -1,
        )
        for place, row in zip(places, rows, strict=True)
        if (label := labels[place.folder]) is not None
    )
    for key, count in Counter(entry.key for entry in entries).most_common(1):
        if count > 1:
            raise UserError(f"{count} files are one name once written alike, {key}: rename them")
    return entries


def _role(place: _Place) -> str:
    """The official split that a file's name tells, else its folder's role."""
    prefix = _PREFIX.match(place.inside[-1])
    return ROLE_NAMES[prefix[1].lower()] if prefix else place.role


def _disagreements(places: Sequence[_Place]) -> int:
    """Names that contradict their folder; PublicTest in `test/` is how Kaggle packs it."""
    pairs = ((place.role, _role(place)) for place in places)
    return sum(
        folder != name and (folder, name) != ("test", "validation") for folder, name in pairs
    )


def _layout_name(places: Sequence[_Place]) -> str:
    if all(place.folder == place.inside[0] for place in places):
        return "class folders"
    official = any(_PREFIX.match(place.inside[-1]) for place in places)
    seed = not official and "validation" in {place.role for place in places}
    return "seed folders" if seed else "Kaggle folders"
