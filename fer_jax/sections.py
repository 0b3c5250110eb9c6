"""Sections of the configuration: frozen dataclasses that say what each of their keys may be.

They live beside the code that reads them. A new key is one field there, its value in
configs/b2.py, and its use.
"""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any, ClassVar

from fer_jax.errors import UserError

WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


def key(
    low: float | None = None,
    high: float | None = None,
    *,
    choices: Sequence[str] = (),
    neutral: bool = False,
    default: Any = dataclasses.MISSING,
) -> Any:
    """A field of a `Section`: numbers from `low` to `high`, one of `choices`, or any of its type.

    What is `neutral` may change between two starts of one run: it does not change the result.
    """
    rules = {"low": low, "high": high, "choices": choices, "neutral": neutral}
    return dataclasses.field(default=default, metadata=rules)


@dataclasses.dataclass(frozen=True)
class Section:
    """Checks its fields when it is made; UserError names the key as a flag would."""

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """UserError for a value of another type, outside its limits, or none of its choices."""
        kinds = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            if not dataclasses.is_dataclass(kinds[field.name]):
                self._check(field, kinds[field.name], getattr(self, field.name))

    def _check(self, field: dataclasses.Field, kind: Any, value: Any) -> None:
        name, rules = f"{self.section}.{field.name}".lstrip("."), field.metadata
        if not _is(value, kind):
            raise UserError(f"{name}={value!r} must be {WORDS.get(kind, kind)}")
        low, high = rules.get("low"), rules.get("high")
        numbers = value if isinstance(value, tuple) else (value,)
        if low is not None and not all(low <= number <= high for number in numbers):  # nor is nan
            raise UserError(f"{name}={value} must be from {low:g} to {high:g}")
        if rules.get("choices") and value not in rules["choices"]:
            raise UserError(f"{name}={value!r} is not one of {', '.join(rules['choices'])}")


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of the type `kind`; a whole number is a number, True is none."""
    if typing.get_origin(kind) is not tuple:
        return type(value) is kind or (kind is float and type(value) is int)
    if not isinstance(value, tuple):
        return False
    items = typing.get_args(kind)
    kinds = [items[0]] * len(value) if items[-1] is Ellipsis else items
    return len(kinds) == len(value) and all(map(_is, value, kinds))
