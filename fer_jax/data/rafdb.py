"""RAF-DB as it is handed out: images in one folder, labels from 1 in list_patition_label.txt."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fer_jax.data import files
from fer_jax.data.layouts import labelled
from fer_jax.data.records import Entry, Listing, ReadOptions

LISTS = ("list_patition_label.txt", "list_partition_label.txt")
ORDER = "1:surprise,fear,disgust,happy,sad,angry,neutral"
_LINE = re.compile(r"((train|test)_\w+)(\.\w+)\s+(\d+)", re.ASCII)


def find_listed(tree: files.Tree, names: Sequence[str], options: ReadOptions) -> Listing | None:
    """The images that the list names, aligned where there are such; None where no list lies."""
    lists = [name for name in names if name.rsplit("/", 1)[-1] in LISTS]
    if len(lists) != 1:
        return None
    with files.opened(tree, lists[0]) as stream:
        lines = stream.read().decode("utf-8", "replace").split("\n")

    # Names may stand for an image as it was found and for one that was cut out and turned.
    places = {_stem(name): name for name in names}
    found, stray = [], []
    for line in filter(None, map(str.strip, lines)):
        parts = _LINE.fullmatch(line)
        place = parts and (places.get(f"{parts[1]}_aligned") or places.get(parts[1]))
        if not parts or not place:
            reason = "not there, though it is listed" if parts else "a line of no image and label"
            stray.append((files.printable(line.split()[0]), reason))
        else:
            found.append((Entry(place, parts[2], -1, parts[1] + parts[3], -1), parts[4]))

    read = {entry.ref for entry, _ in found} | set(lists)
    doubled = {name for name in names if f"{_stem(name)}_aligned" in places and name not in read}
    ignored = files.kinds(set(names) - read - doubled) + Counter({"original images": len(doubled)})
    classes = replace(options, label_order=options.label_order or ORDER).classes()
    return replace(labelled("RAF-DB", found, classes, stray), ignored=ignored)


def _stem(name: str) -> str:
    return name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
