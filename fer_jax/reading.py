"""The flags of commands that read a data set as it lies there, without splitting it."""

import dataclasses
from collections.abc import Callable
from typing import Any

from absl import flags

from fer_jax.data.records import ReadOptions

flags.disclaim_key_flags()  # they belong to the command, whose --help lists them


class FlagOptions(ReadOptions):
    """The same options, called by their flags in messages."""

    prefix = "--"


def as_flags(options: ReadOptions) -> ReadOptions:
    """Options of a configuration, called by the flags that a command has for them."""
    names = (field.name for field in dataclasses.fields(ReadOptions))
    return FlagOptions(**{name: getattr(options, name) for name in names})


def define(on_corrupt: str | None = None) -> Callable[[], ReadOptions]:
    """Define them in the calling module; -> a function that says what they were set to.

    Without `on_corrupt`, the user chooses that too.
    """
    order = "What numbers mean: angry,disgust,... from 0, 1:angry,... from 1."
    mapped = "Other classes: contempt:none,joy:happy leaves one out, renames one."
    corrupt = "What to do about images that cannot be read."
    given: dict[str, flags.FlagHolder] = {
        "label_order": flags.DEFINE_string("label_order", "", order),
        "map": flags.DEFINE_string("map", "", mapped),
        "max_pixels": flags.DEFINE_integer("max_pixels", 2**24, "Larger images are unreadable."),
    }
    if on_corrupt is None:
        given["on_corrupt"] = flags.DEFINE_enum("on_corrupt", "stop", ["stop", "skip"], corrupt)
    fixed: dict[str, Any] = {"validation_fraction": 0.0, "split_seed": 0, "exclude": ""}
    fixed |= {"on_corrupt": on_corrupt, "cache_mib": 1024}
    return lambda: FlagOptions(**fixed | {name: flag.value for name, flag in given.items()})
