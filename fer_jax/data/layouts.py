"""File names -> roles, labels, keys and rows: class folders, and RAF-DB's list of images."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fer_jax.data import files
from fer_jax.data.classes import Classes
from fer_jax.data.files import kinds
from fer_jax.data.images import SUFFIXES
from fer_jax.data.records import Entry, Listing, ReadOptions
from fer_jax.errors import UserError, printable

ROLE_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "publictest"), "validation"),
    **dict.fromkeys(("test", "testing", "privatetest"), "test"),
}
"""What splits are called, as folders, files or in a column, whatever the case."""

LARGEST_ROW = 2**31 - 1
RAFDB_LISTS = ("list_patition_label.txt", "list_partition_label.txt")
RAFDB_ORDER = "1:surprise,fear,disgust,happy,sad,angry,neutral"

_PREFIX = re.compile(r"(training|publictest|privatetest)[_-]", re.IGNORECASE)
_RAFDB_LINE = re.compile(r"((train|test)_\w+)(\.\w+)\s+(\d+)", re.ASCII)

Parts = tuple[str, ...]
"""Of a file's path."""


# ---- what every layout needs -------------------------------------------------------------------


def role_of(name: str) -> str | None:
    """The split that a file's name tells: `data/test-00000-of-00001.parquet` -> `"test"`."""
    *folders, base = name.lower().split("/")
    words = [part for part in folders if part in ROLE_NAMES] + re.split(r"[-_. ]", base)
    found = {ROLE_NAMES[word] for word in words if word in ROLE_NAMES}
    return found.pop() if len(found) == 1 else None


def row_number(stem: str) -> int:
    """`"00012"` -> 12; -1 if it is not all digits or beyond int32."""
    digits = stem.isascii() and stem.isdigit() and len(stem) <= 10
    return int(stem) if digits and int(stem) <= LARGEST_ROW else -1


def row_key(row: int, largest: int) -> str:
    """A row as a key that sorts by number: five digits, more if the largest row needs them."""
    return f"{row:0{max(5, len(str(largest)))}d}"


def labelled(
    layout: str,
    found: Sequence[tuple[Entry, str]],
    classes: Classes,
    stray: Sequence[tuple[str, str]] = (),
    ignored: Iterable[str] = (),
    notes: Sequence[str] = (),
) -> Listing:
    """Entries, their class as the source writes it, with labels; stray where it means none.

    UserError where two have one key.
    """
    for key, count in Counter(entry.key for entry, _ in found).most_common(1):
        if count > 1:
            raise UserError(f"{count} images are {key}, once written alike: rename or list it once")
    notes = (*notes, *classes.check_numbers(given for _, given in found))
    entries, bad, skipped = [], list(stray), Counter[str]()
    for entry, given in found:
        try:
            label = classes.label(given)
        except UserError as error:
            bad.append((entry.ref, str(error)))
            continue
        if label is None:
            skipped[given] += 1
        else:
            entries.append(replace(entry, label=label))
    notes += tuple(
        f"{count} image{'s' if count > 1 else ''} of {printable(name)} left out, as map says"
        for name, count in sorted(skipped.items())
    )
    bad = [(printable(name), reason) for name, reason in bad]
    return Listing(layout, entries, kinds(ignored), bad, notes)


# ---- class folders -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """One file in its role and class folder; `inside` is its path below the data set's root."""

    name: str
    root: Parts
    inside: Parts
    folder_role: str
    folder: str

    @property
    def role(self) -> str:
        """The official split where the file's name tells it, else the folder's."""
        prefix = _PREFIX.match(self.inside[-1])
        return ROLE_NAMES[prefix[1].lower()] if prefix else self.folder_role


def find_images(names: Sequence[str], here: str, classes: Classes) -> Listing | None:
    """The layout that `names` follow, or None if they follow none.

    `here` is the name of the folder looked at: pointed at `validation/` itself, it is the role.
    """
    parts = {
        name: tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
        for name in names
    }
    places, stray = _in_role_folders(parts, classes)
    layout = "split folders" if places else "class folders"
    places = places or _in_class_folders(parts, ROLE_NAMES.get(here.lower(), "train"), classes)
    if not places:
        return None

    places, notes = _one_root(places)
    for folder in sorted({place.folder for place in places}):
        classes.label(folder)  # of a folder, unlike a row, one that is unknown is refused
    found = [(entry, place.folder) for entry, place in zip(_entries(places), places, strict=True)]
    used = {place.name for place in places} | {name for name, _ in stray}
    ignored = [name for name in names if name not in used]
    # PublicTest in `test/` is how Kaggle packs it; other names against their folder are told
    roles = [(place.folder_role, place.role) for place in places]
    moved = sum(a != b and (a, b) != ("test", "validation") for a, b in roles)
    if moved:
        notes.append(f"{moved} files are placed by their name's prefix, against their folder")
    return labelled(layout, found, classes, stray, ignored, notes)


