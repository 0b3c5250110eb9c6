"""An audit in words: its verdicts, one line each, and the report around them."""

from collections.abc import Mapping, Sequence
from typing import Any

from fer_jax.auditing.pictures import PICTURES

SHOWN = 12
"""Rows of a list that the report prints; audit.json has all."""
Facts = Mapping[str, Any]


def verdicts(facts: Facts) -> list[str]:
    """What to know, one line each, mistakes first."""
    lines = [
        *_exchanged(facts),
        _recognised(facts),
        *_leaked(facts),
        _copied(facts),
        f"{_n(facts['conflicts'])} photographs have copies with two labels",
        f"{_n(facts['unreadable'])} unreadable files, {_n(facts['blank'])} blank images",
        *_voted(facts),
    ]
    if not facts["all_compared"]:
        lines.append("so many pairs look alike that only the nearest were compared")
    return lines


def markdown(facts: Facts, drawn: Sequence[str]) -> str:
    """The report; `drawn` names the pictures beside it."""
    parts = [
        f"# Audit of `{facts['data']}`",
        "\n".join(f"- {line}" for line in verdicts(facts)),
        "## Images per class",
        _counts(facts),
        *_differences(facts),
        "## Class names",
        _names(facts),
        "## Copies",
        _copies(facts),
        _limits(facts),
        *(_picture(name) for name in drawn if name in _COPIES),
        "## Conflicting labels",
        _conflicts(facts),
        *(_picture(name) for name in drawn if name == "conflicts.png"),
        "## Unreadable, blank, no face",
        _unusable(facts),
        *(_picture(name) for name in drawn if name in ("blank.png", "no_face.png")),
        "## Lists of training images",
        _lists(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_COPIES = ("distances.png", "exact_copies.png", "near_copies.png", "mirrored_copies.png")


def _exchanged(facts: Facts) -> list[str]:
    """Everything that says that names are exchanged: pictures, counts, votes."""
    lines = [
        f"EXCHANGED NAMES: to the eye of a classifier trained on train, {_moves(fit)} in {split} "
        f"({fit['gain_in_standard_errors']:.1f} standard errors)"
        for split, fit in facts["names"].items()
        if fit and fit["verdict"] == "exchanged"
    ]
    for split, names in facts["known"]["exchanged"].items():
        lines.append(
            f"EXCHANGED NAMES: the counts of {split} are {facts['known']['name']}'s if "
            + _list(f"{called} means {counted}" for called, counted in names.items())
        )
    for split, fit in (facts["ferplus"] or {"names": {}})["names"].items():
        if fit and fit["verdict"] == "exchanged":
            lines.append(f"EXCHANGED NAMES: by FER+'s votes, {_moves(fit)} in {split}")
    return lines


def _moves(fit: Facts) -> str:
    return _list(f"{called} looks like {other}" for called, other in fit["looks_like"].items())


def _recognised(facts: Facts) -> str:
    known = facts["known"]
    if known["name"] is None:
        return "no data set that is known by its counts"
    without = f", without its {_list(known['missing'])}" if known["missing"] else ""
    if known["same"]:
        return f"by its counts {known['name']}{without}"
    apart = sum(abs(n) for part in known["differences"].values() for n in part)
    return f"by its counts like {known['name']}{without}, but {apart:,} images more or fewer"


def _leaked(facts: Facts) -> list[str]:
    """Held-out images that training sees."""
    leaks = facts["leaks"]
    return [
        f"{leaks['exact'][split]:,} of {sum(counts):,} images of {split} have an exact copy in "
        f"train, {leaks['near'][split]:,} an exact or near one, {leaks['mirrored'][split]:,} if "
        "mirrored ones count"
        for split, counts in facts["counts"].items()
        if split != "train" and "train" in facts["counts"]
    ]


def _copied(facts: Facts) -> str:
    images = sum(len(group) for group in facts["exact_copies"])
    return (
        f"{_n(facts['exact_copies'])} groups of exact copies ({images:,} images), "
        f"{_n(facts['near_copies'])} near pairs beside them, "
        f"{_n(facts['mirrored_copies'])} mirrored"
    )


def _voted(facts: Facts) -> list[str]:
    votes = facts["ferplus"]
    if votes is None:
        return []
    if votes["images"] == 0:
        return ["FER+ cannot be joined: the rows of fer2013.csv are not known in this layout"]
    share = votes["label_among_most_voted"] / max(votes["judged"], 1)
    return [
        f"FER+: {_n(votes['no_face'])} of {votes['images']:,} images show no face; the label is "
        f"among the most voted for {share:.1%} of the others"
    ]


def _counts(facts: Facts) -> str:
    rows = [
        (split, *(f"{n:,}" for n in counts), f"{sum(counts):,}")
        for split, counts in facts["counts"].items()
    ]
    return _table(("split", *facts["label_names"], "all"), rows)


def _differences(facts: Facts) -> list[str]:
    known = facts["known"]
    rows = [
        (split, *(f"{n:+,}" if n else "0" for n in part), f"{sum(part):+,}")
        for split, part in known["differences"].items()
        if any(part)
    ]
    table = _table(("split", *facts["label_names"], "all"), rows)
    return [f"More (+) or fewer than {known['name']}:", table] if rows else []


def _names(facts: Facts) -> str:
    if not facts["names"]:
        return "Only one split: nothing to compare its class names with."
    lines = [_name_line(split, fit) for split, fit in facts["names"].items()]
    lines.append(
        "A linear classifier of edges learns train's classes and reads the other split; of all "
        "namings of the classes the one that fits best is compared with the names as they stand. "
        "Folders that are exchanged alike in every split show only in the counts and by FER+."
    )
    return "\n\n".join(lines)


def _name_line(split: str, fit: Facts | None) -> str:
    if fit is None:
        return f"- {split}: too few images to say."
    margin = f"{fit['margin_in_standard_errors']:.1f} standard errors before the next best naming"
    if fit["verdict"] == "agree":
        return f"- {split}: the names agree with train's ({margin})."
    if fit["verdict"] == "exchanged":
        return f"- {split}: **{_moves(fit)}** ({margin})."
    doubtful = _list(fit["runner_up_differs_in"])
    return f"- {split}: undecided; too few images to tell {doubtful} apart ({margin})."


def _copies(facts: Facts) -> str:
    kinds = {"exact": "exact", "near": "exact or near", "mirrored": "exact, near or mirrored"}
    rows = [
        (kinds[kind], *(f"{count:,}" for count in splits.values()))
        for kind, splits in facts["leaks"].items()
    ]
    head = "Images with a copy on the other side, train against the other splits:"
    return f"{head}\n\n{_table(('copy', *facts['counts']), rows)}"


def _limits(facts: Facts) -> str:
    made = [
        f"{name}: {row['images'] - row['beyond_limit']} of {row['images']} found, the farthest at "
        f"{row['largest']:.4f}"
        for name, row in facts["made_copies"].items()
    ]
    return (
        "Near copies show one photograph in another compression, size, light, crop or with another "
        "watermark; their distance is 1 − correlation after the best affine alignment, at most "
        f"{facts['near_limit']:g}. Copies made on purpose from this data: {'; '.join(made)}. "
        f"{facts['compared']:,} pairs were compared. Crops that differ much are not among them, so "
        "these numbers are a lower bound. In the picture the mirrored pairs show where look-alikes "
        "begin: there are as many of them as of look-alikes that are not mirrored."
    )


def _conflicts(facts: Facts) -> str:
    if not facts["conflicts"]:
        return "None."
    exact = sum(conflict["exact"] for conflict in facts["conflicts"])
    rows = [
        ("exact" if conflict["exact"] else "near", _list(map(_image, conflict["images"])))
        for conflict in facts["conflicts"][:SHOWN]
    ]
    head = f"{exact:,} among exact copies, {len(facts['conflicts']) - exact:,} with near ones."
    return f"{head}\n\n{_table(('copies', 'images'), rows)}{_more(facts['conflicts'])}"


def _unusable(facts: Facts) -> str:
    rows = [("unreadable", f"`{row['file']}`: {row['reason']}") for row in facts["unreadable"]]
    rows += [("blank", _image(image)) for image in facts["blank"]]
    shown = _table(("what", "which"), rows[: 2 * SHOWN]) if rows else "None unreadable or blank."
    return f"{shown}{_more(rows, 2 * SHOWN)}"


def _lists(facts: Facts) -> str:
    rows = [(f"`{name}`", f"{count:,}") for name, count in facts["lists"].items()]
    head = "One key per line; held-out images are never listed, their split stays what it is."
    return f"{head}\n\n{_table(('file', 'keys'), rows)}"


def _image(image: Facts) -> str:
    return f"{image['split']} `{image['key']}` {image['label']}"


def _picture(name: str) -> str:
    return f"![{PICTURES[name]}]({name})"


def _more(rows: Sequence[Any], shown: int = SHOWN) -> str:
    return f"\n\nand {len(rows) - shown:,} more in audit.json" if len(rows) > shown else ""


def _n(items: Sequence[Any]) -> str:
    return f"{len(items):,}"


def _list(items: Any) -> str:
    return ", ".join(items)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
