"""The flags of commands that read a data set as it lies there, without splitting it."""

from collections.abc import Callable

from absl import flags

from fer_jax.data.sources import ReadOptions

flags.disclaim_key_flags()  # they belong to the command, whose --help lists them


class FlagOptions(ReadOptions):
    """The same options, called by their flags in messages."""

    prefix = "--"


def define(on_corrupt: str | None = None) -> Callable[[], ReadOptions]:
    """Define them in the calling module; -> a function that says what they were set to.

    Without `on_corrupt`, the user chooses that too.
    """
    label_order = flags.DEFINE_string(
        "label_order", "", "What numbers mean: angry,disgust,... from 0, 1:angry,... from 1."
    )
    mapped = flags.DEFINE_string(
        "map", "", "Other classes: contempt:none,joy:happy leaves one out, renames one."
    )
    max_pixels = flags.DEFINE_integer("max_pixels", 2**24, "Larger images count as unreadable.")
    cache_mib = flags.DEFINE_integer("cache_mib", 1024, "Decoded pixels kept in memory, MiB.")
    corrupt = on_corrupt or flags.DEFINE_enum(
        "on_corrupt", "stop", ["stop", "skip"], "What to do about images that cannot be read."
    )
    return lambda: FlagOptions(
        label_order=label_order.value,
        on_corrupt=corrupt if isinstance(corrupt, str) else corrupt.value,
        validation_fraction=0.0,
        split_seed=0,
        max_pixels=max_pixels.value,
        cache_mib=cache_mib.value,
        exclude="",
        map=mapped.value,
    )
