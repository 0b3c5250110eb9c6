"""What travels with the package: the shipped weights and configs, installed or in a checkout."""

import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parent


def find(folder: str, name: str) -> pathlib.Path:
    """The file `name` of `weights` or `configs`: inside the package, or beside it in a checkout."""
    inside = PACKAGE / folder / name
    return inside if inside.exists() else PACKAGE.parent / folder / name


def named_config(argument: str) -> str:
    """`--config=b2` -> that of the packaged b2.py; every other argument as it is."""
    flag, _, name = argument.partition("=")
    path = find("configs", f"{name}.py")
    packaged = flag == "--config" and pathlib.PurePath(name).name == name and path.is_file()
    return f"{flag}={path}" if packaged and not pathlib.Path(name).exists() else argument
