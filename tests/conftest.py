"""Fixtures that more than one test file uses."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def fer2013() -> Path:
    """The real FER2013 data: the variable FER2013, or ../shared/data/fer2013 beside the project."""
    path = Path(os.environ.get("FER2013") or ROOT.parent / "shared" / "data" / "fer2013")
    if not path.exists():
        pytest.skip(f"no real data at {path}: set FER2013 to where it lies")
    return path
