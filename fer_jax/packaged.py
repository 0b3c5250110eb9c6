"""What travels with the package: the shipped weights and configs, installed or in a checkout."""

import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parent


def find(folder: str, name: str) -> pathlib.Path:
    """The file `name` of `weights` or `configs`: inside the package, or beside it in a checkout."""
    inside = PACKAGE / folder / name
    return inside if inside.exists() else PACKAGE.parent / folder / name


def config(name: str) -> str:
    """`b2` -> the path of the packaged b2.py; whatever else is given, as it is."""
    found = find("configs", f"{name}.py")
    plain = pathlib.PurePath(name).name == name and not name.endswith(".py")
    return str(found) if plain and found.is_file() else name
