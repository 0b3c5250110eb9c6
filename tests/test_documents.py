"""What the documents point to is there for whoever has the repository."""

import re
import subprocess
from pathlib import Path

import pytest
from support import ROOT


def kept_files() -> list[str]:
    listing = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git repository")
    return listing.stdout.splitlines()


def test_every_link_leads_to_a_file_of_the_repository():
    kept, lost = kept_files(), []
    known = {*kept, *(str(parent) for name in kept for parent in Path(name).parents)}
    for name in kept:
        if name.endswith(".md"):
            for link in re.findall(r"\]\(([^)#:\s]+)[^):\s]*\)", (ROOT / name).read_text()):
                place = (ROOT / name).parent.joinpath(link).resolve().relative_to(ROOT.resolve())
                lost += [f"{name}: {link}"] * (str(place) not in known)
    assert not lost