def _in_role_folders(
    parts: Mapping[str, Parts], classes: Classes
) -> tuple[list[_Place], list[tuple[str, str]]]:
    """Files at ROOT/role/class/..., and images that lie in a role but in no class.

    UserError for class folders beside the known splits, in a folder of another name.
    """
    places, stray, others = [], [], []
    for name, path in parts.items():
        is_role = [part.lower() in ROLE_NAMES for part in path]
        # of `train/train/angry/1.png` the folder that is next to the class
        depths = (i for i in range(len(path) - 1) if is_role[i] and not is_role[i + 1])
        depth = next(depths, None)
        if depth is not None and len(path) > depth + 2:
            role = ROLE_NAMES[path[depth].lower()]
            places.append(_Place(name, path[:depth], path[depth:], role, path[depth + 1]))
        elif path and path[-1].lower().endswith(SUFFIXES):
            if depth is None:
                others.append(path)
            else:
                stray.append((name, "lies in no class folder"))
    roots = {place.root for place in places}
    for path in others:
        if len(path) > 2 and path[:-3] in roots and _is_class(path[-2], classes):
            folder, known = printable("/".join(path[:-2])), ", ".join(ROLE_NAMES)
            raise UserError(
                f"{folder} holds class folders, but is no split: call it one of {known}"
            )
    return places, stray if places else []


def _in_class_folders(parts: Mapping[str, Parts], role: str, classes: Classes) -> list[_Place]:
    """Files at ROOT/class/name where two or more folders of a ROOT bear class names."""
    in_folders = {name: path for name, path in parts.items() if len(path) > 1}
    known = {path[:-1] for path in in_folders.values() if _is_class(path[-2], classes)}
    roots = Counter(folder[:-1] for folder in known)
    return [
        _Place(name, path[:-2], path[-2:], role, path[-2])
        for name, path in in_folders.items()
        if roots[path[:-2]] > 1
    ]


def _is_class(folder: str, classes: Classes) -> bool:
    """Whether it is a known class, or a single digit of which nobody said what it means."""
    try:
        classes.label(folder)
    except UserError:
        return not classes.order and len(folder) == 1 and folder in "012345678"
    return True


def _one_root(places: Sequence[_Place]) -> tuple[list[_Place], list[str]]:
    """The shallowest data set, if the others are its copies; UserError if they are not."""
    roots: dict[Parts, list[_Place]] = {}
    for place in places:
        roots.setdefault(place.root, []).append(place)
    first, *others = sorted(roots, key=lambda root: (len(root), root))
    names = {root: printable("/".join(root)) or "." for root in roots}
    for other in others:
        if {place.inside for place in roots[other]} != {place.inside for place in roots[first]}:
            both = f"{names[first]} and {names[other]}"
            raise UserError(f"two different data sets, in {both}: give the path of one")
    again = "holds the same file names again and is not read"
    return roots[first], [f"{names[root]} {again}" for root in others]


def _entries(places: Sequence[_Place]) -> list[Entry]:
    """Rows are known if every stem is a number of its own; else the path is the key."""
    rows = [row_number(place.inside[-1].rsplit(".", 1)[0]) for place in places]
    if min(rows) >= 0 and len(set(rows)) == len(rows):
        largest = max(rows)
        keys = [row_key(row, largest) for row in rows]
    else:
        rows, keys = [-1] * len(rows), [printable("/".join(place.inside)) for place in places]
    return [
        Entry(place.name, place.role, -1, key, row)
        for place, key, row in zip(places, keys, rows, strict=True)
    ]


# ---- RAF-DB ------------------------------------------------------------------------------------


def find_rafdb(tree: files.Tree, names: Sequence[str], options: ReadOptions) -> Listing | None:
    """The images that the list names, aligned where there are such; None where no list lies."""
    lists = [name for name in names if name.rsplit("/", 1)[-1] in RAFDB_LISTS]
    if len(lists) != 1:
        return None
    with files.opened(tree, lists[0]) as stream:
        lines = stream.read().decode("utf-8", "replace").split("\n")

    # Names may stand for an image as it was found and for one that was cut out and turned.
    places = {_stem(name): name for name in names}
    found, stray = [], []
    for line in filter(None, map(str.strip, lines)):
        parts = _RAFDB_LINE.fullmatch(line)
        place = parts and (places.get(f"{parts[1]}_aligned") or places.get(parts[1]))
        if parts and place:
            found.append((Entry(place, parts[2], -1, parts[1] + parts[3], -1), parts[4]))
        else:
            stray.append((line.split()[0], "not there, though it is listed"))

    unused = {*names} - {entry.ref for entry, _ in found} - {*lists}
    classes = replace(options, label_order=options.label_order or RAFDB_ORDER).classes()
    return labelled("RAF-DB", found, classes, stray, unused)


def _stem(name: str) -> str:
    return name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
