"""The licence of every package that an install brings: `python -m experiments.licences`.

Read from what is installed here, so from the pinned versions; writes docs/licences.md.
"""

import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
HEAD = f"""# Licences

What `pip install '.[faces]'` installs on Python {PYTHON}, and the licences that the packages
declare; direct dependencies are in bold. On other Pythons some versions differ (`constraints.txt`).
Written by `python -m experiments.licences`.

| package | version | licence |
|---|---|---|
"""


def main() -> None:
    """Write the page."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = [*project["dependencies"], *project["optional-dependencies"]["faces"]]
    PAGE.write_text(HEAD + "".join(f"| {line} |\n" for line in rows(direct)))
    print(f"wrote {PAGE}")


def rows(direct: Sequence[str]) -> list[str]:
    """Name, version and licence of `direct` and of all that they need, ascending."""
    bold = {normal(Requirement(line).name) for line in direct}
    found = dict(walk(direct))
    return [
        f"{f'**{name}**' if name in bold else name} | {found[name].version} | "
        f"{licence(found[name])}"
        for name in sorted(found)
    ]


def walk(lines: Sequence[str], extras: Sequence[str] = ()) -> Iterator[tuple[str, Distribution]]:
    """What requirements `lines` of a package with `extras` bring here, with all its needs."""
    seen, left = set(), [(line, tuple(extras)) for line in lines]
    while left:
        line, extras = left.pop()
        wanted = Requirement(line)
        if wanted.marker and not any(wanted.marker.evaluate({"extra": e}) for e in (*extras, "")):
            continue
        found = distribution(wanted.name)
        yield normal(wanted.name), found
        if (key := (normal(wanted.name), *sorted(wanted.extras))) not in seen:
            seen.add(key)
            left += [(need, tuple(wanted.extras)) for need in found.requires or ()]


def licence(found: Distribution) -> str:
    """What the package declares: its expression, else its classifiers, else its first line."""
    about = found.metadata
    names = [c.split(" :: ")[-1] for c in about.get_all("Classifier", []) if "License ::" in c]
    names = [name for name in names if name != "OSI Approved"]
    told = about.get("License-Expression") or ", ".join(names) or about.get("License") or ""
    return told.strip().partition("\n")[0][:60] or "not declared"


def normal(name: str) -> str:
    """As registries write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
