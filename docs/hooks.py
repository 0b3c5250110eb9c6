"""What the site has beside `docs/`: the README as its first page, and the files linked to.

Links are written for the repository. Those that leave `docs/` lead to copies in `repository/`.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("CHANGELOG.md", "CONTRIBUTING.md", "weights/README.md", "experiments/*.md")
RESULTS = ("*.md", "*.png", "*.json")
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)")


def on_files(files: Files, config: Any) -> Files:
    """Add the README and what pages link to outside `docs/`."""
    results = (ROOT / "experiments/results").rglob
    paths = [path for name in COPIED for path in ROOT.glob(name)]
    paths += [path for name in RESULTS for path in results(name)]
    for path in sorted(paths):
        name = f"repository/{path.relative_to(ROOT).as_posix()}"
        files.append(File.generated(config, name, abs_src_path=str(path)))
    files.append(File.generated(config, "index.md", content=_first_page()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links from `docs/` to what lies above it, and from copies in `repository/` back."""
    place = page.file.src_uri
    if place.startswith("repository/"):
        up = "../" * (place.count("/") - 1)
        return markdown.replace(f"]({up}docs/", f"](../{up}")
    above, here = "../" * (place.count("/") + 1), "../" * place.count("/")
    markdown = markdown.replace(f"]({above}README.md", f"]({here}index.md")
    return markdown.replace(f"]({above}", f"]({here}repository/")


def _first_page() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return LINK.sub("repository/", text).replace("](repository/docs/", "](")
