"""RAF-DB as it is handed out: images in one folder, labels from 1 in list_patition_label.txt."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fer_jax.data import files
from fer_jax.data.layouts import left_out
from fer_jax.data.records import Entry, Listing, ReadOptions
from fer_jax.errors import UserError

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
    classes = replace(options, label_order=options.label_order or ORDER).classes()
    entries, stray, skipped = [], [], []
    for line in filter(None, map(str.strip, lines)):
        found = _LINE.fullmatch(line)
        place = found and (places.get(f"{found[1]}_aligned") or places.get(found[1]))
        if not found or not place:
            reason = "not there, though it is listed" if found else "a line of no image and label"
            stray.append((files.printable(line.split()[0]), reason))
            continue
        try:
            label = classes.label(found[4])
        except UserError as error:
            stray.append((place, str(error)))
            continue
        if label is None:
            skipped.append(found[4])
        else:
            entries.append(Entry(place, found[2], label, found[1] + found[3], -1))

    read = {entry.ref for entry in entries}
    rest = [name for name in names if name not in read and name != lists[0]]
    doubled = [name for name in rest if f"{_stem(name)}_aligned" in places]
    ignored = files.kinds(set(rest) - set(doubled)) + Counter({"original images": len(doubled)})
    return Listing("RAF-DB", entries, ignored, stray, left_out(skipped))


def _stem(name: str) -> str:
    return name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
