"""The flags of commands that read a data set."""

import dataclasses
from collections.abc import Callable
from typing import Any

from absl import flags

from fer_jax.data.records import ReadOptions

flags.disclaim_key_flags()  # they belong to the command, whose --help lists them

AS_THEY_LIE = ReadOptions(
    label_order="",
    on_corrupt="stop",
    validation_fraction=0.0,
    split_seed=0,
    max_pixels=2**24,
    cache_mib=1024,
    exclude="",
    map="",
)


def define() -> Callable[..., ReadOptions]:
    """Define them in the calling module -> a function that lays what they say over `base`.

    `changes` are the command's own, which flags precede.
    """
    order = "What numbers mean: angry,disgust,... from 0, 1:angry,... from 1."
    mapped = "Other classes: contempt:none,joy:happy leaves one out, renames one."
    pixels = "Larger images are unreadable; 2**24 by default."
    corrupt = "Where images cannot be read; by default the audit skips, others stop."
    given: dict[str, flags.FlagHolder] = {
        "label_order": flags.DEFINE_string("label_order", None, order),
        "map": flags.DEFINE_string("map", None, mapped),
        "max_pixels": flags.DEFINE_integer("max_pixels", None, pixels),
        "on_corrupt": flags.DEFINE_enum("on_corrupt", None, ["stop", "skip"], corrupt),
    }

    def said(base: ReadOptions = AS_THEY_LIE, **changes: Any) -> ReadOptions:
        kept = {field.name: getattr(base, field.name) for field in dataclasses.fields(ReadOptions)}
        told = {name: flag.value for name, flag in given.items() if flag.value is not None}
        return ReadOptions(**kept | changes | told)

    return said
